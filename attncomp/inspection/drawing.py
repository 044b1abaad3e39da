"""Pictures of patterns as text and as coloured half blocks."""

from __future__ import annotations

import itertools
from typing import Final

import torch
from rich.color import Color
from rich.style import Style
from rich.text import Text
from torch import Tensor

from attncomp.pictures.palette import RGB, blend, hue
from attncomp.pictures.picture import Picture

_ABSENT: Final[RGB] = (40, 40, 40)
_FAINT: Final = 0.3  # the share of its sweep's hue in a gate just above 0
_MAX_TITLES: Final = 8


def as_characters(gate: Tensor) -> str:
    """One character a pair: `.` for 0, `1` to `9` for tenths, `#` for 1."""
    tenths = torch.where(gate > 0, (gate * 10).round().clamp(1, 9), 0).to(torch.int64)
    index = torch.where(gate >= 1, 10, tenths)
    return "\n".join("".join(".123456789#"[i] for i in row) for row in index.tolist()) + "\n"


def as_blocks(gate: Tensor, sweep: Tensor, columns: int) -> tuple[Text, int]:
    """Half blocks, two queries a line, and how many pairs a cell's side stands for.

    gate and sweep [Nq, Nk] are those of a picture; a sweep has its hue. Where the matrix is wider
    than the terminal a cell shows the largest of its pairs' gates.
    """
    side = -(-gate.shape[1] // max(1, columns))
    cells, places = torch.nn.functional.max_pool2d(
        gate[None], side, ceil_mode=True, return_indices=True
    )
    owners = sweep.flatten()[places[0]]
    levels = (cells[0] * 16).round().to(torch.int64)
    # A small gate stays apart from none.
    levels = torch.where((cells[0] > 0) & (levels == 0), 1, levels)
    rows = [
        list(zip(*row, strict=True)) for row in zip(levels.tolist(), owners.tolist(), strict=True)
    ]
    if len(rows) % 2:
        rows.append([(-1, -1)] * len(rows[0]))
    text = Text(no_wrap=True, end="")
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        for (top, bottom), run in itertools.groupby(zip(upper, lower, strict=True)):
            style = Style(color=_colour(*top), bgcolor=_colour(*bottom))
            text.append("\u2580" * len(list(run)), style)
        text.append("\n")
    return text, side


def _colour(level: int, sweep: int) -> Color | None:
    """The colour of a gate in sixteenths; None below the last row."""
    if level < 0:
        return None
    if level == 0:
        return Color.from_rgb(*_ABSENT)
    share = _FAINT + (1 - _FAINT) * level / 16
    return Color.from_rgb(*blend(_ABSENT, hue(sweep), share))


def legend(picture: Picture) -> Text:
    """The sweeps, a line each, with their hues."""
    text = Text(no_wrap=True, end="")
    shown = picture.titles[:_MAX_TITLES]
    for index, title in enumerate(shown):
        text.append("\u2588\u2588", Style(color=Color.from_rgb(*hue(index))))
        text.append(f" {title}\n")
    if len(picture.titles) > len(shown):
        text.append(f"   and {len(picture.titles) - len(shown)} more sweeps\n")
    return text
