"""Mistakes in the modifiers of a pattern."""

from __future__ import annotations

from attncomp.errors.base import PatternError


class UnknownModifierError(PatternError):
    """A name behind `with` that no modifier has. Fields: name."""

    template = "unknown modifier {name}"


class RepeatedModifierError(PatternError):
    """A modifier that a pattern has twice. Fields: name."""

    template = "modifier {name} is given twice"


class ModifiedOperandError(PatternError):
    """A pattern with modifiers as an operand of | & - or ~, which combine gates alone."""

    template = "a pattern with modifiers cannot be combined with others"
    standing_hint = "'with' stands after the whole pattern"
