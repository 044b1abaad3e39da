"""Syntax to trees: looks names up, computes arguments and replaces calls of definitions.

A definition is a macro: a call becomes its body, with the arguments for the parameters.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Protocol

from typing_extensions import assert_never

from attncomp.errors import (
    ArithmeticRangeError,
    ArithmeticTypeError,
    DivisionByZeroError,
    HeadSliceError,
    NestingError,
    Note,
    PatternError,
    PatternTooLargeError,
    Span,
    UnexpectedTextError,
    UnknownParameterError,
    cropped,
    quoted,
)
from attncomp.frontend.ast import (
    Call,
    Complement,
    Difference,
    Expr,
    HeadGroups,
    Intersection,
    Modified,
    Union,
    Where,
)
from attncomp.frontend.catalog import Argument, Primitive, Signature, Value, name_hint, value_text
from attncomp.frontend.diagnose import value_hint
from attncomp.frontend.limits import MAX_HEADS, MAX_NESTING, MAX_NODES
from attncomp.frontend.modifiers import Modifier, lookup_modifier
from attncomp.frontend.names import resolved
from attncomp.frontend.predicate import extent_of
from attncomp.frontend.slices import HeadSlice
from attncomp.frontend.syntax import (
    ArgumentSyntax,
    Arithmetic,
    Chain,
    HeadsSyntax,
    Literal,
    ModifiedSyntax,
    Name,
    Negation,
    OperationKind,
    ParameterName,
    Reference,
    Syntax,
    WhereSyntax,
)

_LIMIT: Final = 2**63  # results beyond it fit no parameter, and their digits would only grow

_OPERATORS: Final[Mapping[str, Callable[[int | float, int | float], int | float]]] = (
    MappingProxyType(
        {
            "+": operator.add,
            "-": operator.sub,
            "*": operator.mul,
            "//": operator.floordiv,
            "%": operator.mod,
        }
    )
)


class Scope(Protocol):
    """What the names of a text mean."""

    def find(self, name: Name) -> Primitive | Definition:
        """The pattern of that name; UnknownPatternError at its span if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition(Signature):
    """`pattern name(parameters) = body`, with the scope of its file.

    `span` is the place of the name, `places` holds those of the parameters.
    """

    body: Syntax = field(compare=False, repr=False)
    scope: Scope = field(compare=False, repr=False)
    span: Span = field(compare=False, repr=False)
    places: Mapping[str, Span] = field(compare=False, repr=False)

    @property
    def is_private(self) -> bool:
        """Whether only files that import it by name see it."""
        return self.name.startswith("_")


def expand(syntax: Syntax, scope: Scope) -> Expr:
    """The tree of a pattern outside of any definition. Raises PatternError, as `parser.parse`."""
    return _Expansion().pattern(syntax, scope, None, 1)


def expand_call(
    definition: Definition,
    arguments: Sequence[Argument],
    *,
    span: Span | None,
    missing_span: Span | None = None,
) -> Expr:
    """The tree of a call of a definition, at `span`."""
    bound = definition.bind(arguments, missing_span=missing_span)
    return _Expansion().call(definition, bound, span, 1)


class _Expansion:
    """One run of macros: counts what it makes, so that none grows beyond the limits.

    `values` are those of the parameters around, None outside of a definition; `level` counts the
    operators and calls of definitions around. The spans of nodes note the calls around.
    """

    def __init__(self) -> None:
        self._nodes = 0
        self._calls: tuple[Note, ...] = ()  # around what is expanded now, innermost first

    def pattern(
        self, syntax: Syntax, scope: Scope, values: Mapping[str, Value] | None, level: int
    ) -> Expr:
        """The tree of a part of the text. Recursion goes as deep as `level` may."""
        if isinstance(syntax, Reference):
            return self._reference(syntax, scope, values, level)
        if isinstance(syntax, WhereSyntax):
            self._count(syntax.span, 1 + extent_of(syntax.condition)[0])
            return Where(resolved(syntax.condition, values), self._noted(syntax.span))
        if isinstance(syntax, ModifiedSyntax):
            pattern = self.pattern(syntax.pattern, scope, values, level)
            modifiers = tuple(self._modifier(m, values) for m in syntax.modifiers)
            return Modified(pattern, modifiers, self._noted(syntax.span))
        if isinstance(syntax, HeadsSyntax):
            return self._heads(syntax, scope, values, level)
        self._count(syntax.span)
        _check_level(level, syntax.span)
        operands = [self.pattern(part, scope, values, level + 1) for part in syntax.operands]
        return _operation(syntax.kind, operands, self._noted(syntax.span))

    def call(
        self,
        definition: Definition,
        bound: Sequence[tuple[str, Value]],
        span: Span | None,
        level: int,
    ) -> Expr:
        """The body of a definition with values for its parameters."""
        called = cropped(definition.call_text(bound))
        text = f"in {called}, called here" if span is not None else f"in {called}"
        outer = self._calls
        self._calls = (Note(text, span), *outer)
        try:
            _check_level(level, span)
            tree = self.pattern(definition.body, definition.scope, dict(bound), level + 1)
        except PatternError as error:
            # The innermost call is first to see the error; a node's span has noted all of them.
            error.notes = error.notes or self._calls
            raise
        self._calls = outer
        return tree

    def _reference(
        self,
        reference: Reference,
        scope: Scope,
        values: Mapping[str, Value] | None,
        level: int,
    ) -> Expr:
        self._count(reference.span)
        target = scope.find(reference.name)
        arguments = [
            self._argument(argument, values, target.name) for argument in reference.arguments
        ]
        bound = target.bind(arguments, missing_span=reference.end)
        if isinstance(target, Definition):
            return self.call(target, bound, reference.span, level)
        return Call(target.name, bound, self._noted(reference.span))

    def _modifier(self, reference: Reference, values: Mapping[str, Value] | None) -> Modifier:
        self._count(reference.span)
        row = lookup_modifier(reference.name.text, reference.name.span)
        arguments = [self._argument(argument, values, row.name) for argument in reference.arguments]
        bound = row.bind(arguments, missing_span=reference.end)
        return Modifier(row.name, bound, self._noted(reference.span))

    def _heads(
        self, syntax: HeadsSyntax, scope: Scope, values: Mapping[str, Value] | None, level: int
    ) -> Expr:
        self._count(syntax.span)
        _check_level(level, syntax.span)
        groups = []
        for place, part in syntax.groups:
            self._nodes += sum(map(operators, place.ends))
            self._count(place.span, 0)
            start, stop = (
                None if end is None else _head(end, evaluate(end, values, None))
                for end in (place.start, place.stop)
            )
            span = self._noted(place.span)
            heads = (
                HeadSlice.of_index(start, span)
                if place.is_index and start is not None
                else HeadSlice(start or 0, stop, span)
            )
            groups.append((heads, self.pattern(part, scope, values, level + 1)))
        return HeadGroups(tuple(groups), self._noted(syntax.span))

    def _argument(
        self, argument: ArgumentSyntax, values: Mapping[str, Value] | None, callee: str
    ) -> Argument:
        self._nodes += operators(argument.value)
        self._count(argument.span, 0)
        return bound_argument(argument, evaluate(argument.value, values, callee))

    def _noted(self, span: Span) -> Span:
        return replace(span, notes=self._calls) if self._calls else span

    def _count(self, span: Span, nodes: int = 1) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise PatternTooLargeError(span, limit=MAX_NODES, unit="operators and primitives")


def _head(end: Arithmetic, value: Value) -> int:
    """A head's number; HeadSliceError for what is no integer or beyond all heads."""
    if isinstance(value, bool) or not isinstance(value, int):
        found = cropped(value_text(value))
        raise HeadSliceError(end.span, reason=f"expected an integer, found {found}")
    if abs(value) > MAX_HEADS:
        raise HeadSliceError(end.span, reason=f"expected at most {MAX_HEADS} heads, found {value}")
    return value


def _check_level(level: int, span: Span | None) -> None:
    if level > MAX_NESTING:
        raise NestingError(span, limit=MAX_NESTING)


def _operation(kind: OperationKind, operands: list[Expr], span: Span) -> Expr:
    match kind:
        case "union":
            return Union(tuple(operands), span)
        case "intersection":
            return Intersection(tuple(operands), span)
        case "difference":
            return Difference(operands[0], operands[1], span)
        case "negation":
            return Complement(operands[0], span)
        case _:
            assert_never(kind)


def bound_argument(argument: ArgumentSyntax, value: Value) -> Argument:
    """An argument with its value and places, for `Signature.bind`."""
    literal = argument.value.operand if isinstance(argument.value, Negation) else argument.value
    return Argument(
        name=None if argument.name is None else argument.name.text,
        value=value,
        span=argument.span,
        name_span=None if argument.name is None else argument.name.span,
        value_span=argument.value.span,
        computed=not isinstance(literal, Literal),
    )


def operators(value: Arithmetic) -> int:
    """How many operators between values there are."""
    match value:
        case Literal() | ParameterName():
            return 0
        case Negation():
            return operators(value.operand)
        case Chain():
            return len(value.rest) + sum(operators(part) for part in parts(value))
        case _:
            assert_never(value)


def parts(chain: Chain) -> list[Arithmetic]:
    """The operands of a chain."""
    return [chain.first, *(operand for _, operand in chain.rest)]


def parameter_names(value: Arithmetic) -> list[ParameterName]:
    """The parameters that a value depends on, in the order of the text."""
    match value:
        case Literal():
            return []
        case ParameterName():
            return [value]
        case Negation():
            return parameter_names(value.operand)
        case Chain():
            return [name for part in parts(value) for name in parameter_names(part)]
        case _:
            assert_never(value)


def evaluate(value: Arithmetic, values: Mapping[str, Value] | None, callee: str | None) -> Value:
    """The result of arithmetic; values: of the parameters, None where there can be none.

    Raises UnexpectedTextError, UnknownParameterError and the errors of arithmetic. `callee` is
    the pattern whose argument it is, for the hints.
    """
    match value:
        case Literal():
            return value.value
        case ParameterName():
            return _parameter(value, values, callee)
        case Negation():
            return -_number("-", value.operand, evaluate(value.operand, values, callee))
        case Chain():
            result = evaluate(value.first, values, callee)
            left = value.first
            for sign, operand in value.rest:
                result = _apply(
                    sign,
                    _number(sign, left, result),
                    _number(sign, operand, evaluate(operand, values, callee)),
                    Span(value.span.source, value.span.start, operand.span.end),
                    operand.span,
                )
            return result
        case _:
            assert_never(value)


def _parameter(
    name: ParameterName, values: Mapping[str, Value] | None, callee: str | None
) -> Value:
    if values is None:
        hint = value_hint(name.name, callee)
        raise UnexpectedTextError(name.span, found=quoted(name.name), expected="a value", hint=hint)
    if name.name not in values:
        raise unknown_parameter(name, values, callee)
    return values[name.name]


def unknown_parameter(
    name: ParameterName, known: Mapping[str, object], callee: str | None
) -> UnknownParameterError:
    """The error for a name that is none of the known parameters."""
    hint = value_hint(name.name, callee) or name_hint(name.name, known, "parameters")
    return UnknownParameterError(name.span, name=quoted(name.name), hint=hint)


def _number(sign: str, operand: Arithmetic, value: Value) -> int | float:
    if isinstance(value, bool | str):
        raise ArithmeticTypeError(
            operand.span, operator=f"'{sign}'", found=cropped(value_text(value))
        )
    return value


def _apply(sign: str, left: int | float, right: int | float, span: Span, divisor: Span) -> Value:
    """`left sign right`, its text at `span`."""
    if right == 0 and sign in ("//", "%"):
        raise DivisionByZeroError(divisor, operator=f"'{sign}'")
    try:
        result = _OPERATORS[sign](left, right)
    except OverflowError:  # an integer beyond the floats
        result = math.inf
    if not -_LIMIT <= result <= _LIMIT:  # or not a number
        raise ArithmeticRangeError(span, operator=f"'{sign}'")
    return result
