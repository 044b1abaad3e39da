"""The backward's dq for Hopper in Gluon: emulated against dense attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense import Inputs, Shape, dense_result
from gluon_support import emulate, halves, learned_tensors, plan_for, poisoned, with_nan_score
from torch import Tensor
from triton_support import OVERFLOWS, error_norm, load_plan, wide

from attncomp.codegen.hopper import hopper_query, query_refusal
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.plan_text import plan_text

SCALE = 0.2
TOLERANCE = 2e-3  # of gradients whose factors are float16
ONE = Shape(
    query_heads=4, kv_heads=2, groups=2, n_queries=150, n_keys=150, head_dim=64, value_dim=64
)
FOUR = replace(ONE, query_heads=8)
CASES = {
    "causal": replace(ONE, batch=2),
    "window(100)": replace(FOUR, n_queries=170, n_keys=140),
    "window(9) | first(4)": replace(ONE, query_heads=2),
    "causal & ~window(7)": replace(ONE, value_dim=128),
    "sparsek(k=69, lag=40) | window(30)": ONE,
    'sparsek(k=60, gate="logit") | window(20)': replace(ONE, n_queries=70),
    'sparsek(k=20, gate="value") & window(64)': replace(ONE, n_queries=70),
    'sparsek(k=9, gate="straight_through") | window(3)': replace(ONE, n_queries=40, n_keys=60),
    "window(33) - sparsek(k=40, gate='hard')": replace(ONE, n_queries=70),
}


def run(
    plan: KernelPlan,
    inputs: Inputs,
    patch: pytest.MonkeyPatch | None,
    learned: tuple[Tensor, ...] = (),
    forward: Inputs | None = None,
) -> list[Tensor]:
    """Gradients by the emulated kernel; without a patch, by what the module itself takes.

    forward: what the forward read, where that is something else.
    """
    module = load_plan(plan)
    state = module.select((inputs.scores,) * len(plan.scores), inputs.q.shape[2])
    state = (*state, *learned)
    read = inputs if forward is None else forward
    plain = load_plan(replace(plan, hopper=None, hopper_query=None))
    out, lse = plain.forward(read.q, read.k, read.v, state, SCALE)
    if patch is not None:
        emulate(module, patch, programs=3)
        patch.setattr(module, "backward_query_kernel", None)  # which serves other calls
    given = inputs.dout, inputs.dlse, inputs.q, inputs.k, inputs.v
    return list(module.backward(*given, out, lse, state, SCALE))


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("pattern", CASES)
def test_matches_dense_attention(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = halves(CASES[pattern], generator)
    plan = plan_for(pattern, CASES[pattern])
    found = run(plan, inputs, monkeypatch)
    expected = dense_result(pattern, wide(inputs), scale=SCALE)
    names = ["dq", "dk", "dv", "dscores"][: len(found)]
    for name, gradient in zip(names, found, strict=True):
        assert error_norm(gradient, getattr(expected, name)) <= TOLERANCE, name


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
def test_other_heads_do_not_leak(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = halves(ONE, generator)
    plan = plan_for("window(100)", ONE)
    whole = run(replace(plan, hopper_query=None), inputs, None)[0]
    dq = run(plan, poisoned(inputs), monkeypatch, forward=inputs)[0]
    assert error_norm(dq[:, :2], whole[:, :2]) <= TOLERANCE
    assert dq[:, 2:].isnan().all()


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
def test_nan_scores_show_in_the_rows_that_see_them(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = with_nan_score(halves(ONE, generator), 40)
    dq = run(plan_for("sparsek(k=20, lag=5) | window(9)", ONE), inputs, monkeypatch)[0]
    rows = torch.zeros(dq.shape[:3], dtype=torch.bool)
    rows[0, :2, 45:] = True
    assert torch.equal(dq.isnan().all(-1), rows) and torch.equal(dq.isnan().any(-1), rows)


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
def test_modifiers_are_those_of_the_triton_kernel(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = halves(ONE, generator)
    plan = plan_for('window(50) with softcap(3), alibi("slopes"), sink', ONE)
    learned = learned_tensors(plan, ONE.query_heads, generator)
    expected = run(replace(plan, hopper_query=None), inputs, None, learned)
    found = run(plan, inputs, monkeypatch, learned)
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        assert error_norm(one, other) <= TOLERANCE


def shifted(tensor: Tensor) -> Tensor:
    """The same numbers, at an address that is no multiple of 16 bytes."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
    return room[1:].view(tensor.shape).copy_(tensor)


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", ["q", "k", "v", "dout"])
def test_other_addresses_take_the_triton_kernel(
    name: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = replace(ONE, query_heads=2, n_queries=20, n_keys=20)
    inputs = halves(shape, generator)
    plan = plan_for("window(9)", shape)
    monkeypatch.setattr(load_plan(plan), "hopper_query_kernel", None)
    found = run(plan, replace(inputs, **{name: shifted(getattr(inputs, name))}), None)
    expected = dense_result("window(9)", wide(inputs), scale=SCALE)
    assert error_norm(found[0], expected.dq) <= TOLERANCE


@pytest.mark.parametrize(
    ("pattern", "shape", "reason"),
    [
        ("causal", ONE, None),
        ("causal with sink, softcap(9)", ONE, None),
        ("causal with bias(9)", ONE, "gradients of a table of biases"),
        ("causal", replace(ONE, head_dim=96), "head dims 96 and 64"),
        ("causal & documents", ONE, "tables of key ranges"),
    ],
)
def test_other_plans_are_refused(pattern: str, shape: Shape, reason: str | None) -> None:
    plan = plan_for(pattern, shape)
    assert query_refusal(plan) == reason
    assert (plan.hopper_query is None) == (reason is not None)


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        ("causal", "64 keys, 3 stages, registers 232 and 40"),
        ("causal with softcap(9)", "32 keys, 5 stages, registers 216 and 72"),
        ("sparsek(k=5) | window(9)", "32 keys, 5 stages, registers 216 and 72"),
    ],
)
def test_the_plan_names_it(pattern: str, shape: str) -> None:
    plan = plan_for(pattern, ONE)
    assert plan.hopper_query == hopper_query(plan)
    line = f"dq: hopper, warp-specialised, {shape}\n"
    assert line in plan_text(plan)
    assert line not in plan_text(replace(plan, hopper_query=None))
