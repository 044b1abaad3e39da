"""A pattern on the plane of distances and keys, cut into cells in which it is constant."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from typing_extensions import assert_never

from attncomp.errors import PatternTooLargeError
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import (
    ALL,
    Box,
    Complement,
    Intersection,
    Interval,
    Partition,
    SparseK,
    Sweep,
    Union,
    Where,
)
from attncomp.ir.passes.lattice import Selections, Table

ANYWHERE: Final = Box()
GRID_LIMIT: Final = 1 << 22
CELL_LIMIT: Final = 1 << 14


class Cell(NamedTuple):
    """A rectangle of the plane by its place in the grid: half-open ranges of rows and columns."""

    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Grid:
    """Truth tables by cell: rows are intervals of `q - k`, columns of `k >= 0`, both ascending."""

    distances: tuple[Interval, ...]
    keys: tuple[Interval, ...]
    tables: tuple[tuple[Table, ...], ...]

    def box(self, cell: Cell) -> Box:
        """The box that a rectangle of cells covers."""
        rows, columns = cell
        keys = Interval(self.keys[columns[0]].lower, self.keys[columns[1] - 1].upper)
        return Box(
            distance=Interval(self.distances[rows[0]].lower, self.distances[rows[1] - 1].upper),
            keys=ALL if keys == Interval(0, None) else keys,
        )

    def rectangles(self, table: Table) -> list[Box]:
        """Disjoint boxes that cover the cells of one table: runs of keys, drawn out over rows."""
        done: list[Cell] = []
        open_runs: dict[tuple[int, int], int] = {}
        for row in range(len(self.distances) + 1):
            runs = _runs(self.tables[row], table) if row < len(self.distances) else []
            for run, start in list(open_runs.items()):
                if run not in runs:
                    done.append(Cell((start, row), run))
                    del open_runs[run]
            for run in runs:
                open_runs.setdefault(run, row)
        return [self.box(cell) for cell in sorted(done)]


def _runs(row: Sequence[Table], table: Table) -> list[tuple[int, int]]:
    """The maximal runs of columns that hold the table."""
    runs: list[tuple[int, int]] = []
    for column, value in enumerate(row):
        if value != table:
            continue
        if runs and runs[-1][1] == column:
            runs[-1] = (runs[-1][0], column + 1)
        else:
            runs.append((column, column + 1))
    return runs


def grid_of(graph: Graph, selections: Selections) -> Grid:
    """The pattern of a graph of gates on the coarsest grid; the same for all its spellings.

    Raises PatternTooLargeError where limits of boxes cut the plane into too many cells.
    """
    distances, keys = _axes(graph)
    cells, size = len(distances) * len(keys), selections.size
    if cells > CELL_LIMIT or cells * size > GRID_LIMIT:
        limit = min(CELL_LIMIT, GRID_LIMIT // size)
        raise PatternTooLargeError(graph.op(graph.root).span, limit=limit, unit="cells")
    values = _evaluate(graph, selections, distances, keys)
    tables = tuple(
        tuple(
            values >> (row * len(keys) + column) * size & selections.always
            for column in range(len(keys))
        )
        for row in range(len(distances))
    )
    return _coarsen(distances, keys, tables)


def _axes(graph: Graph) -> tuple[list[Interval], list[Interval]]:
    distance_cuts: set[int] = set()
    key_cuts: set[int] = set()
    for op in map(graph.op, graph.walk()):
        if isinstance(op, SparseK):
            distance_cuts.add(op.lag)
        elif isinstance(op, Box):
            distance_cuts.update(x for x in (op.distance.lower, op.distance.upper) if x is not None)
            key_cuts.update(x for x in (op.keys.lower, op.keys.upper) if x is not None and x > 0)
    return _intervals(None, distance_cuts), _intervals(0, key_cuts)


def _intervals(start: int | None, cuts: Iterable[int]) -> list[Interval]:
    limits = [start, *sorted(cuts), None]
    return [Interval(lower, upper) for lower, upper in itertools.pairwise(limits)]


def _evaluate(
    graph: Graph, selections: Selections, distances: list[Interval], keys: list[Interval]
) -> int:
    """The tables of all cells in one number, row by row: bitwise logic does all cells at once."""
    everything = (1 << len(distances) * len(keys) * selections.size) - 1
    indices = {op: index for index, op in enumerate([*selections.ops, *selections.tests])}
    values: dict[NodeId, int] = {}
    for node in graph.walk():
        operands = [values[operand] for operand in graph.operands(node)]
        op = graph.op(node)
        match op:
            case Box():
                values[node] = _spread(selections.always, selections.size, op, distances, keys)
            case Where():
                table = selections.selected(indices[op])
                values[node] = _spread(table, selections.size, ANYWHERE, distances, keys)
            case SparseK():
                table, support = selections.selected(indices[op]), Box(distance=op.support)
                values[node] = _spread(table, selections.size, support, distances, keys)
            case Union():
                values[node] = functools.reduce(operator.or_, operands, 0)
            case Intersection():
                values[node] = functools.reduce(operator.and_, operands, everything)
            case Complement():
                values[node] = everything & ~operands[0]
            case Sweep() | Partition():
                raise TypeError(f"expected a graph of gates, found {type(op).__name__}")
            case _:
                assert_never(op)
    return values[graph.root]


def _spread(
    table: Table, size: int, box: Box, distances: list[Interval], keys: list[Interval]
) -> int:
    """The table in the cells of a box, 0 in the others."""
    if box.empty:
        return 0
    reach = box.keys.intersect(Interval(0, None))
    row = sum(table << place * size for place, column in enumerate(keys) if reach.covers(column))
    width = len(keys) * size
    rows = (place for place, distance in enumerate(distances) if box.distance.covers(distance))
    return sum(row << place * width for place in rows)


def _coarsen(
    distances: Sequence[Interval],
    keys: Sequence[Interval],
    tables: Sequence[tuple[Table, ...]],
) -> Grid:
    """The grid without the cuts at which nothing changes."""
    distances, rows = _merge(distances, tables)
    keys, columns = _merge(keys, list(zip(*rows, strict=True)))
    return Grid(tuple(distances), tuple(keys), tuple(zip(*columns, strict=True)))


def _merge(
    intervals: Sequence[Interval], lines: Sequence[tuple[Table, ...]]
) -> tuple[list[Interval], list[tuple[Table, ...]]]:
    """Neighbouring intervals with equal lines as one."""
    merged: list[Interval] = []
    kept: list[tuple[Table, ...]] = []
    for interval, line in zip(intervals, lines, strict=True):
        if kept and kept[-1] == line:
            merged[-1] = Interval(merged[-1].lower, interval.upper)
        else:
            merged.append(interval)
            kept.append(line)
    return merged, kept
