"""From the syntax tree of a pattern to its graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

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
from attncomp.frontend.heads import heads_condition, of_every_head
from attncomp.frontend.parser import parse
from attncomp.frontend.predicate import VARIABLES, Condition, at
from attncomp.ir.affine import Drawn, Entry, Passing, Top, index, term
from attncomp.ir.conditions import add_condition
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.modifiers import check_tensor_names
from attncomp.ir.ops import (
    Box,
    Complement,
    Intersection,
    Interval,
    Op,
    SparseK,
    Union,
    Where,
    reaches,
)
from attncomp.ir.tables import LOGITS

CALL_NAMES: Final = (
    *("self", "q", "k", "v", "scale", "return_lse"),
    *("heads", "head", "batch", "tile", "ax"),  # of masks and pictures
)
_PAST: Final = Interval(0, None)


def _first(count: int, span: Span | None) -> Op:
    # Causal, so that a sink never shows a query what lies ahead of it.
    return Box(distance=_PAST, keys=Interval(0, count), span=span)


def _window(span: Span | None, size: int = 1, before: int = 0, after: int = 0) -> Op:
    return Box(distance=Interval(-after, max(size, before + 1)), span=span)


def _listed(tensor: str, size: int, span: Span | None, table: Top | Drawn | None = None) -> Op:
    """The pairs whose blocks of `size` positions have an entry of 0 in a table of blocks."""
    blocks = index("q").quotient(size), index("k").quotient(size)
    of_heads = () if isinstance(table, Drawn) else (index("b"), index("h"))
    entry = Entry(tensor, (*of_heads, *blocks), table)
    return Where(relation="==", value=term(entry), span=span)


# Primitives that are complements: what they leave out, by the keywords that are their parameters.
EXCLUDED_OPS: Final[Mapping[str, Callable[..., Op]]] = MappingProxyType(
    {
        "blocks": lambda size, span: _listed("block_mask", size, span),
        "topk_blocks": lambda k, size, span: _listed("block_scores", size, span, Top(k)),
        "random_blocks": lambda count, size, seed, span: _listed(
            "", size, span, Drawn(count, size, seed)
        ),
    }
)
# One entry for each other primitive of `attncomp.frontend.catalog`, likewise.
PRIMITIVE_OPS: Final[Mapping[str, Callable[..., Op]]] = MappingProxyType(
    {
        "full": lambda span: Box(span=span),
        "causal": lambda span: Box(distance=_PAST, span=span),
        "window": _window,
        "first": _first,
        "threshold": reaches,
        "sparsek": lambda span, **arguments: SparseK(span=span, **arguments),
    }
)

# The primitives that are predicates; braces stand for their parameters.
PRIMITIVE_PREDICATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "chunk": "q // {size} == k // {size}",
        "dilated": "0 <= q - k < {size} * {step} and (q - k) % {step} == 0",
        "strided": "k <= q and (q - k) % {step} == 0",
        "documents": "documents[b, q] == documents[b, k]",
        "prefix_lm": "k <= q or k < prefix_lengths[b]",
        "lifetime": "k <= q < evict[b, h, k]",
    }
)


def build(expr: ast.Expr) -> Graph:
    """The graph of a pattern, one node a tree node; `a - b` becomes `a & ~b`.

    Gates know no modifiers: the graph is that of the pattern without them.

    Raises SoftComplementError where a complement, or the right side of `-`, holds a selection
    whose gate is not "hard", GateModeError where two selections differ in their gate mode, and for
    predicates DivisorError, SubscriptError, PredicateRangeError and RankError. TensorNameError for
    a tensor, of scores or in a predicate, whose name is taken.
    """
    return _built(expr, expr)


def build_all_heads(expr: ast.Expr) -> Graph:
    """The graph of what all heads attend together, whatever their number.

    Raises the errors of `build`, those for the names of modifiers' tensors included.
    """
    return _built(of_every_head(expr), expr)


def _built(expr: ast.Expr, whole: ast.Expr) -> Graph:
    graph = Graph()
    graph.set_root(_add(graph, expr))
    _require_one_mode(graph)
    check_tensor_names(whole, _check_tensors(graph))
    return graph


def _add(graph: Graph, expr: ast.Expr) -> NodeId:
    match expr:
        case ast.Call():
            return _add_call(graph, expr)
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
        case ast.Modified():
            return _add(graph, expr.pattern)
        case _:
            assert_never(expr)


def _add_call(graph: Graph, expr: ast.Call) -> NodeId:
    arguments: dict[str, Any] = dict(expr.arguments)
    if expr.name in PRIMITIVE_PREDICATES:
        text = PRIMITIVE_PREDICATES[expr.name].format(**arguments)
        return _add_condition(graph, ast.Where(at(_condition(text), expr.span), expr.span))
    if expr.name in EXCLUDED_OPS:
        rest = graph.add(EXCLUDED_OPS[expr.name](span=expr.span, **arguments))
        return graph.add(Complement(span=expr.span), [rest])
    return graph.add(PRIMITIVE_OPS[expr.name](span=expr.span, **arguments))


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


@functools.lru_cache(maxsize=256)
def _condition(text: str) -> Condition:
    """The predicate of a primitive."""
    return cast(ast.Where, parse(f"where({text})")).condition


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


def _check_tensors(graph: Graph) -> dict[str, str]:
    """TensorNameError for names of tensors, RankError for those that tests read; names in use."""
    ops = [graph.op(node) for node in graph.walk()]
    uses: dict[str, str] = dict.fromkeys(RESERVED, "a reserved word")
    uses |= dict.fromkeys(map(str, VARIABLES), "an index of the pair")
    uses |= dict.fromkeys(CALL_NAMES, "an argument of every call")
    entries = [(op, e) for op in ops if isinstance(op, Where) for e in op.value.entries]
    thresholds = [e for _, e in entries if isinstance(e.table, Passing)]
    uses |= {LOGITS: "an argument of masks"} if thresholds else {}
    selections = [op for op in ops if isinstance(op, SparseK)]
    for selection in selections:
        if selection.scores in uses:
            name, use = quoted(selection.scores), uses[selection.scores]
            raise TensorNameError(selection.span, name=name, use=use)
    uses |= {op.scores: "a tensor of scores" for op in selections}
    uses |= {e.tensor: "a tensor of scores" for _, e in entries if isinstance(e.table, Top)}
    for op, entry in entries:
        if isinstance(entry.table, Passing) and entry.tensor in uses:
            name, use = quoted(entry.tensor), uses[entry.tensor]
            raise TensorNameError(op.span, name=name, use=use)
    uses |= {e.tensor: "a tensor of thresholds" for e in thresholds}
    ranks: dict[str, int] = {}
    for op, entry in entries:
        if entry.table is None:
            name, rank = entry.tensor, len(entry.indices)
            if name in uses:
                raise TensorNameError(op.span, name=quoted(name), use=uses[name])
            known = ranks.setdefault(name, rank)
            if rank != known:
                expected, found = _subscripts(known), _subscripts(rank)
                raise RankError(op.span, name=quoted(name), expected=expected, found=found)
    return uses | dict.fromkeys(ranks, "a tensor of integers")


def _subscripts(count: int) -> str:
    return "1 subscript" if count == 1 else f"{count} subscripts"
