"""The bare names of a predicate: indices of the pair, and parameters of a definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

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
    Condition,
    Integer,
    Negative,
    Number,
    Variable,
    children,
    with_parts,
)

_INDICES: Final = frozenset(VARIABLES)
_FLEX: Final = {"q_idx": "q", "kv_idx": "k"}  # as FlexAttention has them


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
            close = _FLEX.get(variable.name) or suggest(variable.name, [*_INDICES, *(known or ())])
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
    found: Condition = condition if values is None else _with_values(condition, values)
    return found


def _with_values(node: Condition | Integer, values: Mapping[str, Value]) -> Any:
    if isinstance(node, Variable):
        return _value(node, values)
    return with_parts(node, lambda part: _with_values(part, values))


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
