"""The modifiers of the pattern language: what stands behind `with`, one row of a table each.

To add a modifier, add a row to `_ROWS`, in the order of the canonical text; its meaning is that of
`attncomp.ir.modifiers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from attncomp.errors import Span, UnknownModifierError, quoted
from attncomp.frontend.catalog import (
    REQUIRED,
    Parameter,
    Signature,
    Value,
    name_hint,
    value_text,
)
from attncomp.frontend.primitives import PRIMITIVES

STANDARD_SLOPES: Final = "standard"
MAX_BIAS: Final = 2**20  # positions; a table of twice as many entries a head


@dataclass(frozen=True, slots=True, kw_only=True)
class ModifierRow(Signature):
    """A row of the table."""


@dataclass(frozen=True, slots=True)
class Modifier:
    """A modifier with every parameter bound, defaults included, in the declared order."""

    name: str
    arguments: tuple[tuple[str, Value], ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        row = lookup_modifier(self.name, self.span)
        defaults = {parameter.name: parameter.default for parameter in row.parameters}
        written = [(name, value) for name, value in self.arguments if value != defaults[name]]
        if not written:
            return self.name
        first = row.parameters[0]
        # What has to be given stands by itself, as in `softcap(30)`.
        bare = first.name if first.default is REQUIRED else None
        parts = [_text(v) if name == bare else f"{name}={_text(v)}" for name, v in written]
        return f"{self.name}({', '.join(parts)})"


def lookup_modifier(name: str, span: Span | None = None) -> ModifierRow:
    """The modifier called `name`; UnknownModifierError at `span`, with a suggestion, if none is."""
    row = MODIFIERS.get(name)
    if row is None:
        hint = name_hint(name, MODIFIERS, "modifiers")
        if name in PRIMITIVES:
            hint = f"{quoted(name)} is a pattern, which stands before 'with'"
        raise UnknownModifierError(span, name=quoted(name), hint=hint)
    return row


def _positive(name: str, doc: str) -> Parameter:
    return Parameter(name=name, type=float, above=0, doc=doc)


def _tensor(name: str, default: str, doc: str) -> Parameter:
    return Parameter(name=name, type=str, default=default, names_tensor=True, doc=doc)


_ROWS = (
    ModifierRow(
        name="scale",
        parameters=(_positive("factor", "What q . k is multiplied by."),),
        doc="The scale of q . k, in place of 1 / sqrt(D).",
    ),
    ModifierRow(
        name="softcap",
        parameters=(_positive("cap", "The limit of the logits on both sides."),),
        doc="Logits x become cap * tanh(x / cap) (Gemma 2, arXiv 2408.00118).",
    ),
    ModifierRow(
        name="alibi",
        parameters=(
            _tensor(
                "slopes",
                STANDARD_SLOPES,
                'A tensor [Hq] of the call, or "standard" for the slopes of the paper.',
            ),
        ),
        doc="Adds -slope * |q - k| to the logits, a slope a head (ALiBi, arXiv 2108.12409).",
    ),
    ModifierRow(
        name="bias",
        parameters=(
            Parameter(
                name="size",
                type=int,
                minimum=1,
                maximum=MAX_BIAS,
                doc="Distances from which on all have one bias.",
            ),
            _tensor("table", "bias", "A tensor [Hq, 2 * size - 1] of the call."),
        ),
        doc="Adds table[h, clamp(q - k, 1 - size, size - 1) + size - 1] to the logits "
        "(arXiv 1803.02155).",
    ),
    ModifierRow(
        name="sink",
        parameters=(_tensor("logits", "sink", "A tensor [Hq] of the call."),),
        doc="One more logit a head in each softmax, which has no value (arXiv 2309.17453).",
    ),
)

MODIFIERS: Final[Mapping[str, ModifierRow]] = MappingProxyType({row.name: row for row in _ROWS})


def modifier_hint(name: str) -> str | None:
    """For an unknown pattern that is a modifier: where it stands."""
    is_one = name in MODIFIERS
    return f"{quoted(name)} is a modifier, which stands behind 'with'" if is_one else None


def _text(value: Value) -> str:
    """A value as written; a whole number without its `.0`."""
    is_whole = isinstance(value, float) and value.is_integer() and value < 1e15
    return str(int(value)) if is_whole else value_text(value)
