"""`heads`: patterns for groups of query heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attncomp.errors import HeadSliceError, Span, cropped
from attncomp.frontend.ast import Expr, HeadGroups
from attncomp.frontend.caller import caller
from attncomp.frontend.limits import MAX_HEADS
from attncomp.frontend.slices import HeadSlice

_INDEX: Final = re.compile(r"\s*-?[0-9]{1,9}\s*", re.ASCII)
_SLICE: Final = re.compile(r"\s*(-?[0-9]{1,9})?\s*:\s*(-?[0-9]{1,9})?\s*", re.ASCII)


def heads(groups: Mapping[int | str | slice, Expr]) -> HeadGroups:
    """The pattern of the group that a query head is in, each with kernels of its own.

    groups: patterns by half-open slices of heads, `"0:8"`, `"-2:"` (`slice(0, 8)` where Python's
    slices are hashable, from 3.12 on), or by the index of one head.
    Raises HeadSliceError, HeadOverlapError and HeadGapError for slices that do not cut the heads.
    """
    span = caller()
    parts = []
    for key, pattern in groups.items():
        if not isinstance(pattern, Expr):
            raise TypeError(f"expected a pattern for heads {key}, found {type(pattern).__name__}")
        parts.append((_head_slice(key, span), pattern))
    if not parts:
        raise HeadSliceError(span, reason="expected one slice or more, found none")
    return HeadGroups(tuple(parts), span)


def _head_slice(key: object, span: Span | None) -> HeadSlice:
    if isinstance(key, int) and not isinstance(key, bool):
        return HeadSlice.of_index(_head(key, span) or 0, span)
    start: object = None
    stop: object = None
    if isinstance(key, slice) and key.step is None:
        start, stop = key.start, key.stop
    elif isinstance(key, str) and (found := _SLICE.fullmatch(key)) is not None:
        start, stop = (None if end is None else int(end) for end in found.groups())
    elif isinstance(key, str) and _INDEX.fullmatch(key) is not None:
        return _head_slice(int(key), span)
    else:
        shown = cropped(repr(key))
        raise HeadSliceError(span, reason=f"expected an index or a slice, found {shown}")
    first, end = (_head(value, span) for value in (start, stop))
    return HeadSlice(first or 0, end, span)


def _head(value: object, span: Span | None) -> int | None:
    """An end of a slice; HeadSliceError for what is no integer or beyond all heads."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise HeadSliceError(span, reason=f"expected an integer, found {cropped(repr(value))}")
    if abs(value) > MAX_HEADS:
        raise HeadSliceError(span, reason=f"expected at most {MAX_HEADS} heads, found {value}")
    return value
