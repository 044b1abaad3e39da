"""Graphs as text: the listing of a graph, and boxes and gates as formulas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from typing_extensions import assert_never

from attncomp.errors import Span
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import (
    ALL,
    Bounds,
    Box,
    Complement,
    Condition,
    Intersection,
    Interval,
    Op,
    Partition,
    SparseK,
    Sweep,
    Union,
    Where,
)
from attncomp.ir.schedule import Schedule, Tile

_INDENT = " " * 8


def place(span: Span) -> str:
    """`1:17-28`: line, first column and the column behind the last; `1:17-2:5` over lines."""
    tail = span.source.text[: span.end].rsplit("\n", 1)[-1]
    end_line, end_column = span.line + span.text.count("\n"), len(tail) + 1
    end = str(end_column) if end_line == span.line else f"{end_line}:{end_column}"
    return f"{span.line}:{span.column}-{end}"


def interval_text(interval: Interval, name: str) -> str:
    """`0 <= q - k < 256`, `q - k >= 256`, `k < 4`; "" for no limits."""
    lower, upper = interval.lower, interval.upper
    if lower is not None and upper is not None:
        return f"{lower} <= {name} < {upper}"
    if lower is not None:
        return f"{name} >= {lower}"
    return "" if upper is None else f"{name} < {upper}"


def box_condition(box: Box) -> str:
    """The pairs of a box as comparisons, `any` for all of them and `none` for none."""
    if box.empty:
        return "none"
    keys = Interval(None if (box.keys.lower or 0) <= 0 else box.keys.lower, box.keys.upper)
    parts = [interval_text(box.distance, "q - k"), interval_text(keys, "k")]
    return ", ".join(part for part in parts if part) or "any"


def box_name(box: Box) -> str | None:
    """The primitive that a box is, None if it is none of them."""
    distance, keys = box.distance, box.keys
    if box.empty:
        return None
    if (keys.lower or 0) <= 0 and keys.upper is not None:
        return "first" if distance == Interval(0, None) else None
    if (keys.lower or 0) > 0:
        return None
    if distance == ALL:
        return "full"
    if distance.lower != 0:
        return None
    return "causal" if distance.upper is None else "window"


def box_text(box: Box) -> str:
    """`window(256)` where a primitive says it, else the comparisons in braces."""
    match box_name(box):
        case "window":
            return f"window({box.distance.upper})"
        case "first":
            return f"first({box.keys.upper})"
        case None:
            return f"{{{box_condition(box)}}}"
        case name:
            return name


def selection_text(op: SparseK) -> str:
    """`sparsek(k=512, lag=256)`: the selection without its gate mode."""
    lag = f", lag={op.lag}" if op.lag else ""
    scores = f', scores="{op.scores}"' if op.scores != "scores" else ""
    return f"sparsek(k={op.k}{lag}{scores})"


def condition_text(condition: Condition) -> str:
    """`q // 64 == k // 64`, requirements joined by `and`, lists of them by `or`; "" for always."""
    return " or ".join(" and ".join(map(str, requirements)) for requirements in condition)


def formula(graph: Graph, node: NodeId | None = None) -> str:
    """The gate at a node, the root if not given, as an expression on one line.

    >>> from attncomp.frontend.parser import parse
    >>> from attncomp.ir.build import build
    >>> formula(build(parse("causal - window(8) | sparsek(k=4, lag=8)")))
    '(causal & ~window(8)) | sparsek(k=4, lag=8)'
    """
    node = graph.root if node is None else node
    op = graph.op(node)
    match op:
        case Box():
            return box_text(op)
        case Where():
            return f"where({op.text()})"
        case SparseK():
            return selection_text(op)
        case Complement():
            return "~" + _operand(graph, graph.operands(node)[0])
        case Union():
            return " | ".join(_operand(graph, operand) for operand in graph.operands(node))
        case Intersection():
            return " & ".join(_operand(graph, operand) for operand in graph.operands(node))
        case Sweep() | Partition():
            raise TypeError(f"expected a gate, found {type(op).__name__} at node {node}")
        case _:
            assert_never(op)


def _operand(graph: Graph, node: NodeId) -> str:
    text = formula(graph, node)
    return f"({text})" if isinstance(graph.op(node), Union | Intersection) else text


def print_graph(graph: Graph, *, spans: bool = True) -> str:
    """The graph as a listing: one node a line, operands before users, the root last.

    Nodes are numbered in the order of `Graph.walk`, so that graphs of equal structure print
    alike; `spans=False` leaves the places in the source out.
    """
    names = {node: f"%{number}" for number, node in enumerate(graph.walk())}
    lines: list[str] = []
    for node, name in names.items():
        op = graph.op(node)
        head, *rest = _op_lines(op, [names[operand] for operand in graph.operands(node)])
        line = f"{name} = {head}"
        if spans and op.span is not None:
            line = f"{line:<56} # {place(op.span)}"
        lines += [line, *(_INDENT + text for text in rest)]
    return "\n".join([*lines, f"return {names[graph.root]}", ""])


def _op_lines(op: Op, operands: list[str]) -> list[str]:
    match op:
        case Box():
            return [f"box {box_condition(op)}"]
        case Where():
            return [f"where {op.text()}"]
        case SparseK():
            return [f"sparsek k={op.k} lag={op.lag} gate={op.gate} scores={op.scores}"]
        case Union() | Intersection() | Complement():
            return [f"{type(op).__name__.lower()} {', '.join(operands)}"]
        case Sweep():
            return _sweep_lines(op, operands)
        case Partition():
            schedule = [] if op.schedule is None else schedule_lines(op.schedule)
            return [f"partition {', '.join(operands)}".rstrip(), *schedule]
        case _:
            assert_never(op)


def _sweep_lines(op: Sweep, operands: list[str]) -> list[str]:
    gate, *others = operands
    source = f" of {others[0]}" if op.gathered else ""
    absent = others[1:] if op.gathered else others
    without = f", without {', '.join(absent)}" if absent else ""
    kind = "gathered" if op.gathered else "contiguous"
    head = f"sweep {kind}{source}, gate {gate}{without}"
    boxes = [f"box {box_condition(box)}" for box in op.boxes]
    where = condition_text(op.condition)
    boxes += [f"where {where}"] if where else []
    boxes += [f"in classes modulo {op.step}"] if op.step > 1 else []
    return [head, *boxes, *([] if op.bounds is None else bounds_lines(op.bounds))]


def bounds_lines(bounds: Bounds) -> list[str]:
    """The four ranges of a contiguous sweep, two a line, and what limits them at the call."""
    extent = condition_text(bounds.extent) if bounds.extent else ""
    return [
        f"keys {bounds.keys}, full {bounds.full_keys or 'unknown'}",
        f"queries {bounds.queries}, full {bounds.full_queries or 'unknown'}",
        *([f"within the extent of {extent}"] if extent else []),
    ]


def schedule_lines(schedule: Schedule) -> list[str]:
    """The schedule, one tile a line."""
    tiles: Mapping[str, Tile] = {
        "forward": schedule.forward,
        "backward_query": schedule.backward_query,
        "backward_gathered": schedule.backward_gathered,
        "backward_contiguous": schedule.backward_contiguous,
    }
    return [
        f"packed_heads {schedule.packed_heads}, segment {schedule.segment}",
        *_tile_lines(tiles.items()),
    ]


def _tile_lines(tiles: Iterable[tuple[str, Tile]]) -> list[str]:
    return [
        f"{name} {tile.queries} queries x {tile.keys} keys, "
        f"{tile.warps} warps, {tile.stages} stages"
        for name, tile in tiles
    ]
