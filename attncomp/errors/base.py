"""The bases of all errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from attncomp.source import Note, Span

_MAX_NOTES = 8  # that str() shows in full


class AttncompError(Exception):
    """Base of all errors of this package."""

    def __reduce__(self) -> tuple[Callable[..., AttncompError], tuple[Any, ...]]:
        # Exception.__reduce__ calls the class with positional arguments only.
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(
    cls: type[AttncompError], args: tuple[object, ...], attributes: dict[str, object]
) -> AttncompError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


class PatternError(AttncompError, ValueError):
    """A pattern that cannot be understood, with the place of the mistake.

    Attributes: `message` (one line), `span` (None where the pattern was built without text),
    `hint` (what to write instead, or None) and `notes` (other places, such as the calls that led
    to a mistake inside of a definition, innermost first). `str()` draws the lines with carets.
    """

    template: ClassVar[str]
    standing_hint: ClassVar[str | None] = None

    message: str
    span: Span | None
    hint: str | None
    notes: tuple[Note, ...]

    def __init__(
        self,
        span: Span | None,
        *,
        hint: str | None = None,
        notes: tuple[Note, ...] = (),
        **fields: object,
    ) -> None:
        self.message = self.template.format(**fields)
        self.span = span
        self.hint = hint if hint is not None else self.standing_hint
        self.notes = notes or getattr(span, "notes", ())
        super().__init__(self.message)

    def __str__(self) -> str:
        if self.span is not None:
            first = f"error: {self.message}\n{self.span.render(self.hint)}"
        else:
            first = f"error: {self.message}" + (f" ({self.hint})" if self.hint else "")
        notes = list(map(str, self.notes))
        if len(notes) > _MAX_NOTES:
            kept = _MAX_NOTES // 2
            notes[kept:-kept] = [f"({len(notes) - 2 * kept} more)"]
        return "\n".join((first, *notes))
