"""What stands in a generated module in place of a kernel while its launches are only looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class StandIn:
    """`stand_in[grid](...)` hands `note` a launch's arguments and keywords, no more."""

    def __init__(self, note: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> None:
        self._note = note

    def __getitem__(self, grid: object) -> StandIn:
        return self

    def __call__(self, *args: Any, **keywords: Any) -> None:
        self._note(args, keywords)
