"""Schedules near a schedule, which the autotuner tries: one size of one tile another step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from attncomp.ir.schedule import MIN_SIDE, PARTS, Part, Problem, Schedule, Tile

# Warps beyond 8 leave a thread of a 64 x 64 tile too few registers' worth of work to hide loads;
# a sixth stage has not been seen to help any tile that fits.
_MAX_ROWS: Final = 256
_MAX_KEYS: Final = 256
_WARPS: Final = (2, 8)
_STAGES: Final = (1, 5)
_MAX_ON_TORCH: Final = 4096


def parts_of(problem: Problem, *, gathered: bool, gradients: bool) -> tuple[Part, ...]:
    """The parts of a schedule that a call's kernels have; torch's have one tile for all.

    gathered: whether any sweep walks the keys of a selection.
    """
    if problem.backend == "torch" or not gradients:
        return ("forward",)
    return tuple(part for part in PARTS if gathered or part != "backward_gathered")


def neighbours(
    schedule: Schedule, part: Part, problem: Problem, *, gathered: bool
) -> Iterator[Schedule]:
    """The schedules with one size of a part's tile doubled or halved, or a stage more or less."""
    least = schedule.least_queries(part)
    for other in _tiles(schedule.tile(part), problem, least):
        if problem.backend != "torch" and other.queries * schedule.heads(part) > _MAX_ROWS:
            continue
        found = schedule.with_tile(part, other)
        if _is_consistent(found, problem, gathered=gathered):
            yield found


def _tiles(tile: Tile, problem: Problem, least: int) -> Iterator[Tile]:
    on_torch = problem.backend == "torch"
    most_keys = _MAX_ON_TORCH if on_torch else _MAX_KEYS
    for queries in (tile.queries // 2, tile.queries * 2):
        if least <= queries <= _MAX_ON_TORCH:
            yield replace(tile, queries=queries)
    for keys in (tile.keys // 2, tile.keys * 2):
        if MIN_SIDE <= keys <= most_keys:
            yield replace(tile, keys=keys)
    if on_torch:
        return
    for warps in (tile.warps // 2, tile.warps * 2):
        if _WARPS[0] <= warps <= _WARPS[1]:
            yield replace(tile, warps=warps)
    for stages in (tile.stages - 1, tile.stages + 1):
        if _STAGES[0] <= stages <= _STAGES[1]:
            yield replace(tile, stages=stages)


def _is_consistent(schedule: Schedule, problem: Problem, *, gathered: bool) -> bool:
    """Whether lists of keys, made for tiles of the forward and segments, serve the backward."""
    if not gathered:
        return True
    fits = schedule.forward.queries <= schedule.segment
    if problem.backend == "torch":
        return fits
    tiles = schedule.backward_query.queries, schedule.backward_gathered.queries
    return fits and tiles[0] <= schedule.forward.queries and tiles[1] <= schedule.segment
