"""What repeated calls leave out: checks of a known kind, and torch's dispatcher."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from dense import Shape, random_inputs
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import attncomp
from attncomp.errors import OptionError, TensorDtypeError, TensorShapeError, UnknownTensorError
from attncomp.runtime.calls import Checks

SHAPE = Shape(
    batch=2, query_heads=4, kv_heads=2, groups=2, n_queries=20, n_keys=26, head_dim=16, value_dim=24
)
SPECS = ("window(5)", "sparsek(k=4) | window(4)", "window(5) with sink, alibi")


class Seen(TorchDispatchMode):
    """Notes the ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


def leaves(generator: torch.Generator) -> list[Tensor]:
    inputs = random_inputs(SHAPE, generator, dtype=torch.float64)
    return [t.requires_grad_() for t in (inputs.q, inputs.k, inputs.v, inputs.scores)]


def named(spec: str, u: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    tensors = {"scores": u} if "sparsek" in spec else {}
    if "sink" in spec:
        sink = torch.randn(SHAPE.query_heads, generator=generator, dtype=torch.float64)
        tensors["sink"] = sink.requires_grad_()
    return tensors


@pytest.mark.parametrize("spec", SPECS)
def test_the_dispatcher_changes_nothing(spec: str, generator: torch.Generator) -> None:
    q, k, v, u = leaves(generator)
    tensors = named(spec, u, generator)
    pattern = attncomp.compile(spec)
    dout = torch.randn(2, 4, 20, 24, generator=generator, dtype=torch.float64)
    dlse = torch.randn(2, 4, 20, generator=generator, dtype=torch.float64)
    used = [q, k, v, *tensors.values()]

    def run() -> tuple[Tensor, ...]:
        results = pattern(q, k, v, return_lse=True, **tensors)
        return (*results, *torch.autograd.grad(results, used, (dout, dlse)))

    plain = run()
    with Seen() as seen:
        watched = run()
    assert {"attncomp.attend.default", "attncomp.attend_backward.default"} <= set(seen.ops)
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(plain[0], pattern(q, k, v, **tensors))


def test_profiles_name_the_op(generator: torch.Generator) -> None:
    q, k, v, _ = leaves(generator)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        attncomp.compile("window(5)")(q, k, v)
    assert "attncomp::attend" in {event.key for event in found.key_averages()}


def test_meta_tensors_have_results_without_memory() -> None:
    q, k, v = (torch.empty(2, heads, 20, 16, device="meta") for heads in (4, 2, 2))
    out, lse = attncomp.compile("window(5)")(q, k, v, return_lse=True)
    assert (out.is_meta, out.shape, lse.shape) == (True, (2, 4, 20, 16), (2, 4, 20))


def test_lazy_negation_is_not_overlooked(generator: torch.Generator) -> None:
    q, k, v, _ = leaves(generator)
    pattern = attncomp.compile("window(5)")
    out = pattern(q, k, v)
    dout = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    lazy = torch._neg_view(-dout)
    assert lazy.is_neg() and torch.equal(lazy, dout)
    expected = torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)
    for actual, right in zip(torch.autograd.grad(out, (q, k, v), lazy), expected, strict=True):
        assert torch.equal(actual, right)
    assert torch.equal(pattern(torch._neg_view(-q.detach()), k, v), out)


def test_a_known_kind_lets_nothing_else_pass(generator: torch.Generator) -> None:
    q, k, v, u = (t.detach() for t in leaves(generator))
    pattern = attncomp.compile("sparsek(k=4) | window(4)")
    expected = pattern(q, k, v, scores=u)
    assert torch.equal(pattern(q, k, v, scores=u), expected)
    with pytest.raises(TensorDtypeError):
        pattern(q, k.float(), v, scores=u)
    with pytest.raises(TensorShapeError):
        pattern(q, k[:, :, 1:], v, scores=u)
    with pytest.raises(TensorShapeError):
        pattern(q, k, v, scores=u[:, :, 1:])
    with pytest.raises(UnknownTensorError):
        pattern(q, k, v, score=u)
    with pytest.raises(OptionError):
        pattern(q, k, v, scores=u, scale=float("nan"))
    wider = pattern(q, k, v, scores=u, scale=0.5)
    assert not torch.equal(wider, expected)
    assert torch.equal(pattern(q, k, v, scores=u), expected)


def test_a_known_kind_runs_where_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    q, k, v, _ = leaves(generator)
    pattern = attncomp.compile("window(5)")
    kernels = pattern(q, k, v)
    monkeypatch.setenv("ATTNCOMP_BACKEND", "reference")
    with Seen() as seen:
        dense = pattern(q, k, v)
    assert not any(op.startswith("attncomp") for op in seen.ops)
    torch.testing.assert_close(dense, kernels)


def test_autocast_counts_at_every_call(generator: torch.Generator) -> None:
    q, k, v, _ = (t.detach().float() for t in leaves(generator))
    pattern = attncomp.compile("window(5)")
    assert pattern(q, k, v).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pattern(q, k, v).dtype == torch.bfloat16
    assert pattern(q, k, v).dtype == torch.float32


def test_many_kinds_are_not_kept() -> None:
    checks = Checks("window(2)", None, (), {}, (), own_scale=False)
    rows = torch.zeros(1, 1, 1100, 16)
    for n in range(1, 1100):
        checks.remember(checks(*[rows[:, :, :n]] * 3, {}, None), "torch float32 16 16 1")
    assert checks(rows[:, :, :1099], *[rows[:, :, :1099]] * 2, {}, None).problem is not None
    assert checks(rows[:, :, :5], *[rows[:, :, :5]] * 2, {}, None).problem is None


def test_a_known_text_is_compiled_in_microseconds() -> None:
    text = "sparsek(k=4) | window(4)"
    attncomp.compile(text)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        attncomp.compile(text)
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 20e-6
