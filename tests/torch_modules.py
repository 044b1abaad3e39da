"""Plans with small tiles, and the torch modules generated from them."""

from __future__ import annotations

import dataclasses
import functools
import math
from types import ModuleType

import torch
from dense import Inputs, Result, Shape, blocks_of, graph_of, modifiers_in
from torch import Tensor

from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower_graph
from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.frontend.ast import Expr
from attncomp.ir.graph import Graph
from attncomp.ir.schedule import DtypeName, Problem, Tile
from attncomp.runtime.strides import Kernels, composed

# `{mode}` stands for a gate mode.
PATTERNS = (
    "window(7)",
    "causal",
    "full",
    "first(3) | window(5)",
    "full - window(6)",
    'sparsek(k=6, gate="{mode}")',
    'sparsek(k=6, gate="{mode}") | window(5)',
    'sparsek(k=6, lag=5, gate="{mode}") | window(5)',
    'sparsek(k=6, gate="{mode}") & first(12)',
    'sparsek(k=6, gate="{mode}") - window(4)',
    'sparsek(k=4, gate="{mode}") | sparsek(k=9, lag=6, gate="{mode}")',
    'sparsek(k=9, gate="{mode}") & sparsek(k=5, lag=6, gate="{mode}")',
    '(sparsek(k=9, gate="{mode}") & sparsek(k=5, lag=6, gate="{mode}")) | window(2)'
    ' | sparsek(k=3, lag=9, gate="{mode}")',
)


@functools.cache
def module_of(plan: KernelPlan) -> ModuleType:
    module = ModuleType("generated")
    exec(compile(render(plan), "<generated>", "exec"), module.__dict__)
    return module


def _may_be_full(sweep: SweepPlan) -> bool:
    return sweep.bounds is not None and sweep.bounds.full_keys is not None


def make_plan(
    pattern: str | Expr | Graph,
    shape: Shape,
    *,
    dtype: DtypeName = "float64",
    tile: tuple[int, int] | None = (8, 4),
    full_tiles: bool = True,
) -> KernelPlan:
    """The plan of a pattern, by default with tiles so small that short inputs have many."""
    unit_heads = math.gcd(shape.query_heads // shape.kv_heads, shape.query_heads // shape.groups)
    problem = Problem(
        backend="torch",
        target="cpu",
        dtype=dtype,
        head_dim=shape.head_dim,
        value_dim=shape.value_dim,
        unit_heads=unit_heads,
    )
    graph = graph_of(pattern)
    modifiers = modifiers_in(pattern)
    plan = lower_graph(graph, problem, str(pattern), modifiers)
    if tile is None:
        return plan
    return _tiled(plan, tile, full_tiles)


def _tiled(plan: KernelPlan, tile: tuple[int, int], full_tiles: bool) -> KernelPlan:
    queries, keys = tile
    return dataclasses.replace(
        plan,
        schedule=dataclasses.replace(
            plan.schedule, forward=Tile(queries=queries, keys=keys), segment=2 * queries
        ),
        sweeps=tuple(
            dataclasses.replace(sweep, full_tiles=full_tiles and _may_be_full(sweep))
            for sweep in plan.sweeps
        ),
        strided=tuple(
            dataclasses.replace(part, plan=_tiled(part.plan, tile, full_tiles))
            for part in plan.strided
        ),
    )


def kernels_of(plan: KernelPlan) -> Kernels:
    """The functions of the plan's modules."""
    return composed(plan, lambda module_plan: Kernels.of(module_of(module_plan)))


def run_module(
    plan: KernelPlan,
    inputs: Inputs,
    *,
    scale: float,
    with_lse: bool = True,
    scores: tuple[Tensor, ...] | None = None,
) -> tuple[Result, tuple[Tensor, ...]]:
    """Outputs and gradients of the plan's module, with the gradients of all scores apart."""
    module = kernels_of(plan)
    if scores is None:
        scores = (inputs.scores,) * len(plan.scores)
    state = (*module.select(scores, inputs.q.shape[2]), *blocks_of(plan, inputs))
    out, lse = module.forward(inputs.q, inputs.k, inputs.v, state, scale)
    dq, dk, dv, *dscores = module.backward(
        inputs.dout,
        inputs.dlse if with_lse else None,
        inputs.q,
        inputs.k,
        inputs.v,
        out,
        lse,
        state,
        scale,
    )
    assert len(dscores) == (len(plan.scores) if plan.differentiable_scores else 0)
    for name, gradient in zip(plan.scores, dscores, strict=False):
        used = scores[plan.scores.index(name)]
        assert (gradient.dtype, gradient.shape) == (used.dtype, used.shape)
    total = dscores[0] if dscores else torch.zeros_like(inputs.scores)
    return Result(out=out, lse=lse, dq=dq, dk=dk, dv=dv, dscores=total), tuple(dscores)
