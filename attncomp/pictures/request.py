"""From what a user asks for to a picture: lengths, tensors, one head of one batch row."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.errors import OptionError
from attncomp.frontend.ast import Expr, to_text
from attncomp.ir.schedule import Problem
from attncomp.pictures.picture import Picture, picture
from attncomp.runtime.checks import check_given, check_names, check_scores, checked_length

# Sweeps, their bounds and their order are the same for every problem.
_PROBLEM: Final = Problem(
    backend="torch", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
)
_LENGTHS: Final = (48, 96, 192, 384, 768)


def pictured(
    expr: Expr,
    needed: Sequence[str],
    n_queries: int | None,
    n_keys: int | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    tile: int | tuple[int, int] | None = None,
    head: int = 0,
    batch: int = 0,
    seed: int = 0,
) -> Picture:
    """The picture of a pattern, for Nq queries and Nk keys, Nq if not given.

    needed: the tensors that the pattern takes; scores [B, G, Nk] that are not among `tensors` are
    standard normal from `seed`, which the caption says. head counts what `CompiledPattern.mask`
    calls H. n_queries: None for the least of a few lengths at which the pattern shows its sizes.
    tile: queries by keys, a number for both; None for about an eighth of the keys.

    Raises CallError for sizes below 1, for tensors that do not fit and for a head or a batch row
    that they do not have.
    """
    tensors = {} if tensors is None else tensors
    plan = lower(expr, _PROBLEM)
    n_queries = _length(plan) if n_queries is None else checked_length("n_queries", n_queries)
    n_keys = n_queries if n_keys is None else checked_length("n_keys", n_keys)
    pattern = to_text(expr)
    check_names(tensors, needed, pattern)
    drawn = [name for name in needed if name not in tensors]
    given = {**_normal(needed, n_keys, seed), **tensors}
    for name in needed:
        check_given(name, given[name], f"[B, G, {n_keys}]", pattern)
        check_scores(name, given[name], n_keys, pattern)
    rows = max((u.shape[0] for u in given.values()), default=1)
    row = _index("batch", batch, rows, pattern)
    heads = math.lcm(*(u.shape[1] for u in given.values()))
    chosen = _index("head", head, heads, pattern)
    scores = {
        name: u[min(row, u.shape[0] - 1), chosen * u.shape[1] // heads] for name, u in given.items()
    }
    drawn_text = f"; {', '.join(drawn)} standard normal, seed {seed}" if drawn else ""
    return picture(
        expr,
        plan,
        n_queries,
        n_keys,
        scores,
        tile=_tile(tile, n_keys),
        caption=f"gate of {pattern}: {n_queries} queries (down) by {n_keys} keys (right)"
        + drawn_text,
    )


def _normal(names: Sequence[str], n_keys: int, seed: int) -> dict[str, Tensor]:
    """Standard normal scores [1, 1, Nk] float64 for each name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(1, 1, n_keys, generator=generator, dtype=torch.float64) for name in names
    }


def _index(subject: str, value: Any, count: int, pattern: str) -> int:
    """An index from 0 as an int; OptionError unless it is one below `count`."""
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index < count:
        expected = f"an index from 0 to {count - 1}" if count else "a tensor with any"
        raise OptionError(subject=subject, expected=expected, found=repr(value), pattern=pattern)
    return index


def _tile(tile: object, n_keys: int) -> tuple[int, int]:
    """Queries by keys; by default the power of two from an eighth of the keys on, 2 at least."""
    if tile is None:
        side = max(2, 1 << (-(-n_keys // 8) - 1).bit_length())
        return side, side
    if isinstance(tile, tuple) and len(tile) == 2:
        return checked_length("tile", tile[0]), checked_length("tile", tile[1])
    side = checked_length("tile", tile)
    return side, side


def _length(plan: KernelPlan) -> int:
    """The least length at which no size in the pattern covers more than two thirds of the keys."""
    sizes = [selection.k + selection.lag for selection in plan.selections]
    for box in (box for sweep in plan.sweeps for box in sweep.box):
        ends = (box.distance.lower, box.distance.upper, box.keys.lower, box.keys.upper)
        sizes += [abs(end) for end in ends if end is not None]
    largest = max(sizes, default=0)
    return next((length for length in _LENGTHS if 2 * length >= 3 * largest), _LENGTHS[-1])
