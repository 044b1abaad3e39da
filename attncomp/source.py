"""Texts and places in them: how an error draws the line that it is about."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

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
    """Characters `start` to `end` (exclusive) of a source; empty at the end of the text.

    `notes` are the calls that brought a part of a definition into a pattern, innermost first.
    """

    source: Source
    start: int
    end: int
    notes: tuple[Note, ...] = field(default=(), compare=False, repr=False)

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
        before = printable(text[left : self.start])
        inside = printable(text[self.start : min(self.end, right)].rstrip("\r"))
        after = printable(text[min(self.end, right) : right].rstrip("\r"))
        before, inside, after = _fitted(before, inside, after)
        carets = "^" * max(1, _columns(inside))
        below = " " * _columns(before) + carets + (f" {note}" if note else "")
        place = f"{printable(self.source.name)}:{self.line}:{self.column}"
        shown = (before + inside + after).rstrip()
        return f" --> {place}\n  | {shown}".rstrip() + f"\n  | {below}"


@dataclass(frozen=True, slots=True)
class Note:
    """A second place that an error is about, with the words that lead to it."""

    text: str
    span: Span | None

    def __str__(self) -> str:
        return self.text if self.span is None else f"{self.text}:\n{self.span.render()}"


def printable(text: str) -> str:
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
    return printable(text if len(text) <= _QUOTE_WIDTH else text[: _QUOTE_WIDTH - 3] + "...")


def quoted(text: str) -> str:
    """`cropped` text in single quotes."""
    return f"'{cropped(text)}'"


def suggest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, upper and lower case aside; None if none is close.

    If none is, the shortest one that begins with three letters or more that are all of the name.
    Long names are left out: to compare two takes time in proportion to the square of their length.
    """
    by_lower = {c.lower(): c for c in candidates if len(c) <= _LINE_WIDTH}
    if len(name) > _LINE_WIDTH:
        return None
    lower = name.lower()
    close = difflib.get_close_matches(lower, by_lower, n=1, cutoff=0.65)
    begun = [c for c in by_lower if c.startswith(lower)] if len(name) >= 3 else []
    return by_lower[close[0]] if close else by_lower[min(begun, key=len)] if begun else None
