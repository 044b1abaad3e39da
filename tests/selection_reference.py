"""Top-k selections of every prefix by brute force in exact arithmetic: the truth for `select`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.state import state_fields


def split_state(plan: KernelPlan, state: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """The flat state that `select` returns as one mapping from field to tensor a selection."""
    names = state_fields(plan)
    starts = range(0, len(names) * len(plan.selections), len(names))
    return [dict(zip(names, state[start : start + len(names)], strict=True)) for start in starts]


def project(scores: Sequence[Fraction], k: int) -> Fraction:
    """The threshold tau at which the gates clip(u - tau, 0, 1) of more than k scores sum to k.

    Where a range of thresholds does, its upper end, which is theta - 1.
    """

    def total(tau: Fraction) -> Fraction:
        return sum((min(max(u - tau, Fraction(0)), Fraction(1)) for u in scores), Fraction(0))

    points = sorted({point for u in scores for point in (u, u - 1)}, reverse=True)
    low, high = 0, len(points) - 1  # total(points[low]) = 0 < k <= total(points[high])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if total(points[middle]) >= k else (middle, high)
    above, below = total(points[low]), total(points[high])
    return points[high] + (points[low] - points[high]) * (below - k) / (below - above)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The selection among keys 0..t. theta, delta: None while all keys are selected."""

    selected: tuple[int, ...]
    gates: tuple[Fraction, ...]
    theta: Fraction | None
    delta: Fraction | None


def select_prefix(scores: Sequence[float], k: int) -> Prefix:
    """The k best of `scores`, which are finite, and the exact gates of all of them."""
    exact = [Fraction(score) for score in scores]
    best = sorted(range(len(exact)), key=lambda j: (-exact[j], j))[:k]
    if len(exact) <= k:
        gates = (Fraction(1),) * len(exact)
        return Prefix(selected=tuple(sorted(best)), gates=gates, theta=None, delta=None)
    tau = project(exact, k)
    theta = exact[best[-1]]
    return Prefix(
        selected=tuple(sorted(best)),
        gates=tuple(min(max(u - tau, Fraction(0)), Fraction(1)) for u in exact),
        theta=theta,
        delta=theta - tau,
    )


def select_all(scores: Sequence[float], k: int) -> list[Prefix]:
    """The selection of each prefix of one row of scores."""
    return [select_prefix(scores[: t + 1], k) for t in range(len(scores))]


def key_lists(
    prefixes: Sequence[Prefix], n_queries: int, lag: int, span: int
) -> list[tuple[int, ...]]:
    """Keys selected for any of the queries [i * span, (i + 1) * span), ascending, for each i."""
    return [tuple(sorted(set().union(*part))) for part in _spans(prefixes, n_queries, lag, span)]


def _spans(prefixes: Sequence[Prefix], n_queries: int, lag: int, span: int) -> list[list[set[int]]]:
    """What is selected for each query, span by span."""
    times = [i + len(prefixes) - n_queries - lag for i in range(n_queries)]
    selected = [set(prefixes[t].selected) if t >= 0 else set[int]() for t in times]
    return [selected[i : i + span] for i in range(0, n_queries, span)]


def differentiable_gates(scores: Tensor, k: int) -> Tensor:
    """Gates [N, N] (time, key) of one row of scores, selected or not, as autograd sees them.

    Which gates are 0, fractional and 1 is decided exactly; the threshold is written out from the
    fractional scores: |F| tau = sum over F of u + (number of ones) - k.
    """
    rows = []
    for t, prefix in enumerate(select_all(scores.tolist(), k)):
        gates = prefix.gates + (Fraction(0),) * (len(scores) - t - 1)
        one = torch.tensor([gate == 1 for gate in gates])
        fractional = torch.tensor([0 < gate < 1 for gate in gates])
        row = one + 0 * scores
        if fractional.any():
            tau = (scores[fractional].sum() + one.sum() - k) / fractional.sum()
            row = torch.where(fractional, scores - tau, row)
        rows.append(row)
    return torch.stack(rows)


def bounded(scores: Tensor) -> Tensor:
    """Scores as `select` takes them: infinities and the like as a quarter of the largest number."""
    limit = torch.finfo(scores.dtype).max / 4
    return scores.clamp(-limit, limit)


def near_step(gate: Fraction) -> bool:
    """Whether rounding may decide if a gate counts as fractional."""
    return math.isclose(gate, round(gate), abs_tol=1e-11)
