"""Slices of query heads, as they stand in `heads{slice -> pattern, ...}`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from attncomp.errors import HeadGapError, HeadOverlapError, HeadSliceError, Note, Span


@dataclass(frozen=True, slots=True)
class HeadSlice:
    """Query heads `start <= h < stop`, as Python has it: below 0 from the last head, None for all.

    Raises HeadSliceError at its span for one that can hold no head.
    """

    start: int
    stop: int | None
    span: Span | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        alike = self.stop is not None and (self.start < 0) == (self.stop < 0)
        if self.stop is not None and alike and self.start >= self.stop:
            raise HeadSliceError(self.span, reason=f"{self} holds no head")

    @staticmethod
    def of_index(index: int, span: Span | None = None) -> HeadSlice:
        """The slice of one head."""
        return HeadSlice(index, None if index == -1 else index + 1, span)

    @property
    def is_counted(self) -> bool:
        """Whether both ends are known without the number of heads, an open one aside."""
        return self.start >= 0 and (self.stop is None or self.stop >= 0)

    def __str__(self) -> str:
        if self.stop == self.start + 1:
            return str(self.start)
        return f"{self.start}:{'' if self.stop is None else self.stop}"


def check_slices(slices: Sequence[HeadSlice]) -> None:
    """Raises the errors of `attncomp.frontend.ast.HeadGroups`."""
    counted = sorted((s for s in slices if s.is_counted), key=lambda s: s.start)
    for before, after in pairwise(counted):
        notes = () if before.span is None else (Note(f"{before} stands here", before.span),)
        if before.stop is None or after.start < before.stop:
            raise HeadOverlapError(after.span, first=str(before), second=str(after), notes=notes)
        if len(counted) == len(slices) and after.start > before.stop:
            gap = HeadSlice(before.stop, after.start)
            raise HeadGapError(after.span, heads=str(gap), notes=notes)
    if len(counted) == len(slices) and counted[0].start > 0:
        raise HeadGapError(counted[0].span, heads=str(HeadSlice(0, counted[0].start)))
