"""Where in a Python program a pattern was written: spans that are looked up when first needed.

To record one costs about a microsecond; the file is read when an error or a label shows it.
"""

from __future__ import annotations

import functools
import itertools
import linecache
import os
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, Final, NamedTuple, TypeAlias

from attncomp.errors import Source, Span

_Position: TypeAlias = tuple[int | None, int | None, int | None, int | None]

_UNKNOWN: Final[_Position] = (None, None, None, None)
_PACKAGE: Final = __name__.split(".")[0]

# By file: the lines as linecache gave them, and their text. New lines are another list.
_sources: dict[str, tuple[list[str], Source]] = {}


class Place(NamedTuple):
    """Lines, from 1, and columns, in bytes of UTF-8, as a code object tells them.

    The columns are None where only the first line is known.
    """

    file: str
    line: int
    end_line: int
    column: int | None
    end_column: int | None


class PythonSpan(Span):
    """The span of an expression in a Python file.

    If the file has changed since it was run, the span is what stands at its place now; if it is
    gone, an empty one that still has its line.
    """

    __slots__ = ("_origin", "_resolved")

    _origin: Place | tuple[CodeType, int]
    _resolved: Span | None

    def __init__(self, origin: Place | tuple[CodeType, int]) -> None:
        object.__setattr__(self, "_origin", origin)
        object.__setattr__(self, "_resolved", None)

    @property
    def place(self) -> Place:
        """Lines and columns of the expression."""
        if not isinstance(self._origin, Place):
            object.__setattr__(self, "_origin", _place(*self._origin))
        assert isinstance(self._origin, Place)
        return self._origin

    @property
    def _span(self) -> Span:
        if self._resolved is None:
            object.__setattr__(self, "_resolved", _read(self.place))
        assert self._resolved is not None
        return self._resolved

    @property
    def source(self) -> Source:
        return self._span.source

    @property
    def start(self) -> int:
        return self._span.start

    @property
    def end(self) -> int:
        return self._span.end

    @property
    def line(self) -> int:
        return self.place.line

    def __repr__(self) -> str:
        return f"PythonSpan({self.place})"

    def __reduce__(self) -> tuple[Callable[..., PythonSpan], tuple[Any, ...]]:
        return type(self), (self.place,)


def caller() -> PythonSpan | None:
    """The expression that the innermost frame outside of this package evaluates.

    None where its source is not at hand: at a prompt without history, in frozen code.
    """
    frame = sys._getframe(1)
    while _is_inside(frame.f_globals.get("__name__")):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    code = frame.f_code
    if code.co_filename not in linecache.cache:
        home = frame.f_globals.get("__file__")
        if not _is_readable(code.co_filename) and not (
            home == code.co_filename and linecache.lazycache(code.co_filename, frame.f_globals)
        ):
            return None
    return PythonSpan((code, frame.f_lasti))


def _is_inside(module: object) -> bool:
    return isinstance(module, str) and (module == _PACKAGE or module.startswith(_PACKAGE + "."))


@functools.lru_cache(maxsize=1024)
def _is_readable(file: str) -> bool:
    return os.path.isfile(file)


def _place(code: CodeType, instruction: int) -> Place:
    """The place of the instruction at an offset in bytes."""
    line, end_line, column, end_column = _position(code, instruction)
    if line is None:
        lines = (at for start, end, at in code.co_lines() if start <= instruction < end)
        line = next(lines, None) or code.co_firstlineno
    if end_line is None or column is None or end_column is None:
        return Place(code.co_filename, line, line, None, None)
    return Place(code.co_filename, line, end_line, column, end_column)


def _position(code: CodeType, instruction: int) -> _Position:
    """First and last line, first and last column; None for what the interpreter does not keep."""
    if sys.version_info >= (3, 11):
        positions = itertools.islice(code.co_positions(), instruction // 2, None)
        return next(positions, _UNKNOWN)
    else:
        return _UNKNOWN


def _read(place: Place) -> Span:
    linecache.checkcache(place.file)
    lines = linecache.getlines(place.file)
    known = _sources.get(place.file)
    if known is None or known[0] is not lines:
        known = _sources[place.file] = lines, Source(place.file, "".join(lines))
    source = known[1]
    if place.end_line > len(lines):
        return Span(source, len(source.text), len(source.text))
    first, last = lines[place.line - 1], lines[place.end_line - 1]
    if place.column is None or place.end_column is None:
        column, end_column = len(first) - len(first.lstrip()), len(first.rstrip())
    else:
        column, end_column = _characters(first, place.column), _characters(last, place.end_column)
    start = sum(map(len, lines[: place.line - 1])) + column
    end = sum(map(len, lines[: place.end_line - 1])) + end_column
    return Span(source, start, max(start, end))


def _characters(line: str, count: int) -> int:
    """How many characters the first `count` bytes of a line are."""
    line = line.removesuffix("\n")
    return len(line.encode("utf-8", "surrogatepass")[:count].decode("utf-8", "ignore"))
