"""Times patterns beside their peers on one GPU, in one run, and checks what it times.

    python benchmarks/attention.py --output benchmarks/results/h200.json
    python benchmarks/attention.py --matrix axes --only window --only cuDNN --output out/w.json

`forward_ms`, `backward_ms` and `both_ms` are of public calls, selection and mask construction
counted; `select_ms`, `kernel_forward_ms` and `kernel_backward_ms` are parts alone. All are medians
of CUDA-event times. `host_forward_us` and `host_both_us` are the times until a call returns.
`peak_gib` is the most memory of forward and backward beyond the inputs. Useful TFLOP/s count
4 * B * N * keys * D * Hq forward and 2.5 times that backward; `keys` is the mean number of attended
keys a query. `errors` are relative to dense attention in float32 on a sample of queries,
`dense_errors` those of the same in bfloat16.

The JSON file is written after each row, a table and pictures (which need matplotlib) beside it at
the end. The exit code is 1 if results of any row are wrong.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from exactness import check, sample_of
from matrix import KV_HEADS, MATRICES, Axes, Setting, distinct
from measuring import Clock, ceilings, environment, package_versions
from packages import missing, package_cases
from peers import Case, Steps, flex_cases, own_cases
from readme_table import Row, matrix_table
from rich.console import Console
from workloads import Inputs, make_inputs

HOST_LENGTH = 4096  # the greatest length at which the host's time is taken
SECONDS = 0.25  # for each step that is timed


@dataclass
class History:
    """What is known of each case at smaller lengths. limit: seconds that a call may take."""

    limit: float
    rows: dict[tuple[str, object], Row] = field(default_factory=dict)

    def reason(self, case: Case, setting: Setting) -> str | None:
        """Why a case is not to be run at a length; None where nothing is against it."""
        last = self.rows.get((case.name, setting.kind))
        if last is None or setting.length <= last["length"]:
            return None
        if "OutOfMemoryError" in last.get("error", ""):
            return f"not run: out of memory at N = {last['length']}"
        growth = (setting.length / last["length"]) ** (2 if case.quadratic else 1)
        expected = last.get("both_ms", 0.0) * growth / 1e3
        return f"not run: about {expected:.0f} s a call" if expected > self.limit else None

    def add(self, case: Case, setting: Setting, row: Row) -> None:
        """A row that was measured; those not run say nothing new."""
        if not str(row.get("error", "")).startswith("not run"):
            self.rows[case.name, setting.kind] = row


def start_row(case: Case, setting: Setting) -> dict[str, Any]:
    """What a row is of."""
    shape = setting.shape
    return {
        "case": case.name,
        "pattern": None if case.workload is None else case.workload.pattern,
        "length": setting.length,
        "layout": setting.layout,
        **asdict(shape),
    }


def measure(case: Case, setting: Setting, clock: Clock, seed: int) -> dict[str, Any]:
    """One row: times, memory and errors; after a failure what came before it, and the reason."""
    row = start_row(case, setting)
    try:
        release(clock.device)  # fails where an earlier case has broken the device
        given = make_inputs(setting, seed, clock.device)
        if case.workload is not None:
            given = case.workload.inputs(given, seed)
        steps = case.prepare(given)
        for name, value in figures(steps, clock, setting.length):
            row[name] = value
    except Exception as error:  # a peer that cannot run is a row, not a crash
        return row | {"error": reason_of(error)}
    return row | judged(case, given, steps, seed) if case.workload is not None else row


def figures(steps: Steps, clock: Clock, length: int) -> Iterator[tuple[str, float | None]]:
    """Times of the public call and of its parts, by name; a peer may fail at any of them."""
    leaves = tuple(steps.leaves.values())
    yield "forward_ms", clock.milliseconds(steps.call)
    yield "peak_gib", clock.peak_gib(steps.both)
    yield "both_ms", clock.milliseconds(steps.both)
    out = steps.call()
    backward = functools.partial(torch.autograd.grad, out, leaves, steps.dout, retain_graph=True)
    yield "backward_ms", clock.milliseconds(backward)
    del out, backward  # what they keep is no part of what follows
    parts = steps.parts()
    named = {
        "select_ms": parts.select,
        "kernel_forward_ms": parts.forward,
        "kernel_backward_ms": parts.backward,
    }
    for name, part in named.items():
        if part is not None:
            yield name, clock.milliseconds(part)
    del parts, named, part
    if length <= HOST_LENGTH:
        yield "host_forward_us", clock.issue_microseconds(steps.call)
        yield "host_both_us", clock.issue_microseconds(steps.both)


def judged(case: Case, given: Inputs, steps: Steps, seed: int) -> dict[str, Any]:
    """Errors of a case's results, and its keys; or why they are not known."""
    assert case.workload is not None
    try:
        verdict = check(case.workload, given, steps, sample_of(given, seed))
    except Exception as error:  # what was timed stays a row
        return {"unchecked": reason_of(error)}
    return {
        "keys": verdict.keys,
        # JSON has no NaN.
        "errors": {n: e if math.isfinite(e) else None for n, e in verdict.errors.items()},
        "dense_errors": verdict.dense_errors,
        "agrees": verdict.agrees,
    }


def with_rates(row: Row) -> dict[str, Any]:
    """The row with useful TFLOP/s of what it has times of."""
    if "keys" not in row:
        return dict(row)
    pairs = row["batch"] * row["heads"] * row["length"] * row["keys"]
    work = 4 * pairs * row["head_dim"] / 1e9
    factors = {"forward": 1.0, "backward": 2.5, "both": 3.5}
    return dict(row) | {
        f"{step}_tflops": factor * work / row[f"{step}_ms"] for step, factor in factors.items()
    }


def reason_of(error: Exception) -> str:
    """Class and message of an error, shortened."""
    return f"{type(error).__name__}: {error}"[:300]


def release(device: str) -> None:
    """Give back the memory, and the compiled functions, of the cases before."""
    torch.compiler.reset()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def run(
    matrix: Iterable[Axes], only: Sequence[str], clock: Clock, limit: float, seed: int
) -> Iterator[dict[str, Any]]:
    """All rows: for each group of settings own patterns and dense attention before other peers."""
    history = History(limit)
    groups = [
        [case for case in cases if not only or any(text in case.name for text in only)]
        for cases in (own_cases(), flex_cases(), package_cases())
    ]
    modules = {case.module for cases in groups for case in cases if case.module is not None}
    absent = {name: why for name in modules if (why := missing(name)) is not None}
    for settings in distinct(matrix):
        for cases in groups:
            present = [case for case in cases if case.module not in absent]
            for setting in settings:
                for case in present:
                    reason = history.reason(case, setting)
                    if reason is None:
                        row = with_rates(measure(case, setting, clock, seed))
                    else:
                        row = start_row(case, setting) | {"error": reason}
                    history.add(case, setting, row)
                    yield row
    for cases in groups:
        for case in cases:
            if case.module in absent:
                yield {"case": case.name, "error": absent[case.module]}


def write(path: Path, text: str) -> None:
    """Replace a file in one step, so that it is whole whenever the run is cut off."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def numbers(ctx: click.Context, option: click.Parameter, value: str | None) -> Any:
    """The whole numbers of an option such as `1024,4096`."""
    if value is None:
        return None
    try:
        found = tuple(int(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise click.BadParameter(f"expected numbers such as 1024,4096, found {value!r}")
    return found


def layout_names(ctx: click.Context, option: click.Parameter, value: str | None) -> Any:
    """The layouts of an option such as `mha,mqa`."""
    if value is None:
        return None
    found = tuple(value.split(","))
    if not set(found) <= set(KV_HEADS):
        raise click.BadParameter(f"expected some of {', '.join(KV_HEADS)}, found {value!r}")
    return found


@click.command(help=__doc__)
@click.option("--matrix", type=click.Choice(list(MATRICES)), default="quick", show_default=True)
@click.option("--lengths", callback=numbers, help="In place of the matrix's, as in 1024,4096.")
@click.option("--head-dims", callback=numbers, help="In place of the matrix's, as in 64,128.")
@click.option("--layouts", callback=layout_names, help="In place of the matrix's: mha,gqa,mqa.")
@click.option("--batches", callback=numbers, help="In place of the matrix's, as in 1,8.")
@click.option("--only", multiple=True, help="Keep the cases whose name contains one of these.")
@click.option("--seconds", default=SECONDS, show_default=True, help="For each step of a case.")
@click.option("--limit", default=2.0, show_default=True, help="Run no call longer than this, in s.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.pass_context
def main(
    ctx: click.Context,
    matrix: str,
    only: tuple[str, ...],
    seconds: float,
    limit: float,
    seed: int,
    device: str,
    output: Path,
    **axes: Any,
) -> None:
    given = {name: values for name, values in axes.items() if values is not None}
    chosen = [replace(part, **given) for part in MATRICES[matrix]]
    clock, console = Clock(device, seconds), Console(stderr=True)
    rows: list[Row] = []
    report = {
        "environment": environment(device) | package_versions(),
        "settings": {"command": shlex.join(["attention.py", *sys.argv[1:]]), "seed": seed},
        "ceilings": ceilings(clock),
        "rows": rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    for row in run(chosen, only, clock, limit, seed):
        rows.append(row)
        write(output, json.dumps(report, indent=1) + "\n")
        console.print(line_of(row), highlight=False, markup=False, soft_wrap=True)
    finish(report, output)
    if wrong := [row for row in rows if row.get("agrees") is False]:
        click.echo(f"wrong results in {len(wrong)} rows", err=True)
        ctx.exit(1)


def line_of(row: Row) -> str:
    """A row on one line, while the program runs."""
    keys = ("case", "length", "head_dim", "layout", "batch")
    where = " ".join(str(row[key]) for key in keys if key in row)
    if "error" in row:
        return f"{where}: {row['error'].splitlines()[0]}"
    found = " ".join(f"{step} {row[step + '_ms']:.3f}" for step in ("forward", "backward", "both"))
    judgement = {True: "", False: ", WRONG", None: ", unchecked"}[row.get("agrees")]
    return f"{where}: {found} ms{judgement}"


def finish(report: dict[str, Any], output: Path) -> None:
    """The table as Markdown, printed too, and pictures, beside the JSON file."""
    text = matrix_table(report)
    write(output.with_suffix(".md"), text)
    click.echo(text)
    if importlib.util.find_spec("matplotlib") is None:
        click.echo("no pictures: they need matplotlib (python benchmarks/plots.py)", err=True)
        return
    from plots import draw_all  # needs matplotlib, an extra

    for path in draw_all(report, output):
        click.echo(f"wrote {path}")


if __name__ == "__main__":
    main()
