"""What the functions of this package return, with the line of Python that called them."""

from __future__ import annotations

from attncomp.errors import Span
from attncomp.frontend.ast import Call, Expr
from attncomp.frontend.caller import caller
from attncomp.frontend.catalog import Argument, Value
from attncomp.frontend.library import shipped
from attncomp.frontend.modifiers import Modifier, lookup_modifier
from attncomp.frontend.primitives import lookup


def call(name: str, /, **values: Value) -> Call:
    """A primitive called from Python with these arguments; PatternError shows that line."""
    span = caller()
    return Call(name, lookup(name).bind(_arguments(values, span), missing_span=span), span)


def modifier(name: str, /, **values: Value) -> Modifier:
    """A modifier, likewise."""
    span = caller()
    return Modifier(name, lookup_modifier(name).bind(_arguments(values, span)), span)


def definition(name: str, /, **values: Value) -> Expr:
    """What a shipped definition says, likewise."""
    span = caller()
    return shipped().expand(name, _arguments(values, span), span)


def _arguments(values: dict[str, Value], span: Span | None) -> list[Argument]:
    return [Argument(parameter, value, span) for parameter, value in values.items()]
