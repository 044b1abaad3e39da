"""From the syntax tree of a pattern to its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from typing_extensions import assert_never

from attncomp.errors import (
    GateModeError,
    PatternError,
    RankError,
    SoftComplementError,
    Span,
    TensorNameError,
    quoted,
)
from attncomp.frontend import ast
from attncomp.frontend.diagnose import RESERVED
from attncomp.frontend.heads import heads_condition
from attncomp.frontend.predicate import VARIABLES
from attncomp.ir.affine import index
from attncomp.ir.conditions import add_condition, equality
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Box, Complement, Intersection, Interval, Op, SparseK, Union, Where

CALL_NAMES: Final = (
    *("self", "q", "k", "v", "scale", "return_lse"),
    *("heads", "head", "batch", "tile", "ax"),  # of masks and pictures
)
_PAST: Final = Interval(0, None)


def _first(count: int, span: Span | None) -> Op:
    # Causal, so that a sink never shows a query what lies ahead of it.
    return Box(distance=_PAST, keys=Interval(0, count), span=span)


def _chunk(size: int, span: Span | None) -> Op:
    return equality(index("q").quotient(size), index("k").quotient(size), span)


# One entry a primitive of `attncomp.frontend.catalog`; the keywords are its parameters.
PRIMITIVE_OPS: Final[Mapping[str, Callable[..., Op]]] = MappingProxyType(
    {
        "full": lambda span: Box(span=span),
        "causal": lambda span: Box(distance=_PAST, span=span),
        "window": lambda size, span: Box(distance=Interval(0, size), span=span),
        "first": _first,
        "chunk": _chunk,
        "sparsek": lambda span, **arguments: SparseK(span=span, **arguments),
    }
)


def build(expr: ast.Expr) -> Graph:
    """The graph of a pattern, one node a tree node; `a - b` becomes `a & ~b`.

    Raises SoftComplementError where a complement, or the right side of `-`, holds a selection
    whose gate is not "hard", GateModeError where two selections differ in their gate mode, and for
    predicates DivisorError, SubscriptError, PredicateRangeError and RankError. TensorNameError for
    a tensor, of scores or in a predicate, whose name is taken.
    """
    graph = Graph()
    graph.set_root(_add(graph, expr))
    _require_one_mode(graph)
    _check_tensors(graph)
    return graph


def _add(graph: Graph, expr: ast.Expr) -> NodeId:
    match expr:
        case ast.Call():
            arguments: dict[str, Any] = dict(expr.arguments)
            return graph.add(PRIMITIVE_OPS[expr.name](span=expr.span, **arguments))
        case ast.Where():
            return _add_condition(graph, expr)
        case ast.HeadGroups():
            return _add_groups(graph, expr)
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


def _add_groups(graph: Graph, expr: ast.HeadGroups) -> NodeId:
    """The union of the members, each where the head is in its group."""
    members = []
    for heads, member in expr.groups:
        node, condition = _add(graph, member), heads_condition(heads)
        if condition is not None:
            tests = add_condition(graph, condition, heads.span)
            node = graph.add(Intersection(span=heads.span), [tests, node])
        members.append(node)
    return members[0] if len(members) == 1 else graph.add(Union(span=expr.span), members)


def _add_condition(graph: Graph, expr: ast.Where) -> NodeId:
    try:
        return add_condition(graph, expr.condition, expr.span)
    except PatternError as error:
        # Only the whole knows the calls of definitions that led to it.
        error.notes = error.notes or getattr(expr.span, "notes", ())
        raise


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


def _check_tensors(graph: Graph) -> None:
    """TensorNameError for the names of tensors, RankError for those that tests read."""
    ops = [graph.op(node) for node in graph.walk()]
    uses: dict[str, str] = dict.fromkeys(RESERVED, "a reserved word")
    uses |= dict.fromkeys(map(str, VARIABLES), "an index of the pair")
    uses |= dict.fromkeys(CALL_NAMES, "an argument of every call")
    selections = [op for op in ops if isinstance(op, SparseK)]
    for selection in selections:
        if selection.scores in uses:
            name, use = quoted(selection.scores), uses[selection.scores]
            raise TensorNameError(selection.span, name=name, use=use)
    uses |= {op.scores: "a tensor of scores" for op in selections}
    ranks: dict[str, int] = {}
    for op in ops:
        for entry in op.value.entries if isinstance(op, Where) else ():
            name, rank = entry.tensor, len(entry.indices)
            if name in uses:
                raise TensorNameError(op.span, name=quoted(name), use=uses[name])
            known = ranks.setdefault(name, rank)
            if rank != known:
                expected, found = _subscripts(known), _subscripts(rank)
                raise RankError(op.span, name=quoted(name), expected=expected, found=found)


def _subscripts(count: int) -> str:
    return "1 subscript" if count == 1 else f"{count} subscripts"
