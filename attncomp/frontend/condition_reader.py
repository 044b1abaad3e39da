"""The predicate of a `where` from lark's tree: which words are numbers and which are conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from attncomp.errors import NestingError, Source, Span, UnexpectedTextError, quoted
from attncomp.frontend.limits import MAX_NESTING
from attncomp.frontend.predicate import (
    And,
    Arithmetic,
    Compare,
    Condition,
    Entry,
    Integer,
    Negative,
    Not,
    Number,
    Operator,
    Or,
    Relation,
    Variable,
    VariableName,
)

_CONDITIONS: Final = (Compare, And, Or, Not)

Part: TypeAlias = "Condition | Integer"
_Read: TypeAlias = tuple[Part, int]  # with its depth


def read_condition(tree: Any, source: Source, literal: Callable[[Any], int]) -> Condition:
    """The condition that lark's tree below `where` is; any name stands as a Variable.

    literal reads an integer token. Raises UnexpectedTextError for a number in place of a condition
    and the other way round, NestingError for too deep a tree. Nothing recurses over the tree.
    """
    done: dict[int, _Read] = {}
    for node in tree.iter_subtrees():  # children before parents
        parts = [done.pop(id(child)) for child in node.children if hasattr(child, "data")]
        part, depth = _part(node, parts, source, literal)
        if depth > MAX_NESTING:
            raise NestingError(part.span, limit=MAX_NESTING)
        done[id(node)] = part, depth
    return _condition(done[id(tree)][0])


def _part(node: Any, parts: list[_Read], source: Source, literal: Callable[[Any], int]) -> _Read:
    span = Span(source, node.meta.start_pos, node.meta.end_pos)
    depth = 1 + max((depth for _, depth in parts), default=-1)
    operands = [operand for operand, _ in parts]
    match str(node.data):
        case "disjunction":
            return Or(tuple(map(_condition, operands)), span), depth
        case "conjunction":
            return And(tuple(map(_condition, operands)), span), depth
        case "inverse":
            return Not(_condition(operands[0]), span), depth
        case "comparison":
            return _comparison(list(map(str, node.children[1::2])), operands, span), depth + 1
        case "negative":
            return Negative(_number(operands[0]), span), depth
        case "number_of":
            return Number(literal(node.children[0]), span), 0
        case "index":
            return Variable(cast(VariableName, str(node.children[0])), span), 0
        case "entry":
            return Entry(str(node.children[0]), tuple(map(_number, operands)), span), depth
        case _:
            return _chain(list(map(str, node.children[1::2])), parts, span)


def _chain(signs: list[str], parts: list[_Read], span: Span) -> _Read:
    """`a + b - c`, grouped from the left."""
    (left, depth), *rest = parts
    result = _number(left)
    for sign, (right, right_depth) in zip(signs, rest, strict=True):
        depth = 1 + max(depth, right_depth)
        whole = Span(span.source, span.start, cast(Span, right.span).end)
        result = Arithmetic(cast(Operator, sign), result, _number(right), whole)
        if depth > MAX_NESTING:
            raise NestingError(span, limit=MAX_NESTING)
    return result, depth


def _comparison(relations: list[str], operands: list[Part], span: Span) -> Condition:
    """`a < b`, or for `a < b < c` that both hold."""
    numbers = list(map(_number, operands))
    compares = tuple(
        Compare(cast(Relation, relation), left, right, span)
        for relation, left, right in zip(relations, numbers, numbers[1:], strict=False)
    )
    return compares[0] if len(compares) == 1 else And(compares, span)


def _condition(part: Part) -> Condition:
    """A part that has to be a condition; an entry of a tensor holds where it is not 0."""
    if isinstance(part, _CONDITIONS):
        return part
    if isinstance(part, Entry):
        return Compare("!=", part, Number(0), part.span)
    raise _unexpected(part, "a condition", "compare it with something, as in 'q - k < 8'")


def _number(part: Part) -> Integer:
    """A part that has to be a number."""
    if not isinstance(part, _CONDITIONS):
        return part
    raise _unexpected(part, "a number")


def _unexpected(part: Part, expected: str, hint: str | None = None) -> UnexpectedTextError:
    span = cast(Span, part.span)
    return UnexpectedTextError(span, found=quoted(span.text), expected=expected, hint=hint)
