"""From a pattern and a problem to the kernel plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

from typing_extensions import assert_never

from attncomp.codegen.hopper import with_hopper
from attncomp.codegen.plan import (
    Comparison,
    Gate,
    KernelPlan,
    Largest,
    Selected,
    SelectionPlan,
    Smallest,
    StridedPart,
    SweepPlan,
)
from attncomp.frontend.ast import Expr, to_text
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.modifiers import NO_MODIFIERS, Modifiers, modifiers_of
from attncomp.ir.ops import (
    Box,
    Intersection,
    Interval,
    Partition,
    SparseK,
    Sweep,
    Union,
)
from attncomp.ir.passes import Callback, pipeline, run
from attncomp.ir.passes.stride import class_graph
from attncomp.ir.printer import box_condition, box_name, condition_text, place, selection_text
from attncomp.ir.schedule import Problem, Schedule, Tile
from attncomp.ir.walk import walk_of, without

Conjunction: TypeAlias = tuple[Comparison, ...]


def lower(
    pattern: str | Expr,
    problem: Problem,
    callback: Callback | None = None,
    *,
    schedule: Schedule | None = None,
) -> KernelPlan:
    """Parse, build, run all passes and flatten: the plan of a pattern for a problem.

    `callback(pass, graph, seconds)` is called after each pass. A pattern that attends nothing has
    a plan without sweeps. schedule: one to take in place of the table's. Raises a PatternError with
    its place for a pattern that has no meaning, and BackendError for a target or head dim without a
    schedule.
    """
    expr = parse(pattern) if isinstance(pattern, str) else pattern
    return lower_graph(
        build(expr), problem, to_text(expr), modifiers_of(expr), callback, schedule=schedule
    )


def lower_graph(
    graph: Graph,
    problem: Problem,
    pattern: str,
    modifiers: Modifiers = NO_MODIFIERS,
    callback: Callback | None = None,
    *,
    schedule: Schedule | None = None,
) -> KernelPlan:
    """The plan of a graph of gates, as `lower` has it for that of a pattern."""
    # Biases are about positions of the whole, and a sink counts once in the softmax of all parts.
    classes = not modifiers.positional and modifiers.sink is None
    tables = int(modifiers.bias is not None)
    passes = pipeline(problem, classes=classes, schedule=schedule, pair_tables=tables)
    return plan_of(run(graph, passes, callback), problem, pattern, modifiers, given=schedule)


def plan_of(
    graph: Graph,
    problem: Problem,
    pattern: str,
    modifiers: Modifiers = NO_MODIFIERS,
    *,
    given: Schedule | None = None,
) -> KernelPlan:
    """The plan that a scheduled graph is, for the pattern with the given canonical text.

    given: the schedule that strided parts take in place of the table's.
    """
    partition = graph.op(graph.root)
    if not isinstance(partition, Partition) or partition.schedule is None:
        raise ValueError(f"expected a scheduled partition, found {type(partition).__name__}")
    sweeps = [cast(Sweep, graph.op(node)) for node in graph.operands(graph.root)]
    selections = _selections(graph)
    scores = tuple(dict.fromkeys(op.scores for op in selections.ops))
    modes = {op.gate for op in selections.ops}
    plan = KernelPlan(
        mode=modes.pop() if modes else None,
        scores=scores,
        selections=tuple(
            SelectionPlan(k=op.k, lag=op.lag, scores=op.scores) for op in selections.ops
        ),
        sweeps=tuple(
            _sweep_plan(graph, node, selections, partition.schedule)
            for node, sweep in zip(graph.operands(graph.root), sweeps, strict=True)
            if sweep.step == 1
        ),
        problem=problem,
        schedule=partition.schedule,
        strided=tuple(
            _strided_part(graph, step, selections, partition.schedule, problem, modifiers, given)
            for step in sorted({sweep.step for sweep in sweeps if sweep.step > 1})
        ),
        modifiers=modifiers.in_kernels,
        pattern=pattern,
    )
    return with_hopper(plan)


def _strided_part(
    graph: Graph,
    step: int,
    selections: _Selections,
    schedule: Schedule,
    problem: Problem,
    modifiers: Modifiers,
    given: Schedule | None,
) -> StridedPart:
    nodes = [n for n in graph.operands(graph.root) if cast(Sweep, graph.op(n)).step == step]
    inner = class_graph([cast(Sweep, graph.op(node)) for node in nodes], step)
    sweeps = tuple(_sweep_plan(graph, node, selections, schedule) for node in nodes)
    title = f"one class modulo {step} of {' and '.join(sweep.label for sweep in sweeps)}"
    plan = lower_graph(inner, problem, title, modifiers, schedule=given)
    return StridedPart(step=step, sweeps=sweeps, plan=plan)


@dataclass(frozen=True, slots=True)
class _Selections:
    """The selections of a plan, in order, and the index of each selection node."""

    ops: tuple[SparseK, ...]
    indices: dict[NodeId, int]


def _selections(graph: Graph) -> _Selections:
    nodes = [node for node in graph.walk() if isinstance(graph.op(node), SparseK)]
    ops = {cast(SparseK, graph.op(node)) for node in nodes}
    ordered = sorted(ops, key=lambda op: (op.lag, op.scores, -op.k))
    indices = {node: ordered.index(cast(SparseK, graph.op(node))) for node in nodes}
    return _Selections(tuple(ordered), indices)


def _sweep_plan(
    graph: Graph, node: NodeId, selections: _Selections, schedule: Schedule
) -> SweepPlan:
    op = cast(Sweep, graph.op(node))
    gate, *others = graph.operands(node)
    indices = [selections.indices[other] for other in others]
    source = indices[0] if op.gathered else None
    absent = tuple(indices[1:] if op.gathered else indices)
    if source is None:
        residual = contiguous_residual(op.boxes[0])
    else:
        residual = gathered_residual(op.boxes, selections.ops[source])
    crisp = isinstance(graph.op(gate), Box)
    plan_gate = None if crisp else _gate(graph, gate, selections)
    full_tiles = source is None and not absent and _has_full_tiles(op, schedule.forward)
    walk, met = walk_of(op) or (None, None)
    return SweepPlan(
        source=source,
        box=op.boxes,
        absent=absent,
        residual=residual,
        gate=plan_gate,
        bounds=op.bounds,
        condition=op.condition if met is None else without(op.condition, met),
        full_tiles=full_tiles and walk is None,
        step=op.step,
        walk=walk,
        label=_label(op, source, plan_gate, absent, residual, selections.ops),
        origin="" if op.span is None else f"{op.span.source.name}:{place(op.span)}",
    )


def _has_full_tiles(sweep: Sweep, tile: Tile) -> bool:
    """Whether a sweep's box is wide enough that a loop without mask code pays for its text.

    A query tile attends at least `width - queries` neighbouring keys in common, of which two key
    tiles hold one whole tile wherever they start.
    """
    if sweep.bounds is None or sweep.bounds.full_keys is None:
        return False
    distance, keys = sweep.boxes[0].distance, sweep.boxes[0].keys
    wide = (
        distance.lower is None
        or distance.upper is None
        or distance.upper - distance.lower >= tile.queries + 2 * tile.keys
    )
    return wide and (keys.upper is None or keys.upper - (keys.lower or 0) >= 2 * tile.keys)


def _gate(graph: Graph, node: NodeId, selections: _Selections) -> Gate:
    op = graph.op(node)
    members = tuple(_gate(graph, operand, selections) for operand in graph.operands(node))
    match op:
        case Union():
            return Largest(members)
        case Intersection():
            return Smallest(members)
        case SparseK():
            return Selected(selections.indices[node])
        case _:
            raise TypeError(f"expected a gate over selections, found {type(op).__name__}")


def contiguous_residual(box: Box) -> tuple[Conjunction, ...]:
    """The comparisons that a pair of existing positions needs to be in the box."""
    conjunction = _comparisons(box.distance, box.keys)
    return (conjunction,) if conjunction else ()


def gathered_residual(boxes: tuple[Box, ...], source: SparseK) -> tuple[Conjunction, ...]:
    """The comparisons that a selected pair needs to be in one of the boxes.

    What selection implies, `q - k >= lag`, is left out; () where nothing remains.
    """
    conjunctions = []
    for box in boxes:
        lower = box.distance.lower
        implied = lower is None or lower <= source.lag
        distance = Interval(None if implied else lower, box.distance.upper)
        conjunctions.append(_comparisons(distance, box.keys))
    return () if () in conjunctions else tuple(conjunctions)


def _comparisons(distance: Interval, keys: Interval) -> Conjunction:
    found = []
    if distance.lower is not None:
        found.append(Comparison("distance", ">=", distance.lower))
    if distance.upper is not None:
        found.append(Comparison("distance", "<", distance.upper))
    if keys.lower is not None and keys.lower > 0:
        found.append(Comparison("key", ">=", keys.lower))
    if keys.upper is not None:
        found.append(Comparison("key", "<", keys.upper))
    return tuple(found)


def _label(
    sweep: Sweep,
    source: int | None,
    gate: Gate | None,
    absent: tuple[int, ...],
    residual: tuple[Conjunction, ...],
    ops: tuple[SparseK, ...],
) -> str:
    """`window: 0 <= q - k < 256`, `sparsek(k=512) where q - k >= 256`.

    A hard gate is a condition on which pairs are attended, and so part of the label.
    """
    if source is None:
        box, where = sweep.boxes[0], condition_text(sweep.condition)
        name = box_name(box) or "band"
        parts = [f"{name}: {box_condition(box)}"] if box != Box() or not where else []
        text = ", ".join([*parts, f"where {where}"] if where else parts)
    else:
        text = selection_text(ops[source])
        groups = [" and ".join(map(str, conjunction)) for conjunction in residual]
        parts = [" or ".join(groups), condition_text(sweep.condition)]
        text += " where " + ", and ".join(filter(None, parts)) if any(parts) else ""
        if gate is not None and ops[source].gate == "hard":
            text += f", and in {_members(gate, ops)}"
    return text + "".join(f", not in {selection_text(ops[index])}" for index in absent)


def _members(gate: Gate, ops: tuple[SparseK, ...]) -> str:
    """The selections that a pair has to be in for a hard gate of 1."""
    match gate:
        case Selected(index):
            return selection_text(ops[index])
        case Largest(members):
            return " or ".join(_members(member, ops) for member in members)
        case Smallest(members):
            parts = [(member, _members(member, ops)) for member in members]
            return " and ".join(f"({t})" if isinstance(m, Largest) else t for m, t in parts)
        case _:
            assert_never(gate)
