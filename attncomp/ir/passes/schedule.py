"""The pass `schedule`: the order of sweeps, tile shapes and head packing for a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from attncomp.ir.affine import Drawn, term
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Interval, Op, Partition, Sweep
from attncomp.ir.schedule import MIN_SIDE, Problem, Schedule, Tile
from attncomp.ir.schedule_table import LONG, Shape, row_for
from attncomp.ir.shared_memory import fitted
from attncomp.ir.walk import walk_of


@dataclass(frozen=True)
class ScheduleTiles:
    """Sets the schedule of the Partition from the device table; sweeps stay in canonical order.

    Tiles that take more shared memory than the target has are cut (`attncomp.ir.shared_memory`).

    Contiguous sweeps thus come first: they start without waiting for a list of keys, and their
    maxima steady the online softmax.

    >>> from attncomp.frontend.parser import parse
    >>> from attncomp.ir.build import build
    >>> from attncomp.ir.passes.make_disjoint import MakeDisjoint
    >>> problem = Problem(backend="triton", target="sm_90", dtype="bfloat16", head_dim=128,
    ...                   value_dim=128, unit_heads=4)
    >>> graph = ScheduleTiles(problem)(MakeDisjoint()(build(parse("window(256)"))))
    >>> graph.op(graph.root).schedule.forward
    Tile(queries=32, keys=32, warps=4, stages=3)
    """

    problem: Problem
    schedule: Schedule | None = None
    """One to take in place of the table's."""
    pair_tables: int = 0
    """Tensors that modifiers read an entry of for each pair."""
    name: ClassVar[str] = "schedule"

    def __call__(self, graph: Graph) -> Graph:
        sweeps = [op for op in map(graph.op, graph.operands(graph.root)) if isinstance(op, Sweep)]
        walks = [found[0] for found in map(walk_of, sweeps) if found is not None]
        schedule = self.schedule or schedule_of(self.problem, sweeps)
        for size in {walk.size for walk in walks}:
            schedule = _within_blocks(schedule, size)
        tables = max(map(_pair_tables, sweeps), default=0)
        schedule = fitted(schedule, self.problem, self.pair_tables + tables)

        def rule(new: Graph, op: Op, operands: tuple[NodeId, ...]) -> NodeId:
            if isinstance(op, Partition):
                op = replace(op, schedule=schedule)
            return new.add(op, operands)

        return graph.rewrite(rule)


def _pair_tables(sweep: Sweep) -> int:
    """How many entries the condition of a sweep reads for each pair."""
    parts = [part for group in sweep.condition for part in group]
    entries = dict.fromkeys(entry for part in parts for entry in part.test.value.entries)
    pairs = [entry for entry in entries if {"q", "k"} <= term(entry).indices]
    return sum(e.table.count if isinstance(e.table, Drawn) else 1 for e in pairs)


def _within_blocks(schedule: Schedule, size: int) -> Schedule:
    """The schedule with tiles that fit into blocks of `size` positions, as long as these are wide.

    A tile that reaches into several blocks visits the keys of each of them with masks.
    """
    fitting = size & -size
    if fitting < MIN_SIDE:
        fitting = max(MIN_SIDE, 1 << (max(1, size // 4).bit_length() - 1))

    def cut(tile: Tile) -> Tile:
        return replace(tile, queries=min(tile.queries, fitting), keys=min(tile.keys, fitting))

    return replace(
        schedule,
        forward=cut(schedule.forward),
        backward_query=cut(schedule.backward_query),
        backward_contiguous=cut(schedule.backward_contiguous),
    )


def _is_long(sweep: Sweep) -> bool:
    """Whether a sweep goes over more than LONG keys in a row, as far as the pattern tells."""
    if sweep.gathered or walk_of(sweep) is not None:
        return False
    if sweep.bounds is not None and sweep.bounds.extent:
        return False

    def wide(interval: Interval, lower: int | None) -> bool:
        if lower is None or interval.upper is None:
            return True
        return interval.upper - lower > LONG

    (box,) = sweep.boxes
    return wide(box.distance, box.distance.lower) and wide(box.keys, box.keys.lower or 0)


def schedule_of(problem: Problem, sweeps: Sequence[Sweep] = ()) -> Schedule:
    """The schedule of a problem's sweeps, from the table's row for its target and padded head dim.

    packed_heads is the largest power of two that divides the unit's heads and leaves a forward
    tile 16 query positions. Raises BackendError for a target or head dim that has no row.
    """
    width = max(problem.head_dim, problem.value_dim)
    row = row_for(problem.backend, problem.target, problem.dtype, 1 << (width - 1).bit_length())
    on_torch = problem.backend == "torch"
    packed = problem.unit_heads & -problem.unit_heads
    # Torch tiles hold all heads of a unit at any length; elsewhere heads and positions share rows.
    limit = packed if on_torch else max(1, row.forward.rows // MIN_SIDE)
    packed = min(packed, limit)

    forward, query = row.forward, row.backward_query
    if any(map(_is_long, sweeps)):
        forward, query = row.long_forward or forward, row.long_query or query
    elif any(sweep.gathered for sweep in sweeps):
        query = row.gathered_query or query

    def tile(shape: Shape, packed: int = 1, least: int = MIN_SIDE) -> Tile:
        return Tile(
            queries=shape.rows if on_torch else max(least, shape.rows // packed),
            keys=shape.keys,
            warps=shape.warps,
            stages=shape.stages,
        )

    return Schedule(
        packed_heads=packed,
        forward=tile(forward, packed),
        backward_query=tile(query, packed),
        backward_gathered=tile(row.backward_gathered, packed, least=1),
        backward_contiguous=tile(row.backward_contiguous),
        segment=row.segment,
    )
