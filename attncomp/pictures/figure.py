"""Pictures drawn with matplotlib, an optional dependency that is imported when one is drawn."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor

from attncomp.errors import BackendError
from attncomp.pictures.palette import RGB, blend, hue
from attncomp.pictures.picture import Picture

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

FORMATS: Final = (".png", ".svg", ".pdf")

# What keeps the time of writing out of a file.
_UNDATED: Final[Mapping[str, dict[str, Any]]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
_WHITE: Final[RGB] = (255, 255, 255)
_BLACK: Final[RGB] = (0, 0, 0)
_GREY: Final[RGB] = (110, 110, 110)
_VISITED: Final = 0.14  # the share of its hue in a pair that a sweep visits in vain
_LEAST: Final = 0.35  # and in a pair with a gate just above 0
_MIN_PIXELS: Final = 4  # below, the edges of tiles would hide what is inside
_MAX_TITLES: Final = 8
_IN_A_ROW: Final = 3
_COLUMNS: Final = 76  # characters a line that fit the width


def figure_of(picture: Picture, size: float = 6.4, *, axes: Axes | None = None) -> Figure:
    """A picture on a figure of its own, `size` inches wide, or on `axes`, whose figure it returns.

    Raises BackendError without matplotlib.
    """
    if axes is None:
        return figure_of_all([picture], size)
    _draw(axes, picture)
    return cast("Figure", axes.figure)


def figure_of_all(pictures: Sequence[Picture], size: float = 6.4) -> Figure:
    """Pictures of one shape on a figure, each `size` inches wide, three in a row.

    Raises BackendError without matplotlib.
    """
    figure_type = _matplotlib().figure.Figure
    n_queries, n_keys = pictures[0].gate.shape
    columns = min(len(pictures), _IN_A_ROW)
    rows = -(-len(pictures) // columns)
    # Pairs come out square: beside them stand the queries' numbers, above and below them text.
    height = (size - 0.8) * min(max(n_queries / n_keys, 0.15), 1.5)
    figure: Figure = figure_type(figsize=(columns * size, rows * height), layout="constrained")
    lines = max(
        _draw(figure.add_subplot(rows, columns, place), picture)
        for place, picture in enumerate(pictures, 1)
    )
    figure.set_size_inches(columns * size, rows * (height + 0.175 * lines + 0.6))
    return figure


def save(
    pictures: Sequence[Picture], target: Path | IO[Any], suffix: str, size: float = 6.4
) -> None:
    """Write pictures of one shape as `.png`, `.svg` or `.pdf`; equal pictures give equal files.

    Raises BackendError without matplotlib, OSError if the file cannot be written.
    """
    matplotlib = _matplotlib()
    with matplotlib.rc_context():
        # Whatever style the session has set.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "attncomp", "svg.fonttype": "none"})
        figure_of_all(pictures, size).savefig(
            target, format=suffix[1:], dpi=150, metadata=_UNDATED.get(suffix)
        )


def svg(*pictures: Picture) -> str:
    """Small pictures as SVG, equal texts for equal pictures; BackendError without matplotlib."""
    text = io.StringIO()
    save(pictures, text, ".svg", size=5.2)
    return text.getvalue()


def has_matplotlib() -> bool:
    """Whether there is a matplotlib to draw with."""
    return importlib.util.find_spec("matplotlib") is not None


def _matplotlib() -> ModuleType:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise BackendError(
            "pictures need matplotlib, which is not installed: pip install attncomp[plots]"
        ) from error
    return matplotlib


def _draw(axes: Axes, picture: Picture) -> int:
    """Draw a picture on axes, queries downwards: pairs, the edges of tiles, what colours mean.

    Returns the lines of text above and below.
    """
    from matplotlib.ticker import MaxNLocator

    n_queries, n_keys = picture.gate.shape
    # With square pairs, the layout would not know how much room the axes take.
    axes.imshow(_pixels(picture).numpy(), interpolation="none", aspect="auto")
    area = axes.get_window_extent()
    pixels = min(picture.tile[0] * area.height / n_queries, picture.tile[1] * area.width / n_keys)
    if pixels >= _MIN_PIXELS:
        _draw_tiles(axes, picture)
    for axis, name in ((axes.xaxis, "key"), (axes.yaxis, "query")):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axis.set_label_text(name)
    title = textwrap.fill(picture.caption, _COLUMNS, max_lines=3, placeholder=" ...")
    axes.set_title(title, fontsize=8, parse_math=False)
    labels = _draw_legend(axes, picture, tiles=pixels >= _MIN_PIXELS)
    return sum(text.count("\n") + 1 for text in (title, *labels))


def _pixels(picture: Picture) -> Tensor:
    """The colour of each pair, [Nq, Nk, 3] uint8: a sweep's hue, the paler the smaller the gate."""
    gate, count = picture.gate.double(), len(picture.titles)
    hues = torch.tensor([*(hue(index) for index in range(count)), _WHITE], dtype=torch.float64)
    attended = picture.sweep >= 0
    share = torch.where(attended, _LEAST + (1 - _LEAST) * gate, _VISITED)
    colour = hues[torch.where(attended, picture.sweep, picture.visitor())]  # -1 is white
    pixels = 255 + (colour - 255) * share[:, :, None]
    # A gate that is no number.
    pixels[gate.isnan()] = 0
    return pixels.round().to(torch.uint8)


def _draw_tiles(axes: Axes, picture: Picture) -> None:
    """Edges: fine lines between tiles of queries, thin ones with a mask, thick ones without."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    n_queries = picture.gate.shape[0]
    for start in range(picture.tile[0], n_queries, picture.tile[0]):
        axes.axhline(start - 0.5, color="0.85", linewidth=0.4, zorder=1.5)
    for sweep in range(len(picture.titles)):
        for full in (False, True):
            tiles = [t for t in picture.tiles if (t.sweep, t.full) == (sweep, full)]
            patches = [
                Rectangle((t.keys.start - 0.5, t.queries.start - 0.5), len(t.keys), len(t.queries))
                for t in tiles
            ]
            axes.add_collection(
                PatchCollection(
                    patches,
                    facecolor="none",
                    edgecolor=_edge(hue(sweep), full),
                    linewidth=_width(full),
                    zorder=2 + full,
                ),
                autolim=False,
            )


def _edge(colour: RGB, full: bool) -> str:
    """The edge of a tile: darker than its pairs where it is full, else paler."""
    return _css(blend(colour, _BLACK, 0.45) if full else blend(_WHITE, colour, 0.6))


def _width(full: bool) -> float:
    return 1.3 if full else 0.5


def _css(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _draw_legend(axes: Axes, picture: Picture, *, tiles: bool) -> list[str]:
    """The sweeps' titles, then what shades and edges mean, as far as the picture has them."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    shown = picture.titles[:_MAX_TITLES]
    rows: list[tuple[Artist | tuple[Artist, ...], str]] = [
        (Patch(color=_css(hue(index))), title) for index, title in enumerate(shown)
    ]
    if len(picture.titles) > len(shown):
        rows.append((Patch(alpha=0), f"and {len(picture.titles) - len(shown)} more sweeps"))

    def grey(share: float) -> Patch:
        return Patch(color=_css(blend(_WHITE, _GREY, share)))

    if ((picture.gate > 0) & (picture.gate < 1)).any():
        rows.append(((grey(_LEAST), grey(0.7), grey(1)), "gate from near 0 to 1"))
    if ((picture.sweep < 0) & (picture.visitor() >= 0)).any():
        rows.append((grey(_VISITED), "visited, not attended"))
    if picture.gate.isnan().any():
        rows.append((Patch(color="black"), "not a number"))
    for full, text in ((True, "tile without mask"), (False, "tile with mask")):
        if tiles and any(tile.full == full for tile in picture.tiles):
            edge = _edge(_GREY, full)
            rows.append((Patch(facecolor="none", edgecolor=edge, linewidth=_width(full)), text))
    labels = [textwrap.fill(text, _COLUMNS, max_lines=2, placeholder=" ...") for _, text in rows]
    if labels:
        legend = axes.legend(
            [handle for handle, _ in rows],
            labels,
            handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            # Below the numbers and the name of the axis.
            bbox_transform=axes.transAxes + _inches_down(axes, 0.45),
            fontsize=8,
            frameon=False,
        )
        for label in legend.get_texts():
            label.set_parse_math(False)
    return labels


def _inches_down(axes: Axes, inches: float) -> Transform:
    from matplotlib.transforms import ScaledTranslation

    return ScaledTranslation(0, -inches, axes.figure.dpi_scale_trans)
