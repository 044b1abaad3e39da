"""What the custom ops of attention give, in shapes and dtypes alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.state import state_fields, state_layout
from attncomp.runtime.program import device_plan


def empty_state(
    scores: Sequence[Tensor], n_queries: int, pattern: str, problem: str
) -> list[Tensor]:
    """What `select` gives, uninitialised."""
    plan = device_plan(pattern, problem, scores[0].device)
    batch, _, n_keys = scores[0].shape
    groups = [score.shape[1] for score in scores]
    layout = state_layout(plan, batch, groups, n_queries, n_keys)
    size = len(state_fields(plan))
    real = [_real(scores[plan.scores.index(selection.scores)]) for selection in plan.selections]
    return [
        scores[0].new_empty(
            field.shape, dtype=real[index // size] if field.kind == "float" else torch.int32
        )
        for index, field in enumerate(layout)
    ]


def _real(score: Tensor) -> torch.dtype:
    """The dtype of real fields of the state, and of the gradient of the scores within kernels."""
    return torch.float64 if score.dtype == torch.float64 else torch.float32


def empty_results(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Sequence[Tensor],
    state: Sequence[Tensor],
    scale: float,
    pattern: str,
    problem: str,
) -> tuple[Tensor, Tensor]:
    """What `attend` gives, uninitialised."""
    batch, heads, n_queries, _ = q.shape
    real = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = q.new_empty((batch, heads, n_queries, v.shape[3]))
    return out, q.new_empty((batch, heads, n_queries), dtype=real)


def empty_gradients(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    state: Sequence[Tensor],
    scale: float,
    pattern: str,
    problem: str,
) -> list[Tensor]:
    """What `attend_backward` gives, uninitialised."""
    plan = device_plan(pattern, problem, q.device)
    like = [q, k, v, *gradient_fields(plan, state)]
    return [tensor.new_empty(tensor.shape) for tensor in like]


def gradient_fields(plan: KernelPlan, state: Sequence[Tensor]) -> list[Tensor]:
    """For each score tensor with a gradient, a field of the state with its shape and real dtype.

    Behind them, for each learned tensor of a modifier, its entry in the state.
    """
    learned = list(state[len(state) - len(plan.modifiers.learned) :])
    if not plan.differentiable_scores:
        return learned
    size, names = len(state_fields(plan)), [selection.scores for selection in plan.selections]
    return [*(state[size * names.index(name)] for name in plan.scores), *learned]
