"""What the kernels visit for a query, and what it attends of that: keys of each sweep, in the mean.

A query visits the keys that its tile computes products with: the range of a contiguous sweep at the
tile's ends, a selection's list, the listed blocks. On Triton these come in whole tiles of keys, on
torch in whole cache lines where masks leave out what that adds. The call has as many queries as
keys. What tensors of the call decide is not known here: such numbers are limits, and say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from attncomp.codegen.expressions import condition_entries
from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.codegen.torch_view import cache_line, sweep_view
from attncomp.ir.affine import Drawn, Passing
from attncomp.runtime.attended import Mean, attended_keys
from attncomp.runtime.key_ranges import key_ends, listed_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """What one sweep costs and is for, or the sweeps of one strided part together.

    sweeps: their numbers in `KernelPlan.all_sweeps`. depends: what decides how many keys of those
    in the limit are attended: names of tensors, the head, the row of the batch.
    """

    sweeps: tuple[int, ...]
    visited: Mean
    attended: Mean
    depends: tuple[str, ...]


class _Tiles(NamedTuple):
    """First and last position of each tile of queries [T] int64, and its queries in the call."""

    first: Tensor
    last: Tensor
    queries: Tensor


def count_visits(plan: KernelPlan, n_keys: int) -> list[Visits]:
    """What the sweeps of a plan visit and attend at a context length, in order of the sweeps.

    Takes time and memory of n_keys.
    """
    tiles = _tiles(plan, n_keys, n_keys, 1)
    found = []
    for number, sweep in enumerate(plan.sweeps):
        attended, depends = attended_keys(plan, sweep, n_keys)
        visited = Mean(_mean_visited(plan, number, tiles, n_keys), _known(sweep))
        found.append(Visits(sweeps=(number,), visited=visited, attended=attended, depends=depends))
    number = len(found)
    for part in plan.strided:
        parts = [attended_keys(plan, sweep, n_keys)[0] for sweep in part.sweeps]
        sampled = any(attended.kind for attended in parts)
        total = sum(attended.keys for attended in parts)
        found.append(
            Visits(
                sweeps=tuple(range(number, number + len(parts))),
                visited=Mean(_visited_by_class(part.plan, n_keys, part.step)),
                attended=Mean(total, "about" if sampled else ""),
                depends=(),
            )
        )
        number += len(parts)
    return found


def _known(sweep: SweepPlan) -> Literal["", "at most"]:
    """Whether the plan tells how many keys are visited, or no more than a limit."""
    listed = sweep.walk is not None and not isinstance(sweep.walk.entry.table, Drawn)
    # Thresholds limit nothing that is visited.
    limits = [e for e in condition_entries(sweep.condition) if not isinstance(e.table, Passing)]
    known = sweep.source is None and not listed and not limits
    return "" if known else "at most"


def _visited_by_class(plan: KernelPlan, whole: int, step: int) -> float:
    """Keys that a query visits by the plan of a class of every step-th of `whole` positions."""
    n_keys = -(-whole // step)
    tiles = _tiles(plan, n_keys, whole, step)
    own = sum(_mean_visited(plan, i, tiles, n_keys) for i in range(len(plan.sweeps)))
    inner = (_visited_by_class(part.plan, whole, step * part.step) for part in plan.strided)
    return own + sum(inner)


def _tiles(plan: KernelPlan, n_keys: int, whole: int, step: int) -> _Tiles:
    """The forward's tiles of n_keys positions, each of which stands for `step` of a whole call."""
    size = plan.schedule.forward.queries
    first = torch.arange(0, n_keys, size)
    end = (first + size).clamp(max=n_keys)
    return _Tiles(first, end - 1, (end * step).clamp(max=whole) - first * step)


def _mean_visited(plan: KernelPlan, index: int, tiles: _Tiles, n_keys: int) -> float:
    keys = _visited(plan, index, tiles, n_keys) * tiles.queries
    return int(keys.sum()) / int(tiles.queries.sum())


def _visited(plan: KernelPlan, index: int, tiles: _Tiles, n_keys: int) -> Tensor:
    """The keys [T] that each tile of queries visits in a sweep, or the most that it may."""
    sweep = plan.sweeps[index]
    if sweep.walk is not None:
        size = sweep.walk.size
        block = tiles.first[:, None] // size
        block = block + torch.arange((plan.schedule.forward.queries - 1) // size + 2)
        inside = block <= tiles.last[:, None] // size
        listed = torch.where(inside, listed_blocks(sweep.walk, block, n_keys), 0).sum(1)
        return listed * _filled(plan, torch.tensor(size), room=torch.tensor(size))
    if sweep.source is not None:
        # At the tile's first time the list holds k keys, and one may come at each time after.
        selection = plan.selections[sweep.source]
        most = selection.k + tiles.last - tiles.first
        keys = torch.minimum(tiles.last + 1 - selection.lag, most).clamp(min=0)
        room = min(selection.k, n_keys) + plan.schedule.forward.queries
        return _filled(plan, keys, room=torch.tensor(room))
    if sweep.bounds is None:
        raise ValueError(f"expected a plan with bounds, found none for {sweep.label}")
    lower, upper = key_ends(sweep.bounds.keys, tiles.first, tiles.last, n_keys)
    keys = (upper - lower).clamp(min=0)
    banded = sweep_view(plan, index).banded
    return _filled(plan, keys, room=upper.clamp(min=0) if banded else keys)


def _filled(plan: KernelPlan, keys: Tensor, *, room: Tensor) -> Tensor:
    """As many keys as blocks take for so many: whole tiles on Triton, on torch whole cache lines.

    room: torch takes no more than this.
    """
    triton = plan.problem.backend == "triton"
    size = plan.forward_keys if triton else cache_line(plan)
    filled = -(-keys // size) * size
    return filled if triton else torch.minimum(filled, room)
