"""Tables and pictures of what the runs came to."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from lm_model import LanguageModel
from lm_training import Run
from rich.table import Table
from torch import Tensor

import attncomp

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_COLOURS = "Blues"
_COLUMNS = 64  # bytes a line in the picture of a selection


def language_table(runs: Sequence[Run], keys: dict[str, int]) -> Table:
    """Validation losses, and what they took; keys: the most keys a query attends to, by run."""
    table = Table(title="Held-out files")
    table.add_column("run")
    for heading in ("keys a query", "nats/byte", "bits/byte", "tokens/s", "seconds"):
        table.add_column(heading, justify="right")
    for run in runs:
        table.add_row(
            run.name,
            str(keys[run.name]),
            f"{run.result:.4f}",
            f"{run.result / math.log(2):.4f}",
            f"{run.tokens_per_second:,.0f}",
            f"{run.seconds:.1f}",
        )
    return table


def recall_table(runs: Sequence[Run], title: str, chance: float) -> Table:
    """Accuracy on new sequences; chance is that of a guess."""
    table = Table(title=title, caption=f"a guess is right {chance:.1%} of the time")
    table.add_column("run")
    for heading in ("recalled", "tokens/s", "seconds"):
        table.add_column(heading, justify="right")
    for run in runs:
        speed, seconds = f"{run.tokens_per_second:,.0f}", f"{run.seconds:.1f}"
        table.add_row(run.name, f"{run.result:.1%}", speed, seconds)
    return table


def write_report(
    path: Path, runs: Sequence[Run], measure: str, settings: Mapping[str, Any], device: str
) -> None:
    """The runs as JSON: where they ran, their settings, and a row a run.

    measure names what a run's result is; seconds are those of training, its first calls, which
    compile the kernels, included. `benchmarks/readme_table.py` makes tables of such files.
    """
    rows = [
        {
            "name": run.name,
            "pattern": run.pattern,
            measure: run.result,
            "tokens_per_second": run.tokens_per_second,
            "seconds": run.seconds,
        }
        for run in runs
    ]
    report = {"environment": environment(device), "settings": dict(settings), "runs": rows}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def environment(device: str) -> dict[str, str]:
    """The device and the versions that the figures belong to."""
    threads = torch.get_num_threads()
    found = {
        "device": f"{platform.machine()} CPU, {threads} thread{'s' * (threads > 1)}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "attncomp": attncomp.__version__,
    }
    if device == "cuda":
        import triton  # not everywhere that the CPU tasks run

        found |= {
            "device": torch.cuda.get_device_name(),
            "cuda": str(torch.version.cuda),
            "triton": triton.__version__,
        }
    return found


def plot_losses(runs: Sequence[Run], path: Path, unit: str) -> None:
    """Training losses, smoothed over a fiftieth of the steps, as a PNG."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for run in runs:
        losses = torch.tensor(run.losses)
        width = max(1, len(losses) // 50)
        smooth = losses.unfold(0, width, 1).mean(1)
        axes.plot(range(width, len(losses) + 1), smooth, label=f"{run.name}: {run.pattern}")
    axes.set(xlabel="step", ylabel=f"training loss, nats/{unit}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_selection(model: LanguageModel, text: Tensor, path: Path) -> None:
    """What the last layer's first head attends to in `text` [N] of bytes, as a PNG.

    Above the gate of each pair; below the text itself, shaded by the gates of its last byte.
    """
    device = next(model.parameters()).device
    gates = model.gates(text.long()[None].to(device))[-1][0, 0].float().cpu()  # [N, N]
    lines = math.ceil(len(text) / _COLUMNS)
    heights = (8.0, 0.19 * lines + 0.3)
    figure, (pairs, page) = plt.subplots(
        2, 1, figsize=(8, sum(heights)), height_ratios=heights, layout="constrained"
    )
    image = pairs.imshow(gates, cmap=_COLOURS, vmin=0, vmax=1, interpolation="nearest")
    pairs.set(xlabel="key", ylabel="query", title="gate of each pair, last layer, first head")
    figure.colorbar(image, ax=pairs, shrink=0.8)
    page.set(xlim=(0, _COLUMNS), ylim=(lines, 0), title="what the last byte attends to")
    page.axis("off")
    for place, (byte, gate) in enumerate(zip(text.tolist(), gates[-1].tolist(), strict=True)):
        line, column = divmod(place, _COLUMNS)
        if gate > 0:
            colour = plt.get_cmap(_COLOURS)(0.1 + 0.4 * gate)
            page.add_patch(plt.Rectangle((column, line), 1, 1, color=colour, linewidth=0))
        style = {"ha": "center", "va": "center", "family": "monospace", "size": 7}
        page.text(column + 0.5, line + 0.55, _shown(byte), parse_math=False, **style)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _shown(byte: int) -> str:
    """One character for a byte; blank for those that have none."""
    if byte == ord("\n"):
        return "↵"
    return chr(byte) if 33 <= byte < 127 else " "
