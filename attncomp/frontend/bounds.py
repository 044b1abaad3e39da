"""The bounds of a definition's parameters: `size: int >= 1 <= 64 = 7`."""

from __future__ import annotations

import math

from attncomp.errors import BoundError, PatternError, UnexpectedTextError, cropped, quoted
from attncomp.frontend.catalog import Value, value_text
from attncomp.frontend.syntax import BoundSyntax, ParameterSyntax


def bounds_of(
    written: ParameterSyntax, kind: type[Value]
) -> tuple[int | float | None, int | float | None]:
    """Minimum and maximum of a parameter of type `kind`, inclusive; None for none.

    Raises UnexpectedTextError for a relation that states no such bound, and BoundError for a bound
    of what is no number, a second one of its kind, a fraction for an integer, and a range that
    nothing is in.
    """
    found: dict[str, int | float] = {}
    for bound in written.bounds:
        relation = bound.relation.text
        if relation not in (">=", "<="):
            raise _unexpected(bound)
        reason = None
        if kind not in (int, float):
            reason = f"values of type {kind.__name__} have no order"
        elif relation in found:
            reason = f"it has a bound {quoted(relation)} already"
        elif not math.isfinite(bound.value):
            reason = "it must be finite"
        elif kind is int and not isinstance(bound.value, int):
            reason = f"it must be an integer, found {cropped(value_text(bound.value))}"
        elif relation == "<=" and found.get(">=", bound.value) > bound.value:
            reason = f"no number is at least {found['>=']} and at most {bound.value}"
        elif relation == ">=" and found.get("<=", bound.value) < bound.value:
            reason = f"no number is at least {bound.value} and at most {found['<=']}"
        if reason is not None:
            raise BoundError(bound.span, name=quoted(written.name.text), reason=reason)
        found[relation] = int(bound.value) if kind is int else float(bound.value)
    return found.get(">="), found.get("<=")


def _unexpected(bound: BoundSyntax) -> PatternError:
    equal = bound.relation.text == "=="
    return UnexpectedTextError(
        bound.relation.span,
        found=quoted(bound.relation.text),
        expected="'='" if equal else "'>=' or '<='",
        hint="did you mean '='?" if equal else None,
    )
