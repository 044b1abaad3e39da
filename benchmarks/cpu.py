"""Times the reference patterns beside dense SDPA on the CPU, in one run, by turns.

    python benchmarks/cpu.py --threads 1,2 --output benchmarks/results/cpu.json

Medians of float32 calls, selection counted: the forward alone, without gradients, and the forward
with the backward. What is timed is checked in the same run: the outputs and all gradients of the
last queries against the reference in float64.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import torch
from measuring import environment
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attncomp
from attncomp.api import CompiledPattern

PATTERNS = ("sparsek(k=512) | window(256)", "sparsek(k=512, lag=256) | window(256)")
DENSE = "SDPA causal"
CHECKED = 64  # the last queries, compared with the reference
TOLERANCE = 1e-4  # of the largest entry of each result
Row = dict[str, object]


def cpu_model() -> str:
    """The name that Linux has for the first CPU, elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.is_file() else None
    return found[1] if found else platform.processor()


class Shape(NamedTuple):
    """Query heads, KV heads, score groups and head dim."""

    heads: int
    kv_heads: int
    groups: int
    head_dim: int


SHAPES = (Shape(8, 2, 2, 64), Shape(8, 2, 2, 128), Shape(4, 4, 2, 64))


class Given(NamedTuple):
    """q [1, Hq, N, D], k and v [1, Hk, N, D], scores [1, G, N] and dout [1, Hq, N, D]."""

    q: Tensor
    k: Tensor
    v: Tensor
    scores: Tensor
    dout: Tensor


def make_given(shape: Shape, length: int, generator: torch.Generator) -> Given:
    """Random float32 inputs; all but dout take gradients."""

    def normal(*size: int) -> Tensor:
        return torch.randn(1, *size, generator=generator)

    q = normal(shape.heads, length, shape.head_dim)
    k, v = (normal(shape.kv_heads, length, shape.head_dim) for _ in range(2))
    taking = [x.requires_grad_() for x in (q, k, v, normal(shape.groups, length))]
    return Given(*taking, dout=torch.randn(q.shape, generator=generator))


def error_of(pattern: str, given: Given) -> float:
    """Largest error of out and all gradients, in parts of the largest entry of each.

    Of the last queries, with respect to the reference in float64; raises ClickException where it is
    above the tolerance.
    """
    inputs = given[:4]
    out = attncomp.compile(pattern)(*inputs[:3], scores=given.scores)[:, :, -CHECKED:]
    dout = given.dout[:, :, -CHECKED:]
    found = [out, *torch.autograd.grad(out, inputs, dout)]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    q, k, v, scores = wide
    reference = attncomp.compile(pattern, backend="reference")
    out = reference(q[:, :, -CHECKED:], k, v, scores=scores)
    expected = [out, *torch.autograd.grad(out, wide, dout.double())]
    error = max(
        float((x - y).detach().abs().max() / y.detach().abs().max())
        for x, y in zip(found, expected, strict=True)
    )
    if error > TOLERANCE:
        raise click.ClickException(f"{pattern}: an error of {error:.1e}, above {TOLERANCE:.0e}")
    return error


def calls(given: Given) -> dict[str, Callable[[], Tensor]]:
    """What is compared, by name: each gives out [1, Hq, N, D]."""
    q, k, v = given[:3]

    def dense() -> Tensor:
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    def sparse(attend: CompiledPattern) -> Callable[[], Tensor]:
        return lambda: attend(q, k, v, scores=given.scores)

    return {DENSE: dense, **{name: sparse(attncomp.compile(name)) for name in PATTERNS}}


def medians(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each step; they take turns, so that all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def measure(shape: Shape, length: int, threads: int, given: Given, repeats: int) -> list[Row]:
    """A row each for dense attention and for each pattern."""
    torch.set_num_threads(threads)
    functions = calls(given)

    def forward(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return torch.no_grad()(function)

    def both(function: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(), given[:4], given.dout, allow_unused=True)

    alone = medians({name: forward(f) for name, f in functions.items()}, repeats)
    trained = medians({name: both(f) for name, f in functions.items()}, repeats)
    common = {"length": length, **shape._asdict(), "threads": threads}
    return [
        {
            "case": name,
            **common,
            "forward_ms": alone[name],
            "both_ms": trained[name],
            "forward_speedup": alone[DENSE] / alone[name],
            "both_speedup": trained[DENSE] / trained[name],
        }
        for name in functions
    ]


def table(rows: list[Row]) -> Table:
    """All rows, for a terminal."""
    result = Table("case", "N", "heads", "D", "threads", "forward ms", "with backward ms")
    for row in rows:
        times = [
            f"{row[f'{part}_ms']:.0f} ({row[f'{part}_speedup']:.2f} x)"
            for part in ("forward", "both")
        ]
        heads = f"{row['heads']} / {row['kv_heads']}"
        places = (row["case"], row["length"], heads, row["head_dim"], row["threads"])
        result.add_row(*map(str, places), *times)
    return result


@click.command(help=__doc__)
@click.option("--lengths", default="4096,8192,16384", show_default=True)
@click.option("--threads", default="1", show_default=True, help="Numbers of threads, in turn.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(lengths: str, threads: str, repeats: int, seed: int, output: Path) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    errors: dict[str, float] = dict.fromkeys(PATTERNS, 0.0)
    cases = [(shape, int(length)) for length in lengths.split(",") for shape in SHAPES]
    for shape, length in track(cases, console=Console(stderr=True)):
        given = make_given(shape, length, generator)
        for pattern in PATTERNS:
            errors[pattern] = max(errors[pattern], error_of(pattern, given))
        for count in map(int, threads.split(",")):
            rows += measure(shape, length, count, given, repeats)
    report = {
        "environment": {"cpu": cpu_model(), "cores": os.cpu_count(), **environment("cpu")},
        "dtype": "float32",
        "largest_errors": errors,
        "cpu_rows": rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    Console(width=160).print(table(rows))


if __name__ == "__main__":
    main()
