"""Draws reports of benchmarks/attention.py: time, speed-up, and share of the matmul ceiling.

    python benchmarks/plots.py benchmarks/results/h200.json

writes `h200-gqa-d128-b1.svg` beside the file, and so on for each kind of setting that has rows at
two lengths or more. Times are of forward and backward through public calls; the ceiling is what a
matrix product of bfloat16 reached in the same run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib
from peers import DENSE

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Row = Mapping[str, Any]
Value = Callable[[Row], float | None]
_MARKERS = "osv^D*Ph"


def draw_all(report: Mapping[str, Any], output: Path) -> list[Path]:
    """One SVG a kind of setting beside `output`; the paths written."""
    rows = [row for row in report["rows"] if "both_ms" in row]
    paths = []
    for kind in dict.fromkeys((row["layout"], row["head_dim"], row["batch"]) for row in rows):
        chosen = [row for row in rows if (row["layout"], row["head_dim"], row["batch"]) == kind]
        if len({row["length"] for row in chosen}) < 2:
            continue
        layout, head_dim, batch = kind
        path = output.with_name(f"{output.stem}-{layout}-d{head_dim}-b{batch}.svg")
        title = f"{report['environment']['gpu']}, {layout.upper()}, D = {head_dim}, B = {batch}"
        _draw(chosen, report["ceilings"]["matmul_tflops"], title, path)
        paths.append(path)
    return paths


def _draw(rows: Sequence[Row], ceiling: float, title: str, path: Path) -> None:
    dense = {row["length"]: row["both_ms"] for row in rows if row["case"] == DENSE}

    def speed_up(row: Row) -> float | None:
        length = row["length"]
        return dense[length] / row["both_ms"] if length in dense else None

    def share(row: Row) -> float | None:
        return row["both_tflops"] / ceiling if "both_tflops" in row else None

    panels: list[tuple[str, Value, str]] = [
        ("forward and backward, ms", lambda row: row["both_ms"], "log"),
        (f"times as fast as {DENSE}", speed_up, "log"),
        ("share of the matmul ceiling", share, "linear"),
    ]
    # An axis without a point has no logarithms.
    panels = [panel for panel in panels if any(panel[1](row) is not None for row in rows)]
    # A fixed salt: the same report gives the same file.
    with plt.rc_context({"svg.hashsalt": "attncomp"}):
        size = (5 * len(panels), 6)
        figure, grid = plt.subplots(
            1, len(panels), figsize=size, layout="constrained", squeeze=False
        )
        axes = grid[0]
        for ax, (label, value, scale) in zip(axes, panels, strict=True):
            _lines(ax, rows, value)
            ax.set(xlabel="N", ylabel=label, yscale=scale)
            ax.set_xscale("log", base=2)
            ax.grid(alpha=0.3)
        figure.suptitle(title)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _lines(axes: Axes, rows: Sequence[Row], value: Value) -> None:
    """A line a case: a pattern has one colour, whoever computes it, and each of these a marker."""
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    systems = list(dict.fromkeys(_system(row) for row in rows))
    colours = plt.get_cmap("tab10")
    for case in dict.fromkeys(row["case"] for row in rows):
        found = [row for row in rows if row["case"] == case]
        points = sorted((row["length"], value(row)) for row in found if value(row) is not None)
        axes.plot(
            [length for length, _ in points],
            [height for _, height in points],
            "-" if _system(found[0]) == "attncomp" else "--",
            marker=_MARKERS[systems.index(_system(found[0])) % len(_MARKERS)],
            markersize=4,
            color=colours(patterns.index(found[0]["pattern"]) % 10),
            label=case,
        )


def _system(row: Row) -> str:
    """Who computes a case: its name without the pattern's."""
    return str(row["case"]).removesuffix(str(row["pattern"])).strip()


@click.command(help=__doc__)
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(report: Path) -> None:
    paths = draw_all(json.loads(report.read_text(encoding="utf-8")), report)
    for path in paths:
        click.echo(f"wrote {path}")
    if not paths:
        click.echo("no pictures: no kind of setting has rows at two lengths")


if __name__ == "__main__":
    main()
