"""The autotuner: its search by a fake clock, and whole calls on the torch backend."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import attncomp
from attncomp.codegen.lower import lower
from attncomp.errors import BackendError, OptionError
from attncomp.ir.neighbours import neighbours
from attncomp.ir.passes.schedule import schedule_of
from attncomp.ir.schedule import PARTS, Part, Problem, Schedule
from attncomp.runtime import autotune
from attncomp.runtime.search import fastest

SPEC = "sparsek(k=4) | window(6)"
PROBLEM = Problem(
    backend="triton",
    target="sm_90",
    dtype="bfloat16",
    head_dim=64,
    value_dim=64,
    unit_heads=1,
)
FIRST = schedule_of(PROBLEM)


class Landscape:
    """A clock with the least time at one tile; counts how often each schedule is timed."""

    def __init__(self, keys: int, warps: int, *, broken: frozenset[int] = frozenset()) -> None:
        self._keys, self._warps, self._broken = keys, warps, broken
        self.timed: list[tuple[Schedule, Part]] = []

    def __call__(self, schedule: Schedule, part: Part) -> float:
        self.timed.append((schedule, part))
        tile = schedule.tile(part)
        if tile.keys in self._broken:
            raise MemoryError("out of resource: shared memory")
        far = abs(tile.keys.bit_length() - self._keys.bit_length())
        far += abs(tile.warps.bit_length() - self._warps.bit_length())
        return 1.0 + far + 0.1 * tile.stages


def search(clock: Landscape, parts: tuple[Part, ...] = PARTS) -> Any:
    def near(schedule: Schedule, part: Part) -> Iterator[Schedule]:
        return neighbours(schedule, part, PROBLEM, gathered=True)

    return fastest(FIRST, parts, near, clock, lambda schedule, part: None)


def test_the_search_goes_downhill() -> None:
    clock = Landscape(keys=16, warps=8)
    best, found = search(clock)
    for part, report in zip(PARTS, found, strict=True):
        tile = best.tile(part)
        assert (tile.keys, tile.warps) == (16, 8)
        assert report.part == part and report.after < report.before and not report.dropped
    assert len(clock.timed) == len(set(clock.timed)) == sum(report.tried for report in found)


def test_tiles_that_cannot_run_are_dropped() -> None:
    clock = Landscape(keys=256, warps=4, broken=frozenset({128}))
    best, (report,) = search(clock, ("forward",))
    assert best.forward.keys == FIRST.forward.keys
    assert report.dropped >= 1


def test_the_first_schedule_has_to_run() -> None:
    with pytest.raises(MemoryError):
        search(Landscape(keys=16, warps=4, broken=frozenset({FIRST.forward.keys})))


def test_noise_moves_nothing() -> None:
    best, (report,) = fastest(
        FIRST,
        ("forward",),
        lambda schedule, part: neighbours(schedule, part, PROBLEM, gathered=True),
        lambda schedule, part: 1.0 if schedule == FIRST else 0.99,
        lambda schedule, part: None,
    )
    assert best == FIRST and report.before == report.after == 1.0


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize(
    ("pattern", "same"),
    [("window(6)", {"forward", "backward_query"}), ("window(6) with bias(3)", {"forward"})],
)
def test_tiles_that_a_kernel_for_hopper_has_not_are_not_timed(
    pattern: str, same: set[Part], described: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of these parts the first schedule alone is timed, and others that have no such kernel."""
    clock = Landscape(keys=16, warps=8)
    runs = SimpleNamespace(milliseconds=clock, described=described)
    monkeypatch.setattr(autotune, "_Runs", lambda *_: runs)
    sample: Any = SimpleNamespace(gradients=True)
    plan = lower(pattern, PROBLEM)
    autotune._search(pattern, "", plan, sample, lambda schedule, part: None)
    for part in ("forward", "backward_query"):
        plans = [lower(pattern, PROBLEM, schedule=s) for s, timed in clock.timed if timed == part]
        has = [p.hopper if part == "forward" else p.hopper_query for p in plans]
        assert (len([shape for shape in has if shape is not None]) == 1) == (part in same)
    alone = described and plan.hopper_keys is not None
    assert (len([s for s, timed in clock.timed if timed == "backward_contiguous"]) == 1) == alone


@pytest.mark.parametrize(("length", "described"), [(1 << 16, False), (1 << 17, True)])
def test_long_calls_have_descriptors(length: int, described: bool) -> None:
    tensor = torch.empty(1, 1, length, 64, dtype=torch.bfloat16)
    sample = autotune.Sample(tensor, tensor, tensor, (), (), 0.125, gradients=True)
    assert autotune._Runs("window(6)", "", sample).described == described


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a process that has tuned nothing; measures for a short time."""
    monkeypatch.setenv("ATTNCOMP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(autotune, "_MEASURED_MS", 0.1)
    forget(monkeypatch)
    return tmp_path


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as another process would."""
    monkeypatch.setattr(autotune, "_known", {})
    monkeypatch.setattr(autotune, "_latest", {})
    attncomp.api._compile_text.cache_clear()


def inputs(generator: torch.Generator, n: int = 40) -> list[Tensor]:
    shapes = (1, 4, n, 16), (1, 2, n, 16), (1, 2, n, 16), (1, 2, n)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.fixture
def preferred(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A clock that likes 64 x 256 best; the parts that were timed."""
    timed: list[str] = []

    def milliseconds(self: object, schedule: Schedule, part: Part) -> float:
        timed.append(part)
        tile = schedule.tile(part)
        return 1.0 + abs(tile.queries - 64) + abs(tile.keys - 256)

    monkeypatch.setattr("attncomp.runtime.autotune._Runs.milliseconds", milliseconds)
    return timed


def test_a_tuned_call(
    fresh: Path, preferred: list[str], capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v, u = inputs(generator)
    pattern = attncomp.compile(SPEC, autotune=True)
    out = pattern(q, k, v, scores=u)
    assert (pattern.plan.schedule.forward.queries, pattern.plan.schedule.forward.keys) == (64, 256)
    assert f"tuning {SPEC}" in capsys.readouterr().err
    expected = attncomp.compile(SPEC, backend="reference")(q, k, v, scores=u)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    dout = torch.randn(out.shape, generator=generator, dtype=out.dtype)
    for found, right in zip(
        torch.autograd.grad(out, (q, k, v, u), dout),
        torch.autograd.grad(expected, (q, k, v, u), dout),
        strict=True,
    ):
        torch.testing.assert_close(found, right, rtol=0, atol=1e-9)
    assert attncomp.compile(SPEC).plan.schedule.forward.keys == 1024


def test_what_is_measured_again(
    fresh: Path,
    preferred: list[str],
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:
    def measured(n: int, *, gradients: bool) -> int:
        preferred.clear()
        q, k, v, u = inputs(generator, n)
        with torch.set_grad_enabled(gradients):
            attncomp.compile(SPEC, autotune=True)(q, k, v, scores=u)
        return len(preferred)

    assert measured(40, gradients=True) > 0
    assert measured(40, gradients=True) == measured(64, gradients=True) == 0
    assert measured(65, gradients=True) > 0  # the next power of two
    assert measured(40, gradients=False) > 0
    forget(monkeypatch)
    assert measured(40, gradients=True) == measured(65, gradients=True) == 0


def test_the_record(fresh: Path, preferred: list[str], generator: torch.Generator) -> None:
    q, k, v, u = inputs(generator)
    pattern = attncomp.compile(SPEC, autotune=True)
    pattern(q, k, v, scores=u)
    (text,) = [t for t in (p.read_text() for p in fresh.glob("*/*.py")) if t.startswith("{")]
    record = json.loads(text.splitlines()[0])
    assert record["pattern"] == SPEC
    assert record["problem"] == "torch float64 16 16 2"
    assert record["size"] == [4, 64, 64] and record["gradients"]
    (part,) = record["parts"]
    assert part["part"] == "forward" and part["before"] > part["after"] and part["dropped"] == 0


def test_groups_of_heads_are_tuned_by_themselves(
    fresh: Path, preferred: list[str], generator: torch.Generator
) -> None:
    spec = "heads{0:2 -> window(4), 2: -> causal}"
    q, k, v, _ = inputs(generator)
    pattern = attncomp.compile(spec, autotune=True)
    out = pattern(q, k, v)
    assert {plan.schedule.forward.keys for plan in pattern.plans.values()} == {256}
    expected = attncomp.compile(spec, backend="reference")(q, k, v)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)


def test_torch_compile_takes_the_latest_schedule(
    fresh: Path, preferred: list[str], generator: torch.Generator
) -> None:
    torch._dynamo.reset()
    q, k, v, u = inputs(generator)
    pattern = attncomp.compile(SPEC, autotune=True)

    def run(q: Tensor, k: Tensor, v: Tensor, u: Tensor) -> Tensor:
        return pattern(q, k, v, scores=u)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"cannot be tuned inside of torch\.compile"):
        compiled(q, k, v, u)
    torch._dynamo.reset()
    expected = run(q, k, v, u)
    count = len(preferred)
    torch.testing.assert_close(compiled(q, k, v, u), expected, rtol=0, atol=1e-12)
    assert len(preferred) == count


def test_a_real_clock(fresh: Path, generator: torch.Generator) -> None:
    q, k, v, u = inputs(generator)
    pattern = attncomp.compile(SPEC, autotune=True)
    out = pattern(q, k, v, scores=u)
    expected = attncomp.compile(SPEC, backend="reference")(q, k, v, scores=u)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    (problem,) = autotune._known.values()
    assert problem.startswith("torch float64 16 16 2 2/")


def test_a_capture_cannot_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")

    class OnGpu:
        device = torch.device("cuda", 0)
        shape = (1, 4, 40, 16)

    q: Any = OnGpu()
    sample = autotune.Sample(q, q, q, (), (), 1.0, gradients=False)
    with pytest.raises(BackendError) as caught:
        autotune.tuned_problem("causal", "triton bfloat16 16 16 1", sample)
    assert str(caught.value) == (
        "a schedule cannot be tuned while a CUDA graph is captured: call the pattern once before "
        "(pattern 'causal')"
    )


def test_mistakes(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    with pytest.raises(OptionError) as caught:
        attncomp.compile(SPEC, backend="reference", autotune=True)
    message = "autotune: expected backend triton or torch, as 'reference' has no schedules"
    assert str(caught.value) == f"{message}, found True"
    with pytest.raises(OptionError) as caught:
        attncomp.compile(SPEC, autotune=1)  # type: ignore[arg-type]
    assert str(caught.value) == "autotune: expected True or False, found 1"
    monkeypatch.setenv("ATTNCOMP_BACKEND", "reference")
    q, k, v, u = inputs(generator)
    with pytest.raises(OptionError) as caught:
        attncomp.compile(SPEC, autotune=True)(q, k, v, scores=u)
    assert str(caught.value) == f"{message}, found True (pattern '{SPEC}')"


def test_identity() -> None:
    tuned, plain = attncomp.compile(SPEC, autotune=True), attncomp.compile(SPEC)
    assert tuned != plain and tuned == attncomp.compile(SPEC, autotune=True)
    assert pickle.loads(pickle.dumps(tuned)) == tuned
    assert repr(tuned) == f"attncomp.compile('{SPEC}', autotune=True)"


def test_another_process_takes_it_up(tmp_path: Path) -> None:
    script = (
        "import torch, attncomp\n"
        "from attncomp.runtime import autotune\n"
        "q = torch.randn(1, 1, 20, 16)\n"
        "pattern = attncomp.compile('window(4)', autotune=True)\n"
        "pattern(q, q, q)\n"
        "print(pattern.plan.schedule.text)\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"ATTNCOMP_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != ""
    assert "tuning window(4)" in runs[0].stderr
    assert "tuning" not in runs[1].stderr
