"""Pictures as matplotlib draws them: colours, tiles, titles, and files equal each time."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from cli_support import invoke
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure

import attncomp
from attncomp.errors import BackendError, CallError
from attncomp.frontend.parser import parse
from attncomp.pictures.figure import FORMATS, figure_of, figure_of_all, save
from attncomp.pictures.palette import blend, hue
from attncomp.pictures.request import pictured, pictured_groups

SPEC = "sparsek(k=4) | window(3)"
TITLES = ["window: 0 <= q - k < 3", "sparsek(k=4) where q - k >= 3"]
WHITE = (255, 255, 255)


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def legend_of(figure: Figure) -> list[str]:
    legend = axes_of(figure).get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def outlines(figure: Figure) -> int:
    """Tiles whose edges are drawn."""
    collections = [c for c in axes_of(figure).collections if isinstance(c, PatchCollection)]
    return sum(len(collection.get_paths()) for collection in collections)


def test_colours_of_pairs() -> None:
    scores = torch.tensor([[[3.0, 0.0, 0.5, 0.75, -2.0, -2.0]]], dtype=torch.float64)
    pattern = attncomp.compile("sparsek(k=2) | window(1)")
    figure = pattern.plot(6, tile=3, scores=scores)
    pixels = np.asarray(axes_of(figure).images[0].get_array())
    assert pixels.shape == (6, 6, 3)
    assert tuple(pixels[0, 0]) == hue(0)
    assert tuple(pixels[1, 0]) == hue(1)
    assert tuple(pixels[4, 3]) == blend(WHITE, hue(1), 0.35 + 0.65 * 0.625)
    assert tuple(pixels[0, 1]) == blend(WHITE, hue(0), 0.14)  # in a tile of the window, masked
    assert tuple(pixels[1, 3]) == WHITE  # in no tile


def test_what_is_said() -> None:
    figure = attncomp.compile(SPEC).plot(64, tile=8)
    axes = axes_of(figure)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key", "query")
    assert axes.get_title().replace("\n", " ") == (
        f"gate of {SPEC}: 64 queries (down) by 64 keys (right); scores standard normal, seed 0"
    )
    assert legend_of(figure) == [
        *TITLES,
        "gate from near 0 to 1",
        "visited, not attended",
        "tile with mask",
    ]
    assert legend_of(attncomp.compile("full").plot(8)) == ["full: any", "tile without mask"]


def test_tiles_are_drawn_unless_too_small() -> None:
    pattern = attncomp.compile("window(8)")
    picture = pictured(parse("window(8)"), 64, tile=8)
    assert outlines(pattern.plot(64, tile=8)) == len(picture.tiles)
    figure = pattern.plot(512, tile=2)
    assert outlines(figure) == 0
    assert legend_of(figure) == ["window: 0 <= q - k < 8", "visited, not attended"]


def test_axes_of_the_user() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert attncomp.compile("causal").plot(8, 16, ax=right) is figure
    assert not left.images
    assert np.asarray(right.images[0].get_array()).shape == (8, 16, 3)


def test_a_pattern_of_nothing_and_a_long_one() -> None:
    nothing = attncomp.compile("window(3) - causal").plot(8)
    assert axes_of(nothing).get_legend() is None
    assert (np.asarray(axes_of(nothing).images[0].get_array()) == 255).all()
    bands = " | ".join(f"(window({4 * n + 2}) - window({4 * n}))" for n in range(1, 12))
    lines = legend_of(attncomp.compile(bands).plot(64))
    assert lines[8] == "and 3 more sweeps"


def test_gates_that_are_no_numbers() -> None:
    scores = torch.full((1, 1, 6), torch.nan)
    figure = attncomp.compile("sparsek(k=2)").plot(6, scores=scores)
    assert "not a number" in legend_of(figure)
    assert (np.asarray(axes_of(figure).images[0].get_array())[5] == 0).any()


def test_svg() -> None:
    text = attncomp.compile(SPEC)._repr_svg_()
    assert text is not None
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(TITLES) <= set(words)
    assert "48 queries" in " ".join(word for word in words if word)
    assert "image-rendering:pixelated" in text  # pairs stay sharp when a browser enlarges them
    assert len(text) < 40_000


def test_scores_of_blocks_are_drawn_and_integers_are_not() -> None:
    assert "block_scores standard normal" in str(attncomp.compile("moba(1, 16)")._repr_svg_())
    assert "with documents made up" in str(attncomp.compile("documents")._repr_svg_())


def test_equal_patterns_have_equal_svgs() -> None:
    text = attncomp.compile(SPEC)._repr_svg_()
    with matplotlib.rc_context({"figure.facecolor": "black", "text.color": "white"}):
        assert attncomp.compile(parse(SPEC))._repr_svg_() == text
    program = f"import attncomp; print(attncomp.compile({SPEC!r})._repr_svg_(), end='')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == text


def test_no_svg_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert importlib.util.find_spec("matplotlib") is None
    pattern = attncomp.compile(SPEC)
    assert pattern._repr_svg_() is None
    with pytest.raises(BackendError) as caught:
        pattern.plot(8)
    assert str(caught.value) == (
        "pictures need matplotlib, which is not installed: pip install attncomp[plots]"
    )


@pytest.mark.parametrize("suffix", FORMATS)
def test_files(suffix: str, tmp_path: Path) -> None:
    picture = pictured(parse(SPEC), 24)
    one, two = (tmp_path / f"{name}{suffix}" for name in "ab")
    save([picture], one, suffix)
    assert invoke(SPEC, "--mask", "24", "--output", str(two)).exit_code == 0
    assert one.read_bytes() == two.read_bytes()
    beginnings = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert one.read_bytes().startswith(beginnings[suffix])


def test_text_that_is_no_formula() -> None:
    picture = pictured(parse("window(3)"), 8)
    figure = figure_of(picture)
    labels = [axes_of(figure).title, *(axes_of(figure).get_legend() or figure).get_texts()]
    assert not any(label.get_parse_math() for label in labels)


def test_plot_errors_are_those_of_mask() -> None:
    pattern = attncomp.compile(SPEC)
    cases: list[tuple[tuple[object, ...], dict[str, object]]] = [
        ((0,), {}),
        ((3, 2.0), {}),
        ((3,), {"score": torch.zeros(1, 1, 3)}),
        ((3,), {"scores": torch.zeros(1, 1, 2)}),
        ((3,), {"scores": None}),
        ((3,), {"scores": torch.zeros(1, 1, 3, dtype=torch.int64)}),
    ]
    for sizes, tensors in cases:
        with pytest.raises(CallError) as plotted:
            pattern.plot(*sizes, **tensors)  # type: ignore[arg-type]
        with pytest.raises(CallError) as masked:
            pattern.mask(*sizes, **tensors)  # type: ignore[arg-type]
        assert str(plotted.value) == str(masked.value)


def test_groups_of_heads_stand_side_by_side(tmp_path: Path) -> None:
    """A notebook and `--output` show every group, three in a row."""
    groups = "heads{0:2 -> window(20), 2 -> sparsek(k=8), 3 -> full, 4: -> sparsek(k=8) | first(4)}"
    drawn = attncomp.compile(groups)._repr_svg_()
    assert drawn is not None
    heads = ("head 0 of 5", "head 2 of 5", "head 3 of 5", "head 4 of 5")
    text = " ".join(re.sub(r"<[^>]*>", " ", drawn).split())
    assert all(head in text for head in heads)
    pictures = pictured_groups(parse(groups))
    assert {picture.gate.shape for picture in pictures} == {(48, 48)}
    figure = figure_of_all(pictures)
    places = [axes.get_subplotspec() for axes in figure.axes]
    cells = [(place.rowspan.start, place.colspan.start) for place in places if place is not None]
    assert cells == [(0, 0), (0, 1), (0, 2), (1, 0)]
    path = tmp_path / "groups.svg"
    assert invoke(groups, "--mask", "24", "--output", str(path)).exit_code == 0
    written = " ".join(re.sub(r"<[^>]*>", " ", path.read_text()).split())
    assert all(head in written for head in heads)
