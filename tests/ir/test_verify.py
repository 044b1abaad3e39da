"""Every rule of a valid graph, broken once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from attncomp.errors import VerificationError
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Box, Complement, Intersection, Interval, Partition, SparseK, Sweep
from attncomp.ir.ops import Union as UnionOp
from attncomp.ir.passes import run
from attncomp.ir.passes.bound import bounds_of
from attncomp.ir.schedule import Schedule, Tile
from attncomp.ir.verify import verify

WINDOW = Box(distance=Interval(0, 8))
FAR = Box(distance=Interval(8, None))
TILE = Tile(queries=16, keys=16)
SCHEDULE = Schedule(
    packed_heads=1,
    forward=TILE,
    backward_query=TILE,
    backward_gathered=TILE,
    backward_contiguous=TILE,
    segment=64,
)


def graph_of(tree: object) -> Graph:
    """The graph of nested tuples (op, operand, ...); the last tuple is the root."""
    graph = Graph()

    def add(part: object) -> NodeId:
        op, *operands = part if isinstance(part, tuple) else (part,)
        return graph.add(op, [add(operand) for operand in operands])

    return graph.set_root(add(tree))


def sweep(*boxes: Box, gathered: bool = False, bounded: bool = False) -> Sweep:
    bounds = bounds_of(boxes[0]) if bounded else None
    return Sweep(boxes=boxes, gathered=gathered, bounds=bounds)


SPARSE = SparseK(k=4)
HARD = SparseK(k=4, gate="hard")
ONE = Box()

VALID = [
    WINDOW,
    (UnionOp(), WINDOW, SPARSE),
    (Complement(), (Intersection(), WINDOW, HARD)),
    (Partition(),),
    (Partition(), (sweep(WINDOW), ONE), (sweep(FAR, gathered=True), SPARSE, SPARSE)),
    (Partition(schedule=SCHEDULE), (sweep(WINDOW, bounded=True), ONE)),
]

INVALID = [
    ((WINDOW, WINDOW), "%1 (Box)", "expected no operands, found 1"),
    ((UnionOp(), WINDOW), "%1 (Union)", "expected two operands or more, found 1"),
    ((Complement(), WINDOW, FAR), "%2 (Complement)", "expected one operand, found 2"),
    ((sweep(WINDOW),), "%0 (Sweep)", "expected 1 operands or more, found 0"),
    ((sweep(WINDOW, gathered=True), ONE), "%1 (Sweep)", "expected 2 operands or more, found 1"),
    ((UnionOp(), WINDOW, (Partition(),)), "%1 (Partition)", "a partition is not the root"),
    ((Partition(), WINDOW), "%1 (Partition)", "operand %0 is a Box"),
    ((UnionOp(), WINDOW, (sweep(WINDOW), ONE)), "%3 (Union)", "operand %2 is a Sweep"),
    (
        SparseK(k=0),
        "%0 (SparseK)",
        "expected k >= 1 and lag >= 0, found k=0 and lag=0",
    ),
    (
        (Complement(), (UnionOp(), WINDOW, SPARSE)),
        "%3 (Complement)",
        "the complement of the soft selection %1",
    ),
    (
        (UnionOp(), SPARSE, HARD),
        "%2 (Union)",
        "selections have gate modes ['hard', 'key_value']",
    ),
    (
        (sweep(WINDOW, gathered=True), ONE, WINDOW),
        "%2 (Sweep)",
        "expected a selection, found Box",
    ),
    ((sweep(WINDOW), SPARSE), "%1 (Sweep)", "the gate of a contiguous sweep is not constant"),
    ((sweep(WINDOW, FAR), ONE), "%1 (Sweep)", "expected one box, found 2"),
    ((sweep(gathered=True), ONE, SPARSE), "%2 (Sweep)", "no boxes"),
    ((sweep(Box(distance=Interval(3, 3))), ONE), "%1 (Sweep)", "an empty box"),
    (
        (sweep(WINDOW, gathered=True), (UnionOp(), SPARSE, WINDOW), SPARSE),
        "%4 (Sweep)",
        "the gate holds a Box",
    ),
    (
        (sweep(WINDOW, Box(), gathered=True), SPARSE, SPARSE),
        "%2 (Sweep)",
        "boxes {0 <= q - k < 8} and {any} overlap",
    ),
    (
        (sweep(WINDOW, gathered=True, bounded=True), SPARSE, SPARSE),
        "%2 (Sweep)",
        "a gathered sweep has bounds",
    ),
    (
        (Partition(), (sweep(WINDOW), ONE), (sweep(FAR, bounded=True), ONE)),
        "%4 (Partition)",
        "only some contiguous sweeps have bounds",
    ),
    (
        (Partition(), (sweep(WINDOW), ONE), (sweep(Box()), ONE)),
        "%4 (Partition)",
        "contiguous sweeps {0 <= q - k < 8} and {any} overlap",
    ),
    (
        (Partition(schedule=SCHEDULE), (sweep(WINDOW), ONE)),
        "%2 (Partition)",
        "scheduled sweeps have no bounds",
    ),
    (
        (Partition(schedule=replace(SCHEDULE, forward=Tile(queries=24, keys=16))),),
        "%0 (Partition)",
        "expected powers of two from 16 on, found 24 queries and 16 keys",
    ),
    (
        (Partition(schedule=replace(SCHEDULE, forward=replace(TILE, warps=0))),),
        "%0 (Partition)",
        "expected warps and stages, found 0 and 2",
    ),
    (
        (Partition(schedule=replace(SCHEDULE, packed_heads=3)),),
        "%0 (Partition)",
        "expected a power of two of packed heads, found 3",
    ),
    (
        (Partition(schedule=replace(SCHEDULE, segment=40)),),
        "%0 (Partition)",
        "segment 40 is no multiple of 16 queries",
    ),
]


@pytest.mark.parametrize("tree", VALID)
def test_valid(tree: object) -> None:
    verify(graph_of(tree), after="test")


@pytest.mark.parametrize(("tree", "node", "reason"), INVALID)
def test_invalid(tree: object, node: str, reason: str) -> None:
    with pytest.raises(VerificationError) as caught:
        verify(graph_of(tree), after="test")
    assert (caught.value.pass_name, caught.value.node) == ("test", node)
    assert caught.value.reason == reason


def test_a_selection_given_twice() -> None:
    graph = Graph()
    selection = graph.add(SPARSE)
    graph.set_root(graph.add(sweep(WINDOW, gathered=True), [selection] * 3))
    with pytest.raises(VerificationError, match="a selection is given twice"):
        verify(graph, after="test")


@dataclass(frozen=True)
class BreakIt:
    name: ClassVar[str] = "break-it"

    def __call__(self, graph: Graph) -> Graph:
        return graph_of((UnionOp(), WINDOW))


def test_a_pass_that_breaks_a_graph_is_named() -> None:
    with pytest.raises(VerificationError) as caught:
        run(graph_of(WINDOW), [BreakIt()])
    assert str(caught.value) == (
        "pass 'break-it' left an invalid graph at %1 (Union): "
        "expected two operands or more, found 1"
    )
