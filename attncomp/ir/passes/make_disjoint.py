"""The pass `make-disjoint`: a pattern as sweeps that visit each attended pair exactly once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from attncomp.errors import PatternTooLargeError, Span
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import (
    ALWAYS,
    Box,
    Condition,
    Intersection,
    Partition,
    SparseK,
    Sweep,
    Union,
    Where,
)
from attncomp.ir.passes.cases import cases
from attncomp.ir.passes.cells import Grid, grid_of
from attncomp.ir.passes.lattice import Selections, Table
from attncomp.ir.passes.sharing import SharingGraph
from attncomp.ir.printer import condition_text

PIECE_LIMIT: Final = 128  # boxes of all sweeps: each is a loop or a term of a mask
COVER_LIMIT: Final = 8  # selections of one gate up to which all subsets are tried


@dataclass(frozen=True)
class MakeDisjoint:
    """Rewrites a graph of gates as a Partition; equal patterns become equal graphs.

    The plane of distances and keys falls into regions, and in each the gate is one expression E
    over the selections S0, S1, ... for every outcome of the tests. Where E is 1, every box of the
    region is a contiguous sweep. Elsewhere Shannon's expansion gives a gathered sweep over S0 with
    gate E, one over S1 without S0 with gate E[S0 = 0], and so on until nothing is left. A lag that
    equals the window's size thus leaves nothing to mask, and a smaller one leaves one comparison:

    >>> from attncomp.frontend.parser import parse
    >>> from attncomp.ir.build import build
    >>> def sweeps(text):
    ...     graph = MakeDisjoint()(build(parse(text)))
    ...     for node in graph.operands(graph.root):
    ...         sweep = graph.op(node)
    ...         kind = "gathered" if sweep.gathered else "contiguous"
    ...         print(kind, *(str(box.distance) for box in sweep.boxes))
    >>> sweeps("sparsek(k=4, lag=8) | window(8)")
    contiguous [0, 8)
    gathered [8, inf)
    >>> sweeps("window(8) | sparsek(k=4) & causal | window(6)")
    contiguous [0, 8)
    gathered [8, inf)
    """

    name: ClassVar[str] = "make-disjoint"

    def __call__(self, graph: Graph) -> Graph:
        ops = [graph.op(node) for node in graph.walk()]
        selections = Selections(
            (op for op in ops if isinstance(op, SparseK)),
            (op for op in ops if isinstance(op, Where)),
        )
        root_span = graph.op(graph.root).span
        grid = grid_of(graph, selections)
        if len(_tables(grid)) > PIECE_LIMIT:
            raise PatternTooLargeError(root_span, limit=PIECE_LIMIT, unit="disjoint pieces")
        regions = _regions(share_walks(grid, selections), selections, root_span)
        builder = _Builder(selections, _spans(graph), root_span)
        root = builder.graph.add(
            Partition(span=root_span), [builder.add(region) for region in regions]
        )
        return builder.graph.set_root(root)


class Region(NamedTuple):
    """One sweep to be: boxes, source (None: contiguous), absent selections, terms of the gate and
    the tests that pairs have to pass.

    The terms are the gate's max of mins; a gate of 1 is one empty term.
    """

    boxes: tuple[Box, ...]
    source: int | None
    absent: tuple[int, ...]
    terms: tuple[tuple[int, ...], ...]
    condition: Condition = ALWAYS


def share_walks(grid: Grid, selections: Selections) -> Grid:
    """Lets cells that a selection's lag keeps out of its reach join the cells that it reaches.

    In `sparsek(k=4) | sparsek(k=4, lag=8)` the gate is m0 at distances below 8 and max(m0, m1)
    from there on; m1 is 0 below 8, so the second expression serves both and one walk over the
    list of m0 is saved.
    """
    known = set(_tables(grid)) - {selections.always}
    rows = []
    for distance, row in zip(grid.distances, grid.tables, strict=True):
        upper = distance.upper  # a row is out of reach only as a whole: it may straddle a lag
        beyond = [i for i, op in enumerate(selections.ops) if upper is not None and upper <= op.lag]
        widest: dict[Table, Table] = {}
        for table in sorted(known):
            reduced = table
            for index in beyond:
                reduced = selections.without(reduced, index)
            best = widest.get(reduced, reduced)
            widest[reduced] = max(best, table, key=lambda t: (_reach(t, selections), t))
        rows.append(tuple(widest.get(t, t) if t in known else t for t in row))
    return Grid(grid.distances, grid.keys, tuple(rows))


def _reach(table: Table, selections: Selections) -> int:
    return sum(selections.depends(table, index) for index in range(len(selections.ops)))


def _tables(grid: Grid) -> list[Table]:
    """The distinct tables of the cells that hold any pair."""
    return sorted({table for row in grid.tables for table in row} - {0})


def _regions(grid: Grid, selections: Selections, span: Span | None) -> list[Region]:
    """All sweeps in canonical order: contiguous first, then by source, boxes and absentees.

    Raises PatternTooLargeError at `span` rather than fill a kernel with loops without end.
    """
    regions: list[Region] = []
    pieces = 0
    for table in _tables(grid):
        boxes = tuple(grid.rectangles(table))
        for condition, rest in cases(table, selections):
            for region in _expand(rest, boxes, selections):
                regions.append(region._replace(condition=condition))
                pieces += len(region.boxes) * len(condition)
                if pieces > PIECE_LIMIT:
                    raise PatternTooLargeError(span, limit=PIECE_LIMIT, unit="disjoint pieces")
    return sorted(regions, key=_order)


def _order(region: Region) -> tuple[object, ...]:
    lowers = [
        tuple(-1 if x is None else x for x in (box.keys.lower, box.distance.lower))
        for box in region.boxes
    ]
    # A missing lower distance comes before every other one, -1 included.
    unlimited = [box.distance.lower is not None for box in region.boxes]
    return (
        region.source is not None,
        -1 if region.source is None else region.source,
        unlimited,
        lowers,
        region.absent,
        region.terms,
        condition_text(region.condition),
    )


def _expand(table: Table, boxes: tuple[Box, ...], selections: Selections) -> Iterator[Region]:
    """The sweeps of a region whose gate is `table`, by Shannon's expansion."""
    absent: list[int] = []
    for index in _walk_order(table, selections):
        if not selections.depends(table, index):
            continue
        given = selections.given(table, index)
        # A hard gate is 1 wherever its source is selected; a soft one stays in the expression.
        gate = given if selections.ops[index].gate == "hard" else table
        for inner_absent, terms in _positive(gate, (), (), selections):
            yield Region(boxes, index, (*absent, *inner_absent), terms)
        table = selections.without(table, index)
        absent.append(index)
    if table:
        for box in boxes:
            yield Region((box,), None, tuple(absent), ((),))


def _walk_order(table: Table, selections: Selections) -> list[int]:
    """The selections in the order of expansion, those first whose lists reach every pair.

    Of the sets of lists that do, it takes the one with the fewest keys in all: to intersect two
    selections, walking the smaller is enough.
    """
    indices = range(len(selections.ops))
    relevant = [index for index in indices if selections.depends(table, index)]
    if len(relevant) > COVER_LIMIT or any(selections.falls(table, i) for i in relevant):
        return relevant

    def reaches_all(walked: tuple[int, ...]) -> bool:
        rest = table
        for index in walked:
            rest = selections.without(rest, index)
        return rest == 0

    def cost(walked: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        return sum(selections.ops[index].k for index in walked), walked

    sizes = range(len(relevant) + 1)
    covers = (c for n in sizes for c in itertools.combinations(relevant, n) if reaches_all(c))
    best = min(covers, key=cost, default=())
    return [*best, *(index for index in relevant if index not in best)]


def _positive(
    table: Table, absent: tuple[int, ...], required: tuple[int, ...], selections: Selections
) -> Iterator[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]]:
    """A gate with complements as disjoint cases (absent selections, gate without complements)."""
    if not table:
        return
    falling = (i for i in range(len(selections.ops)) if selections.falls(table, i))
    index = next(falling, None)
    if index is None:
        # Terms of a table that needs the required selections as well.
        for selection in required:
            table &= selections.selected(selection)
        yield absent, selections.terms(table)
        return
    without, given = selections.without(table, index), selections.given(table, index)
    yield from _positive(without, (*absent, index), required, selections)
    yield from _positive(given, absent, (*required, index), selections)


class _Builder:
    """Adds regions as nodes of a new graph, with the spans of what they stem from."""

    def __init__(
        self, selections: Selections, boxes: list[tuple[Box, Span]], root_span: Span | None
    ) -> None:
        self.graph = SharingGraph()
        self._selections = selections
        self._boxes = boxes
        self._root_span = root_span

    def add(self, region: Region) -> NodeId:
        gathered = region.source is not None
        others = [*([] if region.source is None else [region.source]), *region.absent]
        operands = [self._gate(region.terms), *(self._selection(index) for index in others)]
        if region.source is not None:
            span = self._selections.ops[region.source].span
        else:
            span = self._box_span(region.boxes[0])
        sweep = Sweep(boxes=region.boxes, gathered=gathered, condition=region.condition, span=span)
        return self.graph.add(sweep, operands)

    def _selection(self, index: int) -> NodeId:
        return self.graph.add(self._selections.ops[index])

    def _gate(self, terms: tuple[tuple[int, ...], ...]) -> NodeId:
        if terms == ((),):
            return self.graph.add(Box())
        smallest = [self._join(Intersection(), [self._selection(i) for i in t]) for t in terms]
        return self._join(Union(), smallest)

    def _join(self, op: Union | Intersection, operands: list[NodeId]) -> NodeId:
        return operands[0] if len(operands) == 1 else self.graph.add(op, operands)

    def _box_span(self, box: Box) -> Span | None:
        """The place of the box of the pattern that is this one, or else holds or meets it."""

        def remoteness(source: Box) -> int:
            if source == box:
                return 0
            holds = source.distance.covers(box.distance) and source.keys.covers(box.keys)
            return 1 if holds else 2

        meeting = [part for part in self._boxes if not part[0].intersect(box).empty]
        nearest = min(meeting, key=lambda part: remoteness(part[0]), default=None)
        return self._root_span if nearest is None else nearest[1]


def _spans(graph: Graph) -> list[tuple[Box, Span]]:
    ops = [graph.op(node) for node in graph.walk()]
    return [(op, op.span) for op in ops if isinstance(op, Box) and op.span is not None]
