"""Every error that attncomp raises on purpose: one class per mistake.

`PatternError` and its subclasses point at a place in the text of a pattern; `CallError` and its
subclasses name an argument of a call. All of them derive from `AttncompError`, survive pickling
and carry their parts as attributes, so that tools need not read the message.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

_LINE_WIDTH = 88  # columns of source text shown under an error
_TAB_WIDTH = 4
_QUOTE_WIDTH = 40  # characters of source text quoted inside a message


@dataclass(frozen=True, slots=True)
class Source:
    """A named text: a file, or `<spec>` for a string passed to `compile`."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a source; empty at the end of the text."""

    source: Source
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= len(self.source.text):
            raise ValueError(
                f"span {self.start}:{self.end} is outside a text of {len(self.source.text)}"
            )

    @property
    def line(self) -> int:
        """Number of the line in which the span starts, from 1."""
        return self.source.text.count("\n", 0, self.start) + 1

    @property
    def column(self) -> int:
        """Number of the character in its line at which the span starts, from 1."""
        return self.start - self._line_start + 1

    @property
    def text(self) -> str:
        """The characters themselves."""
        return self.source.text[self.start : self.end]

    @property
    def _line_start(self) -> int:
        return self.source.text.rfind("\n", 0, self.start) + 1

    def render(self, note: str | None = None) -> str:
        """The place, the line and carets below it, followed by `note`: three lines of text.

        Long lines are cropped around the span; a span over several lines shows its first.
        """
        text = self.source.text
        line_end = text.find("\n", self.start)
        line_end = len(text) if line_end < 0 else line_end
        # A slice of a few hundred characters suffices, however long the line is.
        left = max(self._line_start, self.start - 2 * _LINE_WIDTH)
        right = min(line_end, self.start + 2 * _LINE_WIDTH)
        before = _drawn(text[left : self.start])
        inside = _drawn(text[self.start : min(self.end, right)].rstrip("\r"))
        after = _drawn(text[min(self.end, right) : right].rstrip("\r"))
        before, inside, after = _fitted(before, inside, after)
        carets = "^" * max(1, _columns(inside))
        below = " " * _columns(before) + carets + (f" {note}" if note else "")
        place = f"{_drawn(self.source.name)}:{self.line}:{self.column}"
        shown = (before + inside + after).rstrip()
        return f" --> {place}\n  | {shown}".rstrip() + f"\n  | {below}"


def _drawn(text: str) -> str:
    """`text` safe for a terminal: tabs widened, other unprintable characters replaced."""
    return "".join(
        " " * _TAB_WIDTH if c == "\t" else c if c.isprintable() else "\ufffd" for c in text
    )


def _columns(text: str) -> int:
    """Terminal columns that `text` takes: East Asian wide characters take two, accents none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _fitted(before: str, inside: str, after: str) -> tuple[str, str, str]:
    """The three parts of a line, shortened with '...' to `_LINE_WIDTH` characters in all."""
    if len(before) + len(inside) + len(after) <= _LINE_WIDTH:
        return before, inside, after
    half = _LINE_WIDTH // 2
    # Leave before the span what the span and the text after it do not need.
    keep_before = max(half, _LINE_WIDTH - len(inside) - len(after))
    if len(before) > keep_before:
        before = "..." + before[len(before) - keep_before + 3 :]
    room = _LINE_WIDTH - len(before)
    if len(inside) > room:
        return before, inside[: room - 3], "..."
    room -= len(inside)
    if len(after) > room:
        # A span that fills the line to within three columns is still marked as cropped.
        after = after[: max(0, room - 3)] + "..."
    return before, inside, after


def cropped(text: str) -> str:
    """`text` on one line for a message, shortened, with unprintable characters replaced."""
    return _drawn(text if len(text) <= _QUOTE_WIDTH else text[: _QUOTE_WIDTH - 3] + "...")


def quoted(text: str) -> str:
    """`cropped` text in single quotes."""
    return f"'{cropped(text)}'"


def suggest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, upper and lower case aside; None if none is close."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


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

    Attributes: `message` (one line), `span` (None where the pattern was built without text) and
    `hint` (what to write instead, or None). `str()` draws the line with carets.
    """

    template: ClassVar[str]
    standing_hint: ClassVar[str | None] = None

    message: str
    span: Span | None
    hint: str | None

    def __init__(self, span: Span | None, *, hint: str | None = None, **fields: object) -> None:
        self.message = self.template.format(**fields)
        self.span = span
        self.hint = hint if hint is not None else self.standing_hint
        super().__init__(self.message)

    def __str__(self) -> str:
        if self.span is not None:
            return f"error: {self.message}\n{self.span.render(self.hint)}"
        return f"error: {self.message}" + (f" ({self.hint})" if self.hint else "")


class UnknownPatternError(PatternError):
    """A name that no primitive has. Fields: name."""

    template = "unknown pattern {name}"


class UnknownArgumentError(PatternError):
    """A keyword that the primitive does not take. Fields: pattern, argument."""

    template = "{pattern} has no argument {argument}"


class RepeatedArgumentError(PatternError):
    """An argument given twice. Fields: pattern, argument."""

    template = "argument {argument} of {pattern} is given twice"


class ArgumentTypeError(PatternError):
    """An argument of the wrong type. Fields: pattern, argument, expected, found."""

    template = "argument {argument} of {pattern} must be {expected}, found {found}"


class ArgumentRangeError(PatternError):
    """An argument outside its range or choices. Fields: pattern, argument, expected, found."""

    template = "argument {argument} of {pattern} must be {expected}, found {found}"


class ArgumentOrderError(PatternError):
    """A positional argument behind a keyword. Fields: pattern."""

    template = "positional argument of {pattern} stands behind a keyword argument"


class MissingArgumentError(PatternError):
    """A required argument that is not given. Fields: pattern, argument."""

    template = "{pattern} needs argument {argument}"


class TooManyArgumentsError(PatternError):
    """More arguments than parameters. Fields: pattern, expected, found."""

    template = "{pattern} takes {expected}, found {found}"


class UnexpectedEndError(PatternError):
    """The text stops where something must follow. Fields: expected."""

    template = "unexpected end of the pattern: expected {expected}"


class UnexpectedTextError(PatternError):
    """Text that cannot stand where it stands. Fields: found, expected."""

    template = "unexpected {found}: expected {expected}"


class SoftComplementError(PatternError):
    """`~A` or `B - A` with a soft A, for which 1 - A has no sparse form."""

    template = "a soft pattern has no complement"
    standing_hint = 'only sparsek(..., gate="hard") may stand here'


class GateModeError(PatternError):
    """Two soft members of one pattern differ in their gate mode. Fields: expected, found."""

    template = "soft members must share one gate mode: expected {expected}, found {found}"


class NestingError(PatternError):
    """Parentheses or operators nested too deeply. Fields: limit."""

    template = "pattern is nested deeper than {limit} levels"


class PatternTooLargeError(PatternError):
    """A text or a tree over the size limit. Fields: limit, unit."""

    template = "pattern is larger than {limit} {unit}"


class EmptyPatternError(PatternError):
    """A text of blanks and comments only."""

    template = "empty pattern"
    standing_hint = "write for example 'window(256)', or 'full' for all keys"


class CallError(AttncompError, ValueError):
    """A compiled pattern called with an argument that does not fit.

    Fields: `subject` (the argument's name), `expected`, `found` (tuples are drawn as shapes) and
    `pattern` (its text, or None where no pattern is concerned).
    """

    noun: ClassVar[str] = ""

    def __init__(
        self, *, subject: str, expected: object, found: object, pattern: str | None = None
    ) -> None:
        self.subject = subject
        self.expected = expected
        self.found = found
        self.pattern = pattern
        noun = f"{self.noun} " if self.noun else ""
        where = f" (pattern '{pattern}')" if pattern is not None else ""
        super().__init__(
            f"{subject}: expected {noun}{_shape(expected)}, found {_shape(found)}{where}"
        )


def _shape(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class MissingTensorError(CallError):
    """A tensor that the pattern needs is not given."""

    noun = "tensor"


class UnknownTensorError(CallError):
    """A tensor that the pattern does not use is given."""

    noun = "a tensor named"


class TensorShapeError(CallError):
    """A tensor has the wrong shape."""

    noun = "shape"


class TensorDtypeError(CallError):
    """A tensor has the wrong dtype."""

    noun = "dtype"


class TensorDeviceError(CallError):
    """A tensor lies on the wrong device."""

    noun = "device"


class TensorLayoutError(CallError):
    """A tensor has strides or a layout that no kernel takes."""

    noun = "layout"


class OptionError(CallError):
    """An option that is not a tensor (scale, backend, ...) has a value that is not allowed."""


class BackendError(AttncompError, RuntimeError):
    """A path that cannot run here; the message says which and why."""


class VerificationError(AttncompError, RuntimeError):
    """A pass left an invalid graph: a defect of this package. Names the pass and the node."""

    def __init__(self, reason: str, *, pass_name: str, node: str) -> None:
        self.reason = reason
        self.pass_name = pass_name
        self.node = node
        super().__init__(f"pass {pass_name!r} left an invalid graph at {node}: {reason}")


class CacheError(AttncompError, RuntimeError):
    """The kernel cache can neither be read nor rebuilt; the message names the path."""
