"""Times the host's part of a call: from the call to its return, the device not waited for.

    python benchmarks/host_time.py --output benchmarks/results/h200_host.json

At a length so short that the host is what counts. Calls are made in rows of a few, between which
the device is waited for: so no call waits for room in the device's queue. `after_idle_us` is that
of single calls, each after such a wait. Calls are those of users: selection and lists count, block
masks are made once. Medians; `--profile` prints where the time of the last of attncomp's calls
goes.
"""

from __future__ import annotations

import cProfile
import functools
import json
import pstats
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import torch
from matrix import Setting
from measuring import Clock, environment
from peers import DENSE, Case, Steps, dense_case, flex_case, pattern_case
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend
from workloads import Workload, all_workloads, make_inputs

Row = dict[str, object]
Step = Callable[[], object]
PATTERNS: Final = ("window(256)", "sparsek(k=512, lag=256) | window(256)")
CALLS: Final = 10  # of a row, which a device's queue has room for


@dataclass(frozen=True)
class Measured:
    """One step of a case; own: whether it is attncomp's."""

    case: str
    step: str
    run: Step
    own: bool


def cases() -> Iterator[tuple[Case, bool]]:
    """The patterns and their peers; whether the case is attncomp's."""
    workloads = {workload.pattern: workload for workload in all_workloads()}
    chosen: list[Workload] = [workloads[pattern] for pattern in PATTERNS]
    yield from ((pattern_case(workload), True) for workload in chosen)
    yield dense_case(DENSE, SDPBackend.CUDNN_ATTENTION), False
    yield dense_case("FlashAttention SDPA causal", SDPBackend.FLASH_ATTENTION), False
    yield flex_case(chosen[0]), False


def call_of(case: Case, prepared: Steps) -> Step:
    """What is called: for FlexAttention with a block mask at hand, which a call makes else."""
    if not case.name.startswith("FlexAttention"):
        return prepared.call
    parts = functools.cache(prepared.parts)
    return lambda: parts().forward()


def steps(case: Case, own: bool, setting: Setting, seed: int, device: str) -> Iterator[Measured]:
    """The call without gradients, with them on record, and with its backward."""
    given = make_inputs(setting, seed, device)
    if case.workload is not None:
        given = case.workload.inputs(given, seed)
    prepared = case.prepare(given)
    leaves, call = tuple(prepared.leaves.values()), call_of(case, prepared)

    def forward() -> object:
        with torch.no_grad():
            return call()

    def both() -> object:
        return torch.autograd.grad(call(), leaves, prepared.dout)

    for name, run in (("forward", forward), ("recording", call), ("both", both)):
        yield Measured(case.name, name, run, own)


def microseconds(step: Step, clock: Clock) -> float:
    """Median host time of a call, of rows of CALLS."""
    end = time.perf_counter() + clock.seconds
    times: list[float] = []
    while len(times) < 3 or time.perf_counter() < end:
        clock.synchronize()
        begin = time.perf_counter()
        for _ in range(CALLS):
            step()
        times.append((time.perf_counter() - begin) / CALLS)
    return 1e6 * statistics.median(times)


def row_of(measured: Measured, clock: Clock) -> Row:
    """Times of a step, or the reason why there are none."""
    row: Row = {"case": measured.case, "step": measured.step}
    try:
        for _ in range(5):  # the first ones compile, and see what calls of a kind come to
            measured.run()
        row["host_us"] = microseconds(measured.run, clock)
        row["after_idle_us"] = clock.issue_microseconds(measured.run)
    except Exception as error:  # a peer that cannot run is a row, not a crash
        row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return row


def profile(step: Step, clock: Clock, calls: int = 500) -> None:
    """Print where a call spends its time."""
    profiler = cProfile.Profile()
    for _ in range(calls // CALLS):
        clock.synchronize()
        profiler.enable()
        for _ in range(CALLS):
            step()
        profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def check_device(device: str) -> None:
    """Raise BadParameter for what is no CUDA device that is here."""
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or found.type != "cuda":
        message = f"expected a CUDA device, whose launches are what takes time, found {device!r}"
        raise click.BadParameter(message)
    count = torch.cuda.device_count()
    if (found.index or 0) >= count:
        raise click.BadParameter(f"expected one of {count} CUDA devices, found {device!r}")
    torch.cuda.set_device(found.index or 0)


def table(rows: list[Row]) -> Table:
    """All rows, for a terminal."""
    result = Table("case", "step", "host us", "after idle us")
    for row in rows:
        found = [f"{row[name]:.1f}" for name in ("host_us", "after_idle_us") if name in row]
        result.add_row(str(row["case"]), str(row["step"]), *(found or [str(row.get("error"))]))
    return result


@click.command(help=__doc__)
@click.option("--length", default=4096, show_default=True)
@click.option("--only", default="", help="Keep the cases whose name has this.")
@click.option("--seconds", default=1.0, show_default=True, help="For each of the two times.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Print where the host's time goes.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(
    length: int, only: str, seconds: float, seed: int, device: str, profiled: bool, output: Path
) -> None:
    check_device(device)
    clock, rows, last = Clock(device, seconds), [], {}
    report = {"environment": environment(device), "length": length, "calls": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    for case, own in cases():
        if only not in case.name:
            continue
        for measured in steps(case, own, Setting(length), seed, device):
            rows.append(row_of(measured, clock))
            output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            if own:
                last[measured.step] = measured
    Console(width=120).print(table(rows))
    for measured in last.values() if profiled else ():
        click.echo(f"{measured.case}: {measured.step}")
        profile(measured.run, clock)


if __name__ == "__main__":
    main()
