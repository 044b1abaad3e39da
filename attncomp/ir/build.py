"""From the syntax tree of a pattern to its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from typing_extensions import assert_never

from attncomp.errors import GateModeError, SoftComplementError, Span
from attncomp.frontend import ast
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Box, Complement, Intersection, Interval, Op, SparseK, Union

_PAST: Final = Interval(0, None)


def _first(count: int, span: Span | None) -> Op:
    # Causal, so that a sink never shows a query what lies ahead of it.
    return Box(distance=_PAST, keys=Interval(0, count), span=span)


# One entry a primitive of `attncomp.frontend.catalog`; the keywords are its parameters.
PRIMITIVE_OPS: Final[Mapping[str, Callable[..., Op]]] = MappingProxyType(
    {
        "full": lambda span: Box(span=span),
        "causal": lambda span: Box(distance=_PAST, span=span),
        "window": lambda size, span: Box(distance=Interval(0, size), span=span),
        "first": _first,
        "sparsek": lambda span, **arguments: SparseK(span=span, **arguments),
    }
)


def build(expr: ast.Expr) -> Graph:
    """The graph of a pattern, one node a tree node; `a - b` becomes `a & ~b`.

    Raises SoftComplementError where a complement, or the right side of `-`, holds a selection
    whose gate is not "hard", and GateModeError where two selections differ in their gate mode.
    """
    graph = Graph()
    graph.set_root(_add(graph, expr))
    _require_one_mode(graph)
    return graph


def _add(graph: Graph, expr: ast.Expr) -> NodeId:
    match expr:
        case ast.Call():
            arguments: dict[str, Any] = dict(expr.arguments)
            return graph.add(PRIMITIVE_OPS[expr.name](span=expr.span, **arguments))
        case ast.Union():
            return graph.add(Union(span=expr.span), [_add(graph, m) for m in expr.members])
        case ast.Intersection():
            return graph.add(Intersection(span=expr.span), [_add(graph, m) for m in expr.members])
        case ast.Difference():
            left = _add(graph, expr.left)
            right = _add_complement(graph, expr.right, expr.right.span)
            return graph.add(Intersection(span=expr.span), [left, right])
        case ast.Complement():
            return _add_complement(graph, expr.operand, expr.span)
        case _:
            assert_never(expr)


def _add_complement(graph: Graph, operand: ast.Expr, span: Span | None) -> NodeId:
    before = len(graph)
    node = _add(graph, operand)
    for inner in range(before, len(graph)):
        op = graph.op(inner)
        if isinstance(op, SparseK) and op.gate != "hard":
            raise SoftComplementError(op.span if op.span is not None else span)
    return graph.add(Complement(span=span), [node])


def _require_one_mode(graph: Graph) -> None:
    selections = [op for op in map(graph.op, graph.walk()) if isinstance(op, SparseK)]
    for op in selections:
        if op.gate != selections[0].gate:
            raise GateModeError(op.span, expected=repr(selections[0].gate), found=repr(op.gate))
