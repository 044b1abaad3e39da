"""What is timed: attncomp's patterns and its peers, all with one interface.

A case is prepared once for a setting and gives what to time; a case that cannot run raises, and
the benchmark records the reason in its row. Peers that are packages of their own are in
`packages.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch._functorch.config
import torch.nn.functional as F
from matrix import Shape as Shape
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from workloads import CAUSAL, Inputs, Workload, all_workloads

import attncomp
from attncomp.runtime.extents import Call
from attncomp.runtime.program import backend_for, problem_text, program
from attncomp.runtime.tables import BlockParts, block_state, list_heads

DENSE: Final = "cuDNN SDPA causal"  # what all others are compared with


@dataclass(frozen=True)
class Parts:
    """What a call consists of, where that can be told apart.

    select is what comes before attention, forward and backward are attention with that at hand.
    """

    select: Callable[[], object] | None = None
    forward: Callable[[], object] | None = None
    backward: Callable[[], object] | None = None


@dataclass(frozen=True)
class Steps:
    """What is timed of a case.

    call goes from the inputs to out [B, Hq, N, D], through the case's public function, with all
    that is selected or built on the way; out can be differentiated in leaves. parts runs the case
    once to give the steps in between.
    """

    call: Callable[[], Tensor]
    leaves: Mapping[str, Tensor]
    dout: Tensor
    parts: Callable[[], Parts] = Parts

    def both(self) -> tuple[Tensor, ...]:
        """The call and its backward: gradients in the order of leaves."""
        return torch.autograd.grad(self.call(), tuple(self.leaves.values()), self.dout)


@dataclass(frozen=True)
class Case:
    """One line of the benchmark. module: the package that it needs.

    quadratic: whether its time may grow with the square of the length. workload is None where no
    definition is at hand to check the results against.
    """

    name: str
    workload: Workload | None
    prepare: Callable[[Inputs], Steps]
    quadratic: bool = False
    module: str | None = None


def leaf(tensor: Tensor) -> Tensor:
    """The same numbers as an input that gets a gradient."""
    return tensor.detach().requires_grad_()


def leaves_of(given: Inputs) -> dict[str, Tensor]:
    """q, k and v."""
    return {"q": leaf(given.q), "k": leaf(given.k), "v": leaf(given.v)}


def pattern_case(workload: Workload) -> Case:
    """A compiled pattern, called as users call it; and its kernels, as that call runs them."""

    def prepare(given: Inputs) -> Steps:
        attend = attncomp.compile(workload.pattern)
        leaves = leaves_of(given)
        tensors = {name: given.tensors[name] for name in attend.tensors}
        if "scores" in tensors:
            leaves["scores"] = tensors["scores"] = leaf(tensors["scores"])
        return Steps(
            call=lambda: attend(leaves["q"], leaves["k"], leaves["v"], **tensors),
            leaves=leaves,
            dout=given.dout,
            parts=lambda: _kernels(attend, given),
        )

    return Case(f"attncomp {workload.pattern}", workload, prepare, workload.quadratic)


def _kernels(attend: attncomp.CompiledPattern, given: Inputs) -> Parts:
    """What a call runs before attention, if anything; the kernels forward and backward."""
    q, k, v = given.q, given.k, given.v
    plan = attend.plan
    scores, parts = tuple(given.tensors[name] for name in plan.scores), BlockParts.of(plan)
    backend = backend_for(attend.backend, q.device.type, q.dtype)
    problem = problem_text(backend, q, k, v, scores, list_heads(parts, given.tensors))
    kernels = program(str(attend), problem, q.device)
    scale = q.shape[-1] ** -0.5

    def select() -> tuple[Tensor, ...]:
        chosen = kernels.select(scores, q.shape[2]) if scores else ()
        return (*chosen, *block_state(parts, Call.of(q, k, given.tensors)))

    state = select()
    out, lse = kernels.forward(q, k, v, state, scale)
    return Parts(
        select if state else None,
        lambda: kernels.forward(q, k, v, state, scale),
        lambda: kernels.backward(given.dout, None, q, k, v, out, lse, state, scale),
    )


def dense_case(name: str, backend: SDPBackend) -> Case:
    """Dense causal attention through scaled_dot_product_attention, by one of its backends."""

    def prepare(given: Inputs) -> Steps:
        leaves = leaves_of(given)
        q, k, v = leaves.values()

        def call() -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        return Steps(call, leaves, given.dout)

    return Case(name, CAUSAL, prepare, quadratic=True)


def flex_case(workload: Workload) -> Case:
    """FlexAttention, attention and block mask both compiled, for this length alone.

    Its call makes the block mask; where several calls share one, the others take what `forward`
    among its parts does.
    """

    def prepare(given: Inputs) -> Steps:
        # Else its backward runs once alone, and cannot be timed apart from the forward.
        torch._functorch.config.donated_buffer = False
        leaves, shape, n = leaves_of(given), given.setting.shape, given.setting.length
        q, k, v = leaves.values()
        make = torch.compile(create_block_mask, dynamic=False)
        attend = torch.compile(flex_attention, dynamic=False)
        sizes = (shape.batch, shape.heads) if workload.by_head else (None, None)

        predicate = workload.mask(given)  # one object: another would be compiled again

        @torch.no_grad()
        def build() -> BlockMask:
            if workload.derive is not None:
                for name, tensor in workload.derive(given.tensors).items():
                    given.tensors[name].copy_(tensor)
            return make(predicate, *sizes, n, n, device=str(given.q.device))

        def attend_with(mask: BlockMask) -> Tensor:
            return attend(q, k, v, block_mask=mask, enable_gqa=True)

        def parts() -> Parts:
            mask = build()
            return Parts(build, lambda: attend_with(mask))

        return Steps(lambda: attend_with(build()), leaves, given.dout, parts)

    return Case(f"FlexAttention {workload.pattern}", workload, prepare, quadratic=True)


def own_cases() -> list[Case]:
    """All patterns, and dense attention beside them."""
    return [
        *map(pattern_case, all_workloads()),
        dense_case(DENSE, SDPBackend.CUDNN_ATTENTION),
        dense_case("FlashAttention SDPA causal", SDPBackend.FLASH_ATTENTION),
    ]


def flex_cases() -> list[Case]:
    """FlexAttention, for the patterns that it can say: those without a selection."""
    return [flex_case(workload) for workload in all_workloads() if workload.selection is None]
