"""Tuned schedules: measured at the first call of a problem, kept on disk beside the kernels.

A tuned schedule is a word behind the problem's text (`attncomp.runtime.program`), so that custom
ops, graphs and other processes run the same kernels. It is for one pattern, problem, kind of device
and size, by powers of two, with or without gradients.
"""

from __future__ import annotations

import functools
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.errors import BackendError
from attncomp.ir.neighbours import neighbours, parts_of
from attncomp.ir.schedule import Part, Schedule
from attncomp.runtime.cache import cache_key, default_cache
from attncomp.runtime.descriptors import can_describe
from attncomp.runtime.program import plan_of_call, program, target_of
from attncomp.runtime.search import Found, fastest

_MEASURED_MS: Final = 40.0  # of the runs that a median is of
_RUNS: Final = (5, 50)  # at least, at most
_guard = threading.Lock()
_known: dict[tuple[object, ...], str] = {}
_latest: dict[tuple[str, str, str], str] = {}


@dataclass(frozen=True)
class Sample:
    """What a call is measured on; tensors are those of the state behind the selections.

    q, k, v and scores lend their shapes, dtypes and devices alone: measured are fresh random ones.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scores: Sequence[Tensor]
    tensors: Sequence[Tensor]
    scale: float
    gradients: bool

    @property
    def size(self) -> tuple[int, ...]:
        """Rows of the batch times heads, queries and keys, each as a power of two."""
        batch, heads, n_queries, _ = self.q.shape
        sizes = (batch * heads, n_queries, self.k.shape[2])
        return tuple(1 << (size - 1).bit_length() for size in sizes)


def tuned_problem(pattern: str, problem: str, sample: Sample) -> str:
    """The problem with the schedule that is fastest for a call like the sample.

    Searches for it, with progress on stderr, unless this process or the disk knows it. Raises
    BackendError in a CUDA graph's capture for a problem that is not known.
    """
    device = sample.q.device
    about = (pattern, problem, _device_name(device), sample.size, sample.gradients)
    found = _known.get(about)
    if found is None:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise BackendError(
                "a schedule cannot be tuned while a CUDA graph is captured: "
                f"call the pattern once before (pattern '{pattern}')"
            )
        with _guard:
            key = cache_key(json.dumps(("autotune", *about)), target_of(device))
            text = default_cache().text(key, lambda: _record(pattern, problem, sample))
        found = _known[about] = f"{problem} {json.loads(text)['schedule']}"
    _latest[pattern, problem, str(device)] = found
    return found


# A constant to torch.compile, which cannot measure what it has not compiled yet.
@torch.compiler.assume_constant_result
def latest_problem(pattern: str, problem: str, device: str) -> str:
    """The problem with the schedule of the latest call like this, at any length.

    Raises BackendError where there was none.
    """
    found = _latest.get((pattern, problem, device))
    if found is None:
        raise BackendError(
            "a schedule cannot be tuned inside of torch.compile: call the pattern once before, "
            f"outside of it (pattern '{pattern}')"
        )
    return found


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _record(pattern: str, problem: str, sample: Sample) -> str:
    """What the disk keeps: the best schedule, and how it was found."""
    plan = plan_of_call(pattern, problem, sample.q.device)
    with torch.no_grad(), _progress() as progress:
        task = progress.add_task(f"tuning {pattern}", total=None)

        def note(schedule: Schedule, part: Part) -> None:
            tile = schedule.tile(part)
            shown = f"{tile.queries} x {tile.keys}, {tile.warps} warps, {tile.stages} stages"
            progress.update(task, advance=1, description=f"tuning {pattern}: {part} {shown}")

        schedule, found = _search(pattern, problem, plan, sample, note)
    return json.dumps(
        {
            "pattern": pattern,
            "problem": problem,
            "device": _device_name(sample.q.device),
            "size": sample.size,
            "gradients": sample.gradients,
            "schedule": schedule.text,
            "parts": [part._asdict() for part in found],
        }
    )


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} tried")
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))


def _search(
    pattern: str,
    problem: str,
    plan: KernelPlan,
    sample: Sample,
    note: Callable[[Schedule, Part], None],
) -> tuple[Schedule, list[Found]]:
    gathered = bool(plan.selections)
    runs = _Runs(pattern, problem, sample)

    def near(schedule: Schedule, part: Part) -> list[Schedule]:
        # What the pattern's blocks and the target's shared memory leave as it is. The kernels for
        # Hopper have keys, warps and stages of their own.
        found = neighbours(schedule, part, plan.problem, gathered=gathered)
        plans = {s: lower(pattern, plan.problem, schedule=s) for s in found}
        tried = [s for s, p in plans.items() if p.schedule == s]
        return [s for s in tried if not _is_for_hopper(plans[s], part, runs.described)]

    parts = parts_of(plan.problem, gathered=gathered, gradients=sample.gradients)
    return fastest(plan.schedule, parts, near, runs.milliseconds, note)


def _is_for_hopper(plan: KernelPlan, part: Part, described: bool) -> bool:
    """Whether a part's tile is for calls alone that the kernel for Hopper leaves.

    described: whether the call's backward has descriptors of tiles, which that of dk and dv takes.
    """
    shapes = {
        "forward": plan.hopper,
        "backward_query": plan.hopper_query,
        "backward_contiguous": plan.hopper_keys if described else None,
    }
    return shapes.get(part) is not None


class _Runs:
    """A call's kernels under any schedule, on random inputs of the sample's shapes."""

    def __init__(self, pattern: str, problem: str, sample: Sample) -> None:
        self._pattern, self._problem, self._sample = pattern, problem, sample
        given = (sample.q, sample.k, sample.v, *sample.scores)
        self._q, self._k, self._v, *self._scores = (torch.empty_like(t).normal_() for t in given)

    @property
    def described(self) -> bool:
        """Whether the backward's kernels get tiles by descriptors."""
        q, k, v = self._q, self._k, self._v
        rows = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        dout = q.new_empty(*q.shape[:3], v.shape[3])
        return can_describe(q, k, v, dout, rows, rows)

    def milliseconds(self, schedule: Schedule, part: Part) -> float:
        """The time of the pass that a part is in: on torch, where parts share a tile, of both."""
        sample, device = self._sample, self._q.device
        served = program(self._pattern, f"{self._problem} {schedule.text}", device)
        state = (*served.select(tuple(self._scores), self._q.shape[2]), *sample.tensors)
        inputs = (self._q, self._k, self._v)
        forward = functools.partial(served.forward, *inputs, state, sample.scale)
        out, lse = forward()
        dout = torch.empty_like(out).normal_()
        backward = functools.partial(
            served.backward, dout, None, *inputs, out, lse, state, sample.scale
        )
        if part != "forward":
            return median_milliseconds(backward, device)
        both = sample.gradients and served.plan.problem.backend == "torch"
        return median_milliseconds(forward, device) + (
            median_milliseconds(backward, device) if both else 0.0
        )


def median_milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """The median time of a run on a device, after two that may compile; the first is not timed."""
    clock = _cuda_milliseconds if device.type == "cuda" else _host_milliseconds
    run()
    once = clock(run, 1)[0]
    least, most = _RUNS
    return statistics.median(clock(run, max(least, min(most, int(_MEASURED_MS / max(once, 1e-3))))))


def _host_milliseconds(run: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _cuda_milliseconds(run: Callable[[], object], count: int) -> list[float]:
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for start, end in marks:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in marks]
