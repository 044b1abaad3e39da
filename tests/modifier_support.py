"""Learned tensors of modifiers, and runs of modules and of the reference with all gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from dense import Inputs, blocks_of, graph_of, modifiers_in
from torch import Tensor

import attncomp
from attncomp.codegen.plan import KernelPlan
from attncomp.frontend.ast import Expr
from attncomp.ir.modifiers import Modifiers, standard_slopes
from attncomp.ir.reference import reference_attention
from attncomp.runtime.strides import Kernels

Results = dict[str, Tensor]
"""out, lse and, by the names of inputs, their gradients."""


def learned_tensors(
    modifiers: Modifiers, heads: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Random tensors for the modifiers of a pattern; slopes are of either sign."""
    return {
        name: torch.randn(
            (heads,) if width is None else (heads, width), generator=generator, dtype=torch.float64
        ).to(dtype)
        for name, width in modifiers.learned
    }


def dense_gradients(
    pattern: str | Expr,
    inputs: Inputs,
    learned: dict[str, Tensor],
    *,
    scale: float,
    with_lse: bool = True,
) -> Results:
    """The reference's results in the dtype of the inputs."""
    leaves = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in {
            **{name: getattr(inputs, name) for name in ("q", "k", "v", "scores")},
            **learned,
        }.items()
    }
    out, lse = reference_attention(
        graph_of(pattern),
        leaves["q"],
        leaves["k"],
        leaves["v"],
        {**inputs.given, **leaves},
        scale,
        modifiers_in(pattern),
    )
    pairs = [(out, inputs.dout)] + ([(lse, inputs.dlse)] if with_lse else [])
    pairs = [(result, grad) for result, grad in pairs if result.requires_grad]
    gradients = torch.autograd.grad(
        [result for result, _ in pairs],
        list(leaves.values()),
        [grad for _, grad in pairs],
        allow_unused=True,
        materialize_grads=True,
    )
    found = dict(zip(leaves, gradients, strict=True))
    return {"out": out.detach(), "lse": lse.detach(), **found}


def module_gradients(
    module: Kernels,
    plan: KernelPlan,
    inputs: Inputs,
    learned: dict[str, Tensor],
    *,
    scale: float,
    with_lse: bool = True,
) -> Results:
    """The same of a plan's modules, whose selections all rank by `inputs.scores`."""
    state = module.select((inputs.scores,) * len(plan.scores), inputs.q.shape[2])
    state = (*state, *blocks_of(plan, inputs))
    real = torch.promote_types(inputs.q.dtype, torch.float32)
    heads = inputs.q.shape[1]
    for name, _ in plan.modifiers.tensors:
        known = name == "standard"
        state += (standard_slopes(heads, dtype=real) if known else learned[name].to(real),)
    out, lse = module.forward(inputs.q, inputs.k, inputs.v, state, scale)
    dlse = inputs.dlse if with_lse else None
    dq, dk, dv, *others = module.backward(
        inputs.dout, dlse, inputs.q, inputs.k, inputs.v, out, lse, state, scale
    )
    names = [*(plan.scores if plan.differentiable_scores else ()), *learned]
    found = {"scores": torch.zeros_like(inputs.scores), **dict(zip(names, others, strict=True))}
    return {"out": out, "lse": lse, "q": dq, "k": dk, "v": dv, **found}


def run(
    spec: str | Expr, backend: str, tensors: dict[str, Tensor], given: Mapping[str, Tensor]
) -> Results:
    """out, lse and the gradients of all floating inputs of a call, which depend on out and lse."""
    leaves: dict[str, Any] = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    pattern = attncomp.compile(spec, backend=backend)
    out, lse = pattern(**leaves, **given, return_lse=True)
    attended = lse[lse > -torch.inf]
    total = out.sin().sum() + attended.cos().sum()
    if total.requires_grad:
        total.backward()
    grads = {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in leaves.items()}
    return {"out": out, "lse": lse} | grads
