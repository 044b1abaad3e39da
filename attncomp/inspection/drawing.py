"""Gate matrices as text, as coloured half blocks and as pictures."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from rich.color import Color
from rich.style import Style
from rich.text import Text
from torch import Tensor

from attncomp.api import CompiledPattern
from attncomp.errors import BackendError

PICTURES: Final = (".png", ".svg", ".pdf")
_RGB = tuple[int, int, int]
_ABSENT: Final[_RGB] = (40, 40, 40)
_FAINT: Final[_RGB] = (70, 50, 140)  # a gate just above 0
_WHOLE: Final[_RGB] = (255, 215, 110)  # a gate of 1


@dataclass(frozen=True, slots=True)
class Drawing:
    """Gates [N, N], queries by keys, and a line that says what they are."""

    gate: Tensor
    caption: str


def draw(pattern: CompiledPattern, length: int, seed: int) -> Drawing:
    """The gates of a pattern among `length` positions, scores drawn from a standard normal."""
    generator = torch.Generator().manual_seed(seed)
    names = pattern.tensors
    scores = {
        name: torch.randn(1, 1, length, generator=generator, dtype=torch.float64) for name in names
    }
    drawn = f"; {', '.join(names)} standard normal, seed {seed}" if names else ""
    caption = f"gate of {pattern}: {length} queries (down) by {length} keys (right){drawn}"
    return Drawing(pattern.mask(length, None, **scores)[0, 0], caption)


def as_characters(gate: Tensor) -> str:
    """One character a pair: `.` for 0, `1` to `9` for tenths, `#` for 1."""
    tenths = torch.where(gate > 0, (gate * 10).round().clamp(1, 9), 0).to(torch.int64)
    index = torch.where(gate >= 1, 10, tenths)
    return "\n".join("".join(".123456789#"[i] for i in row) for row in index.tolist()) + "\n"


def as_blocks(gate: Tensor, columns: int) -> tuple[Text, int]:
    """Coloured half blocks, two queries a line, and how many pairs a cell's side stands for.

    Where the matrix is wider than the terminal a cell shows the largest of its pairs' gates.
    """
    side = -(-gate.shape[1] // max(1, columns))
    cells = torch.nn.functional.max_pool2d(gate[None], side, ceil_mode=True)[0]
    if cells.shape[0] % 2:
        cells = torch.cat([cells, cells.new_full((1, cells.shape[1]), -1)])
    levels = (cells * 16).round().to(torch.int64).clamp(min=-1)
    # A small gate stays apart from none.
    levels = torch.where((cells > 0) & (levels == 0), 1, levels)
    rows = levels.tolist()
    text = Text(no_wrap=True, end="")
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        for (top, bottom), run in itertools.groupby(zip(upper, lower, strict=True)):
            style = Style(color=_colour(top), bgcolor=_colour(bottom))
            text.append("\u2580" * len(list(run)), style)
        text.append("\n")
    return text, side


def _colour(level: int) -> Color | None:
    """The colour of a gate in sixteenths; None below the last row."""
    if level < 0:
        return None
    if level == 0:
        return Color.from_rgb(*_ABSENT)
    share = level / 16
    return Color.from_rgb(
        *(low + (high - low) * share for low, high in zip(_FAINT, _WHOLE, strict=True))
    )


def write_picture(drawing: Drawing, path: Path) -> None:
    """Write a drawing as an image; the suffix of `path`, one of PICTURES, names the format.

    Raises BackendError without matplotlib, OSError if the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(
            "pictures need matplotlib, which is not installed: pip install attncomp[plots]"
        ) from error
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(drawing.gate.numpy(), vmin=0, vmax=1, cmap="magma", interpolation="nearest")
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    axes.set_title(drawing.caption, fontsize=9, wrap=True)
    figure.colorbar(image, label="gate", fraction=0.046)
    figure.savefig(path, dpi=150)
