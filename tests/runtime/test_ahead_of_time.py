"""Every generated kernel compiles for every supported GPU, without one, and fits it.

Compiling all shipped patterns for all GPUs takes a quarter of an hour of a core: a run does it for
the reference pattern, which has every kernel, and for each other one with a GPU that it draws.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import re
from typing import Any

import pytest
import torch

from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.errors import BackendError
from attncomp.frontend.library import shipped
from attncomp.ir.schedule import BackendName, DtypeName, Problem
from attncomp.runtime import ahead_of_time
from attncomp.runtime.ahead_of_time import LIMITS, KernelReport, compile_plan, limits

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
REFERENCE = "sparsek_window"
SELECT = [
    "checkpoint_kernel",
    "interval_kernel",
    "part_checkpoint_kernel",
    "part_interval_kernel",
    "row_list_kernel",
    "list_kernel",
]
GATHERED = ["backward_gathered_0_kernel", "sum_segments_0_kernel"]
SCORES = ["sum_thresholds_kernel", "backward_scores_kernel"]
# Bytes a thread; more means that a tile does not fit the registers at all. Exact float32 products
# use no tensor cores and hold their operands in registers: slow, and without a bound here.
MAX_SPILL = 1024


def plan_for(
    pattern: str,
    target: str,
    *,
    backend: BackendName = "triton",
    dtype: DtypeName = "bfloat16",
    head_dim: int = 64,
) -> KernelPlan:
    problem = Problem(
        backend=backend,
        target=target,
        dtype=dtype,
        head_dim=head_dim,
        value_dim=head_dim,
        unit_heads=4,
    )
    return lower(pattern, problem)


def attending(plan: KernelPlan) -> list[str]:
    """The kernels of sweeps; those that are for some calls alone come behind the others."""
    hopper = {
        "forward_kernel": ("hopper_forward_kernel", plan.hopper),
        "backward_query_kernel": ("hopper_query_kernel", plan.hopper_query),
        "backward_key_kernel": ("hopper_key_kernel", plan.hopper_keys),
    }
    first = {name: name if shape is None else other for name, (other, shape) in hopper.items()}
    forward, query, keys = first.values()
    found = [forward, query, *(GATHERED if plan.selections else []), keys]
    found += SCORES if plan.differentiable_scores else []
    return found + [name for name in hopper if first[name] != name]


def assert_fit(reports: list[KernelReport], target: str, dtype: DtypeName = "bfloat16") -> None:
    found = limits(target)
    for report in reports:
        assert 0 < report.registers <= found.registers, report.name
        assert report.shared <= found.shared, report.name
        assert report.spills <= MAX_SPILL or dtype == "float32", report.name
        assert report.warps in (1, 2, 4, 8, 12, 16, 32), report.name
        assert re.search(rf"^\s*\.(amdgcn_)?target .*\b{target}", report.text, re.M), report.name


def drawn(seed: str | None) -> list[tuple[str, str]]:
    """A target for each shipped pattern but the reference, each for a quarter of these."""
    draw = random.Random(seed)
    names = others()
    draw.shuffle(names)
    targets = draw.sample(TARGETS, len(TARGETS))
    return sorted(zip(names, itertools.cycle(targets), strict=False))


def others() -> list[str]:
    """The shipped patterns that are not the reference."""
    return [name for name in shipped() if name != REFERENCE]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.originalname != "test_every_shipped_pattern_fits":
        return
    if metafunc.config.getoption("--targets") == "all":
        cases = [(name, target) for name in others() for target in TARGETS]
    else:
        run = os.environ.get("PYTEST_XDIST_TESTRUNUID")  # the workers of a run draw the same ones
        seed = metafunc.config.getoption("--seed")
        cases = drawn(run if seed is None else str(seed))
    metafunc.parametrize(("name", "target"), cases)


def test_each_run_draws() -> None:
    first, again, other = drawn("1"), drawn("1"), drawn("2")
    assert first == again != other
    for target in TARGETS:
        count = sum(case[1] == target for case in first)
        assert abs(count - (len(shipped()) - 1) / 4) < 1
    assert [name for name, _ in first] == sorted(set(shipped()) - {REFERENCE})


def test_every_shipped_pattern_fits(name: str, target: str) -> None:
    plan = plan_for(name, target)
    reports = compile_plan(plan, target)
    expected = [*(SELECT if plan.selections else []), *attending(plan)]
    for number, _ in enumerate(plan.strided, start=2):
        expected += [f"{name}#{number}" for name in attending(plan)]
    assert [report.name for report in reports] == expected
    assert_fit(reports, target)


@pytest.mark.parametrize("target", TARGETS)
def test_the_reference_pattern_fits(target: str) -> None:
    """It has every kernel; those of keys copy rows of queries by descriptors where a GPU can."""
    plan = plan_for(REFERENCE, target, head_dim=128)
    reports = compile_plan(plan, target)
    assert [report.name for report in reports] == [*SELECT, *attending(plan)]
    assert_fit(reports, target)
    keys = "backward_key_kernel" if plan.hopper_keys is None else "hopper_key_kernel"
    text = {report.name: report.text for report in reports}
    for name in ("backward_gathered_0_kernel", keys):
        assert ("cp.async.bulk.tensor" in text[name]) == (target in ("sm_90", "sm_100")), name


@pytest.mark.parametrize(
    ("pattern", "target", "head_dim", "dtype"),
    [
        ("first(4) | window(64)", "sm_90", 128, "bfloat16"),
        ("first(4) | window(64)", "gfx942", 128, "bfloat16"),
        ("causal", "sm_80", 256, "float16"),
        ("window(48)", "sm_100", 32, "float32"),
    ],
)
def test_contiguous_sweeps_fit(pattern: str, target: str, head_dim: int, dtype: DtypeName) -> None:
    plan = plan_for(pattern, target, head_dim=head_dim, dtype=dtype)
    reports = compile_plan(plan, target)
    names = [report.name for report in reports]
    assert names == attending(plan)
    assert_fit(reports, target, dtype)
    forward, tile = reports[names.index("forward_kernel")], plan.schedule.forward
    assert (forward.warps, forward.stages) == (tile.warps, tile.stages)


@pytest.mark.parametrize(
    ("pattern", "target", "also"),
    [
        ('sparsek(k=64, gate="hard") - window(8)', "sm_80", SELECT),
        ('sparsek(k=64, gate="logit")', "sm_90", []),  # selects as the reference pattern does
    ],
)
def test_gate_modes_fit(pattern: str, target: str, also: list[str]) -> None:
    plan = plan_for(pattern, target)
    names = [*also, *attending(plan)]
    reports = compile_plan(plan, target, names=names)
    assert [report.name for report in reports] == names
    assert_fit(reports, target)


MODIFIERS = 'softcap(30), alibi(slopes="slopes"), bias(64), sink'


@pytest.mark.parametrize(
    ("pattern", "target"),
    [("causal", "sm_90"), ("causal", "gfx942"), ("sparsek(k=64, lag=32) | window(32)", "sm_90")],
)
def test_modifiers_fit(pattern: str, target: str) -> None:
    """No modifier changes the kernels that select."""
    plan = plan_for(f"{pattern} with {MODIFIERS}", target)
    reports = compile_plan(plan, target, names=attending(plan))
    assert [report.name for report in reports] == attending(plan)
    assert_fit(reports, target)


SMALL_MODULE = """
import torch
import triton
import triton.language as tl

@triton.jit(do_not_specialize=["free"])
def copy_kernel(source, target, absent, size, free, scale, flag, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    if absent is None:
        tl.store(target + offsets * size + free, tl.load(source + offsets) * scale)

@triton.jit
def {second}(target, BLOCK: tl.constexpr):
    {body}

def select(scores, n_queries):
    return ()

def forward(q, k, v, state, scale):
    return q, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)

def backward(dout, dlse, q, k, v, out, lse, state, scale):
    for size in (32, 32, 7):
        copy_kernel[(1,)](q, dlse, None, size, 2**40, scale, True, BLOCK=128, num_warps=2)
    {second}[lambda meta: (1,)](dlse, BLOCK=64, num_warps=1, num_stages=5)
"""
STORE = "tl.store(target + tl.arange(0, BLOCK), 1.0)"


def module_with(monkeypatch: pytest.MonkeyPatch, second: str, body: str) -> KernelPlan:
    """A plan that is rendered to SMALL_MODULE."""
    text = SMALL_MODULE.format(second=second, body=body)
    monkeypatch.setattr(ahead_of_time, "render", lambda plan: text)
    return plan_for("causal", "sm_90")


def test_kernels_are_specialised_as_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = module_with(monkeypatch, "store_kernel", STORE)
    launches = ahead_of_time._record(plan, "sm_90")
    assert [launch.kernel.__name__ for launch in launches] == [
        "copy_kernel",
        "copy_kernel",
        "store_kernel",
    ]
    aligned, odd, store = launches
    assert aligned.signature == {
        "source": "*bf16",
        "target": "*fp32",
        "absent": "constexpr",
        "size": "i32",
        "free": "i64",
        "scale": "fp32",
        "flag": "u1",
        "BLOCK": "constexpr",
    }
    assert aligned.constants == {(2,): None, (7,): 128}
    by_16 = [["tt.divisibility", 16]]
    assert aligned.attributes == {(0,): by_16, (1,): by_16, (3,): by_16}
    assert odd == dataclasses.replace(odd, signature=aligned.signature)
    assert odd.attributes == {(0,): by_16, (1,): by_16}
    assert store.options == {"num_warps": 1, "num_stages": 5, "enable_fp_fusion": True}


@pytest.mark.parametrize("length", [100, 1000, 8192, 100_000])
def test_lengths_select_by_the_same_kernels(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is compiled when a sequence has grown."""
    plan = plan_for("sparsek(k=512)", "sm_90")

    def kernels(n: int) -> list[tuple[object, ...]]:
        scores = torch.empty(1, 8, n, device="meta")

        def select(module: Any, *_: object, **__: object) -> None:
            module.select((scores,), n)

        monkeypatch.setattr(ahead_of_time, "_run", select)
        launches = ahead_of_time._record(plan, "sm_90")
        return [(x.kernel.__name__, x.signature, x.constants, x.options) for x in launches]

    assert kernels(length) == kernels(4096)


def test_pointers_into_small_tensors_are_narrow_on_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = module_with(monkeypatch, "store_kernel", STORE)
    launch = ahead_of_time._record(plan, "gfx942")[0]
    assert launch.attributes[0,] == [["tt.divisibility", 16], ["tt.pointer_range", 32]]


def test_each_variant_of_a_kernel_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = module_with(monkeypatch, "store_kernel", STORE)
    for _ in range(2):  # the recorders are gone after the first
        reports = compile_plan(plan, "sm_90")
        assert [(r.name, r.warps, r.stages) for r in reports] == [
            ("copy_kernel", 2, 3),
            ("copy_kernel#2", 2, 3),
            ("store_kernel", 1, 5),
        ]
        assert all(report.spills == 0 for report in reports)
        assert ".entry copy_kernel" in reports[1].text


def test_wanted_kernels_alone_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = module_with(monkeypatch, "wrong_kernel", "tl.static_assert(BLOCK == 65, 'BLOCK is off')")
    for names in (["copy_kernel#2"], {"copy_kernel", "copy_kernel#2"}, []):
        reports = compile_plan(plan, "sm_90", names=names)
        assert [report.name for report in reports] == sorted(names)
    with pytest.raises(BackendError) as caught:
        compile_plan(plan, "sm_90", names=["copy_kernel", "copy"])
    assert str(caught.value) == (
        "ahead-of-time kernel: expected one of copy_kernel, copy_kernel#2, wrong_kernel, "
        "found 'copy'"
    )


def test_a_kernel_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = module_with(monkeypatch, "wrong_kernel", "tl.static_assert(BLOCK == 65, 'BLOCK is off')")
    with pytest.raises(BackendError) as caught:
        compile_plan(plan, "sm_80")
    assert str(caught.value) == "kernel wrong_kernel does not compile for sm_80: BLOCK is off"


def test_the_target_is_known() -> None:
    with pytest.raises(BackendError) as caught:
        compile_plan(plan_for("causal", "sm_90"), "sm_75")
    known = ", ".join(LIMITS)
    assert str(caught.value) == f"ahead-of-time target: expected one of {known}, found 'sm_75'"


def test_the_plan_is_for_triton() -> None:
    with pytest.raises(BackendError) as caught:
        compile_plan(plan_for("causal", "cpu", backend="torch"), "sm_90")
    assert str(caught.value) == (
        "ahead of time: expected a plan of backend 'triton', found 'torch'"
    )


def test_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(BackendError) as caught:
        compile_plan(plan_for("causal", "sm_90"), "sm_90")
    assert str(caught.value) == (
        "ahead of time: Triton runs in its interpreter; unset TRITON_INTERPRET and start again"
    )
