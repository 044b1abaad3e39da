"""The bare names of a predicate: indices of the pair, and parameters of a definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from typing_extensions import assert_never

from attncomp.errors import (
    AmbiguousNameError,
    ArithmeticTypeError,
    UnknownIndexError,
    cropped,
    quoted,
    suggest,
)
from attncomp.frontend.catalog import Value, value_text
from attncomp.frontend.predicate import (
    VARIABLES,
    And,
    Arithmetic,
    Compare,
    Condition,
    Entry,
    Integer,
    Negative,
    Not,
    Number,
    Or,
    Variable,
    children,
)

_INDICES: Final = frozenset(VARIABLES)

P = TypeVar("P", "Condition", "Integer")


def free_names(condition: Condition) -> Iterator[Variable]:
    """The names of a predicate as it stands in a text that are no indices, in order."""
    for variable in _variables(condition):
        if variable.name not in _INDICES:
            yield variable


def check_names(condition: Condition, known: Mapping[str, object] | None) -> None:
    """UnknownIndexError for a name that is neither an index nor a known parameter.

    AmbiguousNameError for an index that is also a parameter.
    """
    for variable in _variables(condition):
        is_known = known is not None and variable.name in known
        if variable.name in _INDICES:
            if is_known:
                raise AmbiguousNameError(variable.span, name=quoted(variable.name))
        elif not is_known:
            close = suggest(variable.name, [*_INDICES, *(known or ())])
            hint = f"did you mean '{close}'?" if close is not None else None
            raise UnknownIndexError(variable.span, name=quoted(variable.name), hint=hint)


def _variables(condition: Condition) -> Iterator[Variable]:
    left: list[Condition | Integer] = [condition]
    while left:
        node = left.pop()
        if isinstance(node, Variable):
            yield node
        left += reversed(children(node))


def resolved(condition: Condition, values: Mapping[str, Value] | None) -> Condition:
    """The predicate with the values of parameters for their names.

    Raises the errors of `check_names`, and ArithmeticTypeError for a value that is no integer.
    """
    check_names(condition, values)
    return condition if values is None else _with_values(condition, values)


def _with_values(node: P, values: Mapping[str, Value]) -> P:
    match node:
        case Compare() | Arithmetic():
            left, right = _with_values(node.left, values), _with_values(node.right, values)
            return replace(node, left=left, right=right)
        case And() | Or():
            return replace(node, parts=tuple(_with_values(part, values) for part in node.parts))
        case Not() | Negative():
            return replace(node, operand=_with_values(node.operand, values))
        case Entry():
            return replace(node, indices=tuple(_with_values(i, values) for i in node.indices))
        case Number():
            return node
        case Variable():
            return _value(node, values)
        case _:
            assert_never(node)


def _value(variable: Variable, values: Mapping[str, Value]) -> Integer:
    if variable.name in _INDICES:
        return variable
    value = values[variable.name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArithmeticTypeError(
            variable.span, operator="a predicate", found=cropped(value_text(value))
        )
    number = Number(abs(value), variable.span)
    return number if value >= 0 else Negative(number, variable.span)
