"""Times patterns beside their peers on one GPU, in one run.

    python benchmarks/attention.py --lengths 8192,32768,131072 --output benchmarks/results/h200.json

Medians of CUDA-event times; useful TFLOP/s count 4 * N * keys * D * Hq forward and 2.5 times that
backward, where keys is the number of attended keys a query. Memory is the peak beyond inputs.
"""

from __future__ import annotations

import gc
import json
from dataclasses import asdict
from pathlib import Path

import click
import torch
from measuring import environment, milliseconds
from peers import Case, Inputs, Shape, all_cases, make_inputs
from rich.console import Console
from rich.progress import track
from rich.table import Table

Row = dict[str, object]
COLUMNS = (
    "select_ms",
    "forward_ms",
    "forward_tflops",
    "backward_ms",
    "backward_tflops",
    "peak_gib",
)


def tflops(case: Case, length: int, shape: Shape, time: float, factor: float) -> float:
    """Useful TFLOP/s of `factor` times the forward's work."""
    keys = length / 2 if case.keys is None else min(case.keys, length)
    work = 4 * shape.batch * length * keys * shape.head_dim * shape.heads
    return factor * work / time / 1e9


def measure(case: Case, given: Inputs, shape: Shape, repeats: int) -> Row:
    """One row: times, rates and peak memory, or the reason why there are none."""
    length = given.q.shape[2]
    row: Row = {"case": case.name, "length": length}
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    try:
        steps = case.prepare(given)
        torch.cuda.reset_peak_memory_stats()
        forward = milliseconds(steps.forward, repeats)
        backward = milliseconds(steps.backward, repeats)
        row["peak_gib"] = (torch.cuda.max_memory_allocated() - before) / 2**30
        row["select_ms"] = milliseconds(steps.select, repeats) if steps.select else 0.0
    except Exception as error:  # a peer that cannot run is a row, not a crash
        row["error"] = f"{type(error).__name__}: {error}"[:300]
        return row
    row.update(
        forward_ms=forward,
        backward_ms=backward,
        forward_tflops=tflops(case, length, shape, forward, 1.0),
        backward_tflops=tflops(case, length, shape, backward, 2.5),
    )
    return row


def table(rows: list[Row]) -> Table:
    """All rows, for a terminal."""
    result = Table("case", "N", *COLUMNS)
    for row in rows:
        missing = [str(row["error"])] if "error" in row else []
        cells = missing or [f"{row[column]:.2f}" for column in COLUMNS]
        result.add_row(str(row["case"]), str(row["length"]), *cells)
    return result


@click.command(help=__doc__)
@click.option("--lengths", default="4096,32768,131072", show_default=True)
@click.option("--only", default="", help="Keep the cases whose name contains this text.")
@click.option("--repeats", default=10, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(lengths: str, only: str, repeats: int, seed: int, output: Path) -> None:
    shape = Shape()
    rows: list[Row] = []
    for length in map(int, lengths.split(",")):
        given = make_inputs(length, shape, seed)
        cases = [case for case in all_cases() if only in case.name]
        for case in track(cases, description=f"N = {length}", console=Console(stderr=True)):
            rows.append(measure(case, given, shape, repeats))
            torch.compiler.reset()
    report = {"environment": environment(), "shape": asdict(shape), "rows": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    Console(width=160).print(table(rows))


if __name__ == "__main__":
    main()
