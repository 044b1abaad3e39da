"""What every graph must satisfy, checked after each pass."""

from __future__ import annotations

import itertools
from typing import Final, NoReturn

from attncomp.errors import VerificationError
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import (
    Box,
    Complement,
    Intersection,
    Op,
    Partition,
    SparseK,
    Sweep,
    Union,
    Where,
)
from attncomp.ir.printer import box_condition
from attncomp.ir.schedule import Schedule

_GATES: Final = (Box, Where, SparseK, Union, Intersection, Complement)


def verify(graph: Graph, *, after: str) -> None:
    """Raise VerificationError, naming the pass `after` and the node, if the graph is invalid."""
    nodes = list(graph.walk())
    for node in nodes:
        try:
            _check_operands(graph, node)
            _check_node(graph, node)
        except _Invalid as invalid:
            _fail(str(invalid), after, graph, node)
    modes = {op.gate for op in map(graph.op, nodes) if isinstance(op, SparseK)}
    if len(modes) > 1:
        _fail(f"selections have gate modes {sorted(modes)}", after, graph, graph.root)


class _Invalid(Exception):
    """Why one node is invalid."""


def _fail(reason: str, after: str, graph: Graph, node: NodeId) -> NoReturn:
    where = f"%{node} ({type(graph.op(node)).__name__})"
    raise VerificationError(reason, pass_name=after, node=where) from None


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise _Invalid(reason)


def _check_operands(graph: Graph, node: NodeId) -> None:
    """Arity and kinds of operands."""
    op, operands = graph.op(node), graph.operands(node)
    arity = len(operands)
    wanted: tuple[type[Op], ...] = _GATES
    match op:
        case Box() | Where() | SparseK():
            _require(arity == 0, f"expected no operands, found {arity}")
        case Union() | Intersection():
            _require(arity >= 2, f"expected two operands or more, found {arity}")
        case Complement():
            _require(arity == 1, f"expected one operand, found {arity}")
        case Sweep():
            least = 2 if op.gathered else 1
            _require(arity >= least, f"expected {least} operands or more, found {arity}")
        case Partition():
            _require(node == graph.root, "a partition is not the root")
            wanted = (Sweep,)
    for operand in operands:
        kind = graph.op(operand)
        _require(
            isinstance(kind, wanted),
            f"operand %{operand} is a {type(kind).__name__}",
        )


def _check_node(graph: Graph, node: NodeId) -> None:
    op = graph.op(node)
    match op:
        case SparseK():
            _require(
                op.k >= 1 and op.lag >= 0,
                f"expected k >= 1 and lag >= 0, found k={op.k} and lag={op.lag}",
            )
        case Complement():
            soft = [inner for inner in _leaves(graph, node) if _is_soft(graph.op(inner))]
            _require(not soft, f"the complement of the soft selection %{min(soft, default=0)}")
        case Sweep():
            _check_sweep(graph, node, op)
        case Partition():
            _check_partition(graph, node, op)


def _drawn(box: Box) -> str:
    return f"{{{box_condition(box)}}}"


def _is_soft(op: Op) -> bool:
    return isinstance(op, SparseK) and op.gate != "hard"


def _leaves(graph: Graph, node: NodeId) -> set[NodeId]:
    operands = graph.operands(node)
    return {leaf for operand in operands for leaf in _leaves(graph, operand)} or {node}


def _check_sweep(graph: Graph, node: NodeId, op: Sweep) -> None:
    gate, *others = graph.operands(node)
    for other in others:
        kind = graph.op(other)
        _require(isinstance(kind, SparseK), f"expected a selection, found {type(kind).__name__}")
    _require(len(set(others)) == len(others), "a selection is given twice")
    crisp = graph.op(gate) == Box()
    if op.gathered:
        _require(op.bounds is None, "a gathered sweep has bounds")
        _require(op.step == 1, "a gathered sweep has a step")
    else:
        _require(crisp, "the gate of a contiguous sweep is not constant")
        _require(len(op.boxes) == 1, f"expected one box, found {len(op.boxes)}")
    if not crisp:
        for inner in _inside(graph, gate):
            kind = graph.op(inner)
            _require(
                isinstance(kind, SparseK | Union | Intersection),
                f"the gate holds a {type(kind).__name__}",
            )
    _require(len(op.boxes) > 0, "no boxes")
    _require(len(op.condition) > 0, "a condition that no pair meets")
    _require(not any(box.empty for box in op.boxes), "an empty box")
    for a, b in itertools.combinations(op.boxes, 2):
        _require(a.intersect(b).empty, f"boxes {_drawn(a)} and {_drawn(b)} overlap")


def _inside(graph: Graph, node: NodeId) -> set[NodeId]:
    inner = (_inside(graph, operand) for operand in graph.operands(node))
    return {node}.union(*inner)


def _check_partition(graph: Graph, node: NodeId, op: Partition) -> None:
    sweeps = [graph.op(operand) for operand in graph.operands(node)]
    contiguous = [s for s in sweeps if isinstance(s, Sweep) and not s.gathered]
    bounded = [s.bounds is not None for s in contiguous]
    _require(all(bounded) or not any(bounded), "only some contiguous sweeps have bounds")
    for a, b in itertools.combinations(contiguous, 2):
        _require(
            a.boxes[0].intersect(b.boxes[0]).empty or a.condition != b.condition,
            f"contiguous sweeps {_drawn(a.boxes[0])} and {_drawn(b.boxes[0])} overlap",
        )
    if op.schedule is not None:
        _require(all(bounded), "scheduled sweeps have no bounds")
        _check_schedule(op.schedule)


def _check_schedule(schedule: Schedule) -> None:
    packed = schedule.packed_heads
    _require(
        packed >= 1 and packed & (packed - 1) == 0,
        f"expected a power of two of packed heads, found {packed}",
    )
    tiles = (
        schedule.forward,
        schedule.backward_query,
        schedule.backward_gathered,
        schedule.backward_contiguous,
    )
    for tile in tiles:
        # the heads of a gathered tile's columns make up for few queries
        heads = packed if tile is schedule.backward_gathered else 1
        sides = (tile.queries * heads, tile.keys)
        _require(
            all(side >= 16 and side & (side - 1) == 0 for side in sides),
            f"expected powers of two from 16 on, found {tile.queries} queries and {tile.keys} keys",
        )
        _require(
            tile.warps >= 1 and tile.stages >= 1,
            f"expected warps and stages, found {tile.warps} and {tile.stages}",
        )
    _require(
        schedule.segment > 0 and schedule.segment % schedule.forward.queries == 0,
        f"segment {schedule.segment} is no multiple of {schedule.forward.queries} queries",
    )
