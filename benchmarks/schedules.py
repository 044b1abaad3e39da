"""Times what comes before the kernels at a new length, beside FlexAttention's block masks.

    python benchmarks/schedules.py --output benchmarks/results/h200_schedules.json

For each shipped pattern without scores. attncomp makes lists of the blocks that are walked, reads
from tensors such as documents which keys each query may reach, and rearranges q, k and v by classes
where a sweep is strided; all other bounds of tiles are computed inside of kernels. Plans serve
every length: a process makes one, in plan_ms, and keeps it. FlexAttention makes a block mask of the
same pairs, by create_block_mask as it is and through torch.compile.

Medians of CUDA-event times. Memory is the peak beyond the inputs, the result included. The first
call of a length, which may compile, is in neither. What fails is not tried at greater lengths.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from measuring import environment, milliseconds
from peers import Shape
from rich.console import Console
from rich.progress import track
from rich.table import Table
from structural import MASK_MODS, random_tensors, structural_specs
from torch.nn.attention.flex_attention import create_block_mask

import attncomp
from attncomp.codegen.plan import KernelPlan
from attncomp.runtime.extents import Call
from attncomp.runtime.program import usual_problem
from attncomp.runtime.strides import Classes
from attncomp.runtime.tables import BlockParts, block_state

Row = dict[str, object]
Build = Callable[[], object]
BUDGET_MS = 300.0  # of the calls that a median is of, unless three take longer


@dataclass(frozen=True)
class Case:
    """What makes a schedule. longest: the greatest length that it is tried at."""

    name: str
    prepare: Callable[[str, int, str, torch.Generator], Build]
    longest: int | None = None
    only: frozenset[str] | None = None


def plan_of(spec: str, device: str) -> KernelPlan:
    """The plan of a pattern on a device, for a usual problem; made anew at each call."""
    on_gpu = device != "cpu"
    attend = attncomp.compile(spec)
    return attend.plan_for(usual_problem("triton" if on_gpu else "torch", on_gpu=on_gpu))


def attncomp_schedule(spec: str, length: int, device: str, generator: torch.Generator) -> Build:
    """All that a call does for a length before its kernels, as `attncomp.runtime` does it."""
    plan, shape = plan_of(spec, device), Shape()
    parts, given = BlockParts.of(plan), random_tensors(plan, length, device, generator)
    call = Call(
        shape.batch, shape.heads, shape.kv_heads, length, length, torch.device(device), given
    )

    def rows(heads: int) -> torch.Tensor:
        size = (shape.batch, heads, length, shape.head_dim)
        return torch.randn(size, dtype=torch.bfloat16, device=device, generator=generator)

    counts = (shape.heads, shape.kv_heads, shape.kv_heads) if plan.strided else ()
    q, *others = [rows(heads) for heads in counts] or [None]

    def build() -> object:
        made = [block_state(parts, call)]
        for part in plan.strided:
            by = Classes(part.step, length, length)
            made += [[by.queries(q)], [by.keys(tensor) for tensor in others]]
        return made

    return build


def block_mask(*, compiled: bool) -> Callable[[str, int, str, torch.Generator], Build]:
    """FlexAttention's block mask of the pattern that a spec is."""

    def prepare(spec: str, length: int, device: str, generator: torch.Generator) -> Build:
        given = random_tensors(plan_of(spec, device), length, device, generator)
        predicate = MASK_MODS[spec](length, given, device)
        make = torch.compile(create_block_mask) if compiled else create_block_mask
        return lambda: make(predicate, None, None, length, length, device=device)

    return prepare


def all_cases() -> list[Case]:
    """attncomp, and FlexAttention at lengths that leave the whole under three minutes."""
    expressible = frozenset(MASK_MODS)
    return [
        Case("attncomp", attncomp_schedule),
        Case("FlexAttention", block_mask(compiled=False), 131072, expressible),
        Case("FlexAttention, compiled", block_mask(compiled=True), 524288, expressible),
    ]


def measure(case: Case, spec: str, length: int, repeats: int, device: str, seed: int) -> Row:
    """One row: time and peak memory, or the reason why there are none."""
    row: Row = {"case": case.name, "spec": spec, "length": length}
    if case.longest is not None and length > case.longest:
        return row | {"error": f"not run: not tried beyond N = {case.longest}"}
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
    try:
        generator = torch.Generator(device).manual_seed(seed)
        build = case.prepare(spec, length, device, generator)
        build()
        row |= memory(build, device)
        once = milliseconds(build, 1, warm_up=0, device=device)
        enough = max(3, min(repeats, int(BUDGET_MS / max(once, 1e-3))))
        row["ms"] = milliseconds(build, enough, warm_up=0, device=device)
    except Exception as error:  # a peer that cannot run is a row, not a crash
        row.pop("peak_mib", None)
        row.pop("no_peak", None)
        row["error"] = f"{type(error).__name__}: {error}"[:300]
    return row


def memory(build: Build, device: str) -> Row:
    """The most memory that a call takes beyond what is there before it, or why it is not known."""
    if device == "cpu":
        return {"peak_mib": None, "no_peak": "not measured on a CPU"}
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = build()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return {"peak_mib": (peak - before) / 2**20}


def plan_milliseconds(spec: str, device: str) -> float:
    """Median time of lowering a pattern, on the host; a process does it once for all lengths."""
    return milliseconds(lambda: plan_of(spec, device), 5, warm_up=1, device="cpu")


def rows_of(
    spec: str, cases: Iterable[Case], lengths: Iterable[int], repeats: int, device: str, seed: int
) -> Iterator[Row]:
    """All rows of one spec; after a failure greater lengths of the case are not tried."""
    for case in cases:
        if case.only is not None and spec not in case.only:
            continue
        extra = {}
        if case.name == "attncomp":
            extra["plan_ms"] = plan_milliseconds(spec, device)
        failed: Row | None = None
        for length in sorted(lengths):
            if failed is None:
                row = measure(case, spec, length, repeats, device, seed) | extra
                failed = row if "error" in row else None
            else:
                kind = str(failed["error"]).split(":")[0]
                reason = f"not run: {kind} at N = {failed['length']}"
                row = {"case": case.name, "spec": spec, "length": length, "error": reason}
            yield row
        torch.compiler.reset()


def table(rows: Iterable[Row]) -> Table:
    """All rows, for a terminal."""
    result = Table("spec", "case", "N", "ms", "peak MiB", "plan ms")
    for row in rows:
        if "error" in row:
            cells = [str(row["error"]).splitlines()[0], ""]
        else:
            peak = row["peak_mib"]
            cells = [f"{row['ms']:.3f}", str(row["no_peak"]) if peak is None else f"{peak:.1f}"]
        plan = f"{row['plan_ms']:.1f}" if "plan_ms" in row else ""
        result.add_row(str(row["spec"]), str(row["case"]), str(row["length"]), *cells, plan)
    return result


@click.command(help=__doc__)
@click.option("--lengths", default="32768,131072,262144,524288,1048576", show_default=True)
@click.option("--only", default="", help="Keep the specs and cases whose `spec: case` has this.")
@click.option("--repeats", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(lengths: str, only: str, repeats: int, seed: int, device: str, output: Path) -> None:
    sizes = [int(length) for length in lengths.split(",")]
    rows: list[Row] = []
    for spec in track(structural_specs(), description=device, console=Console(stderr=True)):
        cases = [case for case in all_cases() if only in f"{spec}: {case.name}"]
        rows += rows_of(spec, cases, sizes, repeats, device, seed)
    report = {"environment": environment(device), "shape": asdict(Shape()), "schedules": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    Console(width=160).print(table(rows))


if __name__ == "__main__":
    main()
