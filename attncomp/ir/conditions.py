"""From the predicate of a `where` to nodes of a graph: boxes where they say it, tests elsewhere."""

from __future__ import annotations

from typing import Final

from typing_extensions import assert_never

from attncomp.errors import DivisorError, PredicateRangeError, Span, SubscriptError
from attncomp.frontend import predicate as syntax
from attncomp.ir.affine import Affine, Entry, Remainder, constant, index, term
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Box, Complement, Intersection, Interval, Op, TestRelation, Union, Where

_LIMIT: Final = 1 << 61  # of any number that a predicate computes on its way
_NOWHERE: Final = Interval(0, 0)


def add_condition(graph: Graph, condition: syntax.Condition, span: Span | None) -> NodeId:
    """Add the pairs for which a predicate holds; raises PredicateRangeError and DivisorError."""
    span = condition.span or span
    match condition:
        case syntax.Compare(relation, left, right):
            return _add_comparison(graph, relation, affine(left), affine(right), span)
        case syntax.And(parts):
            nodes = [add_condition(graph, part, span) for part in parts]
            return graph.add(Intersection(span=span), nodes)
        case syntax.Or(parts):
            nodes = [add_condition(graph, part, span) for part in parts]
            return graph.add(Union(span=span), nodes)
        case syntax.Not(operand):
            return graph.add(Complement(span=span), [add_condition(graph, operand, span)])
        case _:
            assert_never(condition)


def affine(integer: syntax.Integer) -> Affine:
    """An integer expression in canonical form."""
    match integer:
        case syntax.Number(value):
            result = constant(value)
        case syntax.Variable(name):
            result = index(name)
        case syntax.Negative(operand):
            result = -affine(operand)
        case syntax.Entry(tensor, indices):
            result = term(Entry(tensor, tuple(map(_position, indices))))
        case syntax.Arithmetic(operator, left, right):
            result = _arithmetic(operator, affine(left), affine(right), right.span)
        case _:
            assert_never(integer)
    if result.reach > _LIMIT:
        raise PredicateRangeError(integer.span)
    return result


def _position(integer: syntax.Integer) -> Affine:
    """A subscript, which holds no entry itself."""
    position = affine(integer)
    if position.entries:
        raise SubscriptError(integer.span, found=str(position.entries[0]))
    return position


def _arithmetic(
    operator: syntax.Operator, left: Affine, right: Affine, span: Span | None
) -> Affine:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left.times(right)
        case "//" | "%":
            if right.terms or right.constant == 0:
                raise DivisorError(span, found=str(right))
            quotient = operator == "//"
            return (left.quotient if quotient else left.remainder)(right.constant)
        case _:
            assert_never(operator)


def _add_comparison(
    graph: Graph, relation: syntax.Relation, left: Affine, right: Affine, span: Span | None
) -> NodeId:
    kind: TestRelation
    match relation:
        case "==" | "!=":
            kind, value = "==", left - right
        case ">=" | "<":
            kind, value = ">=", left - right
        case "<=" | ">":
            kind, value = ">=", right - left
        case _:
            assert_never(relation)
    return add_test(graph, kind, value, relation in ("==", ">=", "<="), span)


def add_test(
    graph: Graph, relation: TestRelation, value: Affine, wanted: bool, span: Span | None
) -> NodeId:
    """Add the pairs for which `value relation 0` is `wanted`."""
    op, holds = _test(relation, value, span)
    node = graph.add(op)
    return node if holds == wanted else graph.add(Complement(span=span), [node])


def _test(relation: TestRelation, value: Affine, span: Span | None) -> tuple[Op, bool]:
    """`value relation 0` as an op, and whether it is the op that holds or its complement.

    Of the two signs that say the same, the first coefficient is positive; the coefficients have
    no common divisor.
    """
    if not value.terms:
        holds = value.constant == 0 if relation == "==" else value.constant >= 0
        return Box(span=span), holds
    holds = True
    if value.terms[0][1] < 0:
        # value >= 0 unless -value - 1 >= 0
        holds = relation == "=="
        value = -value if holds else -value - constant(1)
    shared = value.divisor
    if relation == "==" and value.constant % shared:
        return Box(distance=_NOWHERE, span=span), holds
    value = Affine(tuple((t, c // shared) for t, c in value.terms), value.constant // shared)
    interval = Interval(-value.constant, 1 - value.constant if relation == "==" else None)
    if value.terms == index("k").terms:
        return Box(keys=Interval(max(0, -value.constant), interval.upper), span=span), holds
    if value.terms == (index("q") - index("k")).terms:
        return Box(distance=interval, span=span), holds
    if relation == "==" and _out_of_reach(value):
        return Box(distance=_NOWHERE, span=span), holds
    return Where(relation=relation, value=value, span=span), holds


def _out_of_reach(value: Affine) -> bool:
    """Whether the value is a remainder plus a constant that no remainder makes 0."""
    if len(value.terms) != 1:
        return False
    part = value.terms[0][0]
    return isinstance(part, Remainder) and not 0 <= -value.constant < part.divisor
