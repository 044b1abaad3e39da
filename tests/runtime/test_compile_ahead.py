"""Kernels compiled side by side: which, in what order, and what happens when that goes wrong.

No GPU is there: Triton's own launcher runs, with a driver that launches nothing and a compiler that
makes nothing, on tensors without memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from compile_support import PROBLEM, Compiler, Served
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon._runtime import GluonASTSource

import attncomp
from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.runtime import compile_ahead, whole
from attncomp.runtime.program import Program
from attncomp.runtime.strides import Kernels

PATTERNS = (
    "window(5)",
    "sparsek(k=4, lag=3) | window(4)",
    'sparsek(k=4, gate="hard") | sparsek(k=2, gate="hard", scores="near")',
    "strided(64) | window(5)",
    "window(64) with softcap(30), sink, bias(8)",
)
WAIT = 20.0  # seconds, for what comes at once


@pytest.fixture
def launchers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A machine with a GPU and 16 cores, as far as compilers look; kernels that have launchers."""
    found: list[str] = []
    driver = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        launcher_cls=lambda src, metadata: found.append(src.name),
    )
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(compile_ahead, "cores", lambda: 16)
    yield found
    _join()


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, launchers: list[str]) -> Compiler:
    """The compiler of that machine."""
    found = Compiler(launchers=launchers)
    monkeypatch.setattr(triton.compiler, "compile", found)
    for source in (triton.compiler.ASTSource, GluonASTSource):
        monkeypatch.setattr(source, "make_ir", lambda source: found.parse())
    return found


def _join() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("attncomp-"):
            thread.join(WAIT)
            assert not thread.is_alive()


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_call_compiles_nothing_that_was_not_started(
    compiler: Compiler, tmp_path: Path, pattern: str, gradients: bool
) -> None:
    served = Served(lower(pattern, PROBLEM), tmp_path)
    served.start(gradients=gradients)
    served.run(gradients=gradients)
    assert compiler.compiled
    assert all(compiler.ahead)
    # Each of them is launched: another call of other modules compiles as many.
    ahead = sorted(compiler.compiled)
    assert sorted(compiler.launchers) == ahead
    compiler.compiled.clear()
    (tmp_path / "other").mkdir()
    Served(served.plan, tmp_path / "other").run(gradients=gradients)
    assert sorted(compiler.compiled) == ahead


def test_gradients_after_a_call_without(compiler: Compiler, tmp_path: Path) -> None:
    served = Served(lower(PATTERNS[1], PROBLEM), tmp_path)
    served.start(gradients=False)
    served.run(gradients=False)
    before = len(compiler.compiled)
    served.start(gradients=True)
    _join()
    found = compiler.compiled[before:]
    assert found
    assert all(name.startswith(("backward", "hopper_query", "sum")) for name in found)
    served.start(gradients=True)
    served.run(gradients=True)
    assert len(compiler.compiled) == before + len(found)
    assert len(compiler.launchers) == len(compiler.compiled)  # nothing was started twice
    assert all(compiler.ahead)


def test_functions_start_their_own_kernels(compiler: Compiler, tmp_path: Path) -> None:
    """What calls through torch's dispatcher and searches for schedules do."""
    served = Served(lower(PATTERNS[1], PROBLEM), tmp_path)
    program = Program(served.plan, *served.functions, served.ahead)
    first = program.forward
    served.functions = Kernels(program.select, program.forward, program.backward)
    for _ in range(2):
        served.run(gradients=True)
    assert all(compiler.ahead)
    assert program.forward is not first
    assert program.forward.__name__ == "forward"
    assert len(compiler.compiled) == len(compiler.launchers)


def test_kernels_are_made_side_by_side_and_parsed_one_by_one(
    compiler: Compiler, tmp_path: Path
) -> None:
    served = Served(lower("window(5)", PROBLEM), tmp_path)
    barrier, parsing, most = threading.Barrier(3, timeout=WAIT), [0], []

    def parse() -> None:
        parsing[0] += 1
        time.sleep(0.01)
        most.append(parsing[0])
        parsing[0] -= 1

    compiler.parse = parse
    compiler.make = lambda name: barrier.wait()
    served.start(gradients=True)  # forward, and two kernels backward
    served.run(gradients=True)
    assert compiler.ahead == [True] * 3
    assert most == [1, 1, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_triton_starts_while_the_module_is_made(
    fails: bool, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is parsed before it has, or has failed to: then a launch says why it cannot run."""
    begun, gate = threading.Event(), threading.Event()
    driver = triton.runtime.driver.active
    target = driver.get_current_target()

    def start() -> GPUTarget:
        begun.set()
        assert gate.wait(WAIT)
        if fails:
            raise OSError("no C compiler")
        return target

    monkeypatch.setattr(driver, "get_current_target", start)
    served = Served(lower("window(5)", PROBLEM), tmp_path)
    assert begun.wait(WAIT)
    caller = threading.Thread(target=served.start, kwargs={"gradients": False})
    caller.start()
    caller.join(0.1)
    assert caller.is_alive() and not compiler.threads
    gate.set()
    caller.join(WAIT)
    with pytest.raises(OSError, match="no C compiler") if fails else contextlib.nullcontext():
        served.run(gradients=False)
    assert compiler.ahead == [True] * (not fails)


def test_the_slowest_come_first(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the others the last launched."""
    order: list[str] = []
    compiler.make = order.append
    monkeypatch.setattr(compile_ahead, "cores", lambda: 1)
    served = Served(lower("sparsek(k=4)", PROBLEM), tmp_path)
    served.start(gradients=True)
    served.run(gradients=True)
    assert order == [
        *("hopper_forward_kernel", "backward_key_kernel", "hopper_query_kernel"),
        *("part_interval_kernel", "backward_gathered_0_kernel", "checkpoint_kernel"),
        *("backward_scores_kernel", "sum_thresholds_kernel", "sum_segments_0_kernel"),
        *("list_kernel", "row_list_kernel", "part_checkpoint_kernel", "interval_kernel"),
    ]


def test_the_slowest_kernels_are_known_by_their_names() -> None:
    kernels = set()
    for target in ("sm_80", "sm_90"):
        problem = dataclasses.replace(PROBLEM, target=target, head_dim=128, value_dim=128)
        for pattern in PATTERNS:
            text = render(lower(pattern, problem))
            kernels |= set(re.findall(r"^def (\w+_kernel)\(", text, re.MULTILINE))
    for name in compile_ahead.SLOWEST:
        assert any(kernel.startswith(name) for kernel in kernels), name


def test_launches_wait_for_their_own_kernel(compiler: Compiler, tmp_path: Path) -> None:
    """Forward runs while kernels of the gradients are still being made."""
    served = Served(lower("window(5)", PROBLEM), tmp_path)
    gate = threading.Event()

    def make(name: str) -> None:
        if name.startswith(("backward", "hopper_query")):
            assert gate.wait(WAIT)

    compiler.make = make
    served.start(gradients=True)
    served.run(gradients=False)
    assert compiler.compiled == ["hopper_forward_kernel"]
    gate.set()
    served.run(gradients=True)
    assert len(compiler.compiled) == 3
    assert all(compiler.ahead)


def test_what_goes_wrong_is_raised_by_the_launch(compiler: Compiler, tmp_path: Path) -> None:
    served = Served(lower("window(5)", PROBLEM), tmp_path)

    def make(name: str) -> None:
        if name == "hopper_forward_kernel":
            raise RuntimeError("ptxas failed")

    compiler.make = make
    served.start(gradients=True)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"^ptxas failed$"):
            served.run(gradients=True)
    assert compiler.ahead == [True, True, True, False, False]


def test_mistakes_in_the_source_are_raised_by_the_launch(
    compiler: Compiler, tmp_path: Path
) -> None:
    def parse() -> None:
        raise SyntaxError("no kernel")

    compiler.parse = parse
    served = Served(lower("window(5)", PROBLEM), tmp_path)
    served.start(gradients=True)
    with pytest.raises(SyntaxError, match="no kernel"):
        served.run(gradients=True)


def test_an_interrupt_leaves_no_queue(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, waits = threading.Event(), []

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(1)
            if len(waits) == 2:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(compile_ahead, "cores", lambda: 1)
    compiler.make = lambda name: gate.wait(WAIT)
    served = Served(lower("window(5)", PROBLEM), tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(compile_ahead, "threading", SimpleNamespace(Event=Interrupted))
        with pytest.raises(KeyboardInterrupt):
            served.start(gradients=True)
    gate.set()
    _join()
    assert compiler.compiled == ["hopper_forward_kernel"]
    compiler.make = lambda name: None
    served.run(gradients=True)
    assert sorted(compiler.compiled) == [
        "backward_key_kernel",
        "hopper_forward_kernel",
        "hopper_query_kernel",
    ]


def test_calls_tell_whether_they_want_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    class Noted:
        def call(self, *args: object, gradients: bool) -> None:
            seen.append(gradients)

    real = whole.program

    def program(*args: Any) -> Any:
        return SimpleNamespace(ahead=Noted()) if not seen else real(*args)

    monkeypatch.setattr(whole, "program", program)
    q = torch.randn(1, 1, 8, 16, requires_grad=True)
    attncomp.compile("window(3)")(q, q, q)
    assert seen == [True]
    seen.clear()
    with torch.no_grad():
        attncomp.compile("window(4)")(q, q, q)
    assert seen == [False]


def test_triton_itself_makes_kernels_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launchers: list[str]
) -> None:
    """None passes the last step before all have come to it, and so all have been parsed."""
    backend, barrier = triton.backends.nvidia.compiler.CUDABackend, threading.Barrier(3)
    make_cubin = backend.make_cubin

    def wait(*args: Any, **keywords: Any) -> Any:
        barrier.wait(5 * WAIT)
        return make_cubin(*args, **keywords)

    monkeypatch.setattr(backend, "make_cubin", wait)
    (tmp_path / "kernels").mkdir()
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "kernels"))
    (tmp_path / "modules").mkdir()
    small = dataclasses.replace(PROBLEM, head_dim=16, value_dim=16)
    served = Served(lower("window(5)", small), tmp_path / "modules")
    served.start(gradients=True)
    _join()
    assert sorted(launchers) == ["backward_key_kernel", "backward_query_kernel", "forward_kernel"]
