"""The Gluon forward for Hopper: emulated against dense attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense import Inputs, Shape, blocks_of, dense_result
from gluon_support import emulate, halves, learned_tensors, plan_for, poisoned, with_nan_score
from torch import Tensor
from triton_support import OVERFLOWS, error_norm, load_plan, wide

from attncomp.codegen.hopper import hopper_forward, refusal
from attncomp.codegen.plan_text import plan_text
from attncomp.ir.schedule import DtypeName

SCALE = 0.2
TOLERANCE = 3e-4  # of outputs, whose weights are float16
LSE_TOLERANCE = 1e-5  # of float32 sums of float16 products
TILE = 32  # queries of FOUR, each for four heads


FOUR = Shape(
    batch=2, query_heads=8, kv_heads=2, groups=2, n_queries=200, n_keys=200,
    head_dim=64, value_dim=64,
)  # fmt: skip
ONE = replace(FOUR, batch=1)
CASES = {
    "causal": FOUR,
    "full": replace(FOUR, n_queries=70, n_keys=300),
    "window(100)": replace(FOUR, n_queries=300, n_keys=170),
    "window(9) | first(4)": replace(FOUR, query_heads=2, kv_heads=2),
    "chunk(70) | first(3)": replace(FOUR, query_heads=4, kv_heads=2),
    "causal & ~window(7)": FOUR,
    "sparsek(k=70)": replace(ONE, n_queries=90, n_keys=333),
    "sparsek(k=69, lag=40) | window(30)": replace(FOUR, query_heads=16, groups=1, value_dim=128),
    'sparsek(k=9, gate="hard", lag=3) | window(3)': replace(FOUR, query_heads=2),
    'sparsek(k=100, gate="logit") | window(20)': ONE,
    'sparsek(k=20, gate="value") & window(64)': ONE,
    "sparsek(k=80) - window(33)": ONE,
    "sparsek(k=30) | sparsek(k=9, lag=50) | first(2)": replace(ONE, query_heads=4),
}


def run(
    pattern: str,
    shape: Shape,
    inputs: Inputs,
    patch: pytest.MonkeyPatch,
    learned: tuple[Tensor, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Out and lse of the emulated kernel."""
    plan = plan_for(pattern, shape)
    assert refusal(plan) is None
    module = load_plan(plan)
    emulate(module, patch, programs=3)
    state = module.select((inputs.scores,) * len(plan.scores), shape.n_queries)
    state = (*state, *blocks_of(plan, inputs), *learned)
    patch.setattr(module, "forward_kernel", None)  # which serves other calls
    out, lse = module.forward(inputs.q, inputs.k, inputs.v, state, SCALE)
    return out, lse


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("pattern", CASES)
def test_matches_dense_attention(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = halves(CASES[pattern], generator)
    out, lse = run(pattern, CASES[pattern], inputs, monkeypatch)
    expected = dense_result(pattern, wide(inputs), scale=SCALE)
    assert error_norm(out, expected.out) <= TOLERANCE
    assert error_norm(lse, expected.lse) <= LSE_TOLERANCE


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("pattern", ["window(100)", "sparsek(k=69, lag=40) | window(30)"])
def test_other_heads_do_not_leak(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = halves(FOUR, generator)
    expected = dense_result(pattern, wide(inputs), scale=SCALE)
    out, lse = run(pattern, FOUR, poisoned(inputs), monkeypatch)
    assert error_norm(out[:, :4], expected.out[:, :4]) <= TOLERANCE
    assert error_norm(lse[:, :4], expected.lse[:, :4]) <= LSE_TOLERANCE
    assert out[:, 4:].isnan().all()


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
def test_infinite_values_stay_infinite(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = halves(FOUR, generator)
    v = inputs.v.clone()
    v[:, :, 0] = torch.inf  # which every query attends
    out, _ = run("causal", FOUR, replace(inputs, v=v), monkeypatch)
    assert (out[:, :, 64:] == torch.inf).all()


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("gate", ["key_value", "value", "logit"])
def test_nan_scores_show_in_the_rows_that_see_them(
    gate: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first query whose prefix holds the NaN on; other groups do not notice."""
    pattern, place, lag = f"sparsek(k=20, lag=5, gate='{gate}') | window(9)", 40, 5
    inputs = halves(FOUR, generator)
    clean, _ = run(pattern, FOUR, inputs, monkeypatch)
    found, lse = run(pattern, FOUR, with_nan_score(inputs, place), monkeypatch)
    rows = torch.zeros(lse.shape, dtype=torch.bool)
    rows[0, :4, place + lag :] = True
    assert torch.equal(found.isnan().all(-1), rows) and torch.equal(lse.isnan(), rows)
    assert error_norm(found[~rows], clean[~rows]) <= TOLERANCE
    # the tile that the NaN comes up in has its keys in another order, which rounds in another way
    elsewhere = ~rows
    elsewhere[0, :4, place + lag - (place + lag) % TILE : place + lag] = False
    assert torch.equal(found[elsewhere], clean[elsewhere])


MODIFIED = {
    "window(50) with softcap(3)": FOUR,
    "causal with alibi": FOUR,
    "causal with bias(9)": FOUR,
    "window(9) with sink": replace(FOUR, query_heads=2, kv_heads=2),
    "(sparsek(k=20, lag=9) | window(9)) with softcap(3), alibi, sink": ONE,
    'sparsek(k=20, gate="logit") with bias(9)': ONE,
}


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("pattern", MODIFIED)
def test_modifiers_are_those_of_the_triton_kernel(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = MODIFIED[pattern]
    inputs = halves(shape, generator)
    plan = plan_for(pattern, shape)
    learned = learned_tensors(plan, shape.query_heads, generator)
    out, lse = run(pattern, shape, inputs, monkeypatch, learned)
    module = load_plan(replace(plan, hopper=None, hopper_query=None))
    state = module.select((inputs.scores,) * len(plan.scores), shape.n_queries)
    expected = module.forward(inputs.q, inputs.k, inputs.v, (*state, *learned), SCALE)
    assert error_norm(out, expected[0]) <= TOLERANCE
    assert error_norm(lse, expected[1]) <= LSE_TOLERANCE


@pytest.mark.parametrize(
    ("pattern", "shape", "target", "dtype", "reason"),
    [
        ("causal", FOUR, "sm_80", "float16", "for sm_80"),
        ("causal", FOUR, "sm_90", "float32", "of float32"),
        ("causal", replace(FOUR, head_dim=96), "sm_90", "float16", "head dims 96 and 64"),
        ("window(3) & ~full", FOUR, "sm_90", "float16", "no sweeps of its own"),
        ("causal & topk_blocks(4, size=32)", FOUR, "sm_90", "float16", "lists of blocks"),
        ("causal & documents", FOUR, "sm_90", "float16", "tables of key ranges"),
    ],
)
def test_other_plans_are_refused(
    pattern: str, shape: Shape, target: str, dtype: DtypeName, reason: str
) -> None:
    assert refusal(plan_for(pattern, shape, target=target, dtype=dtype)) == reason


def test_the_plan_names_it() -> None:
    plan = plan_for("causal", FOUR)
    assert plan.hopper == hopper_forward(plan)
    line = "forward: hopper, warp-specialised, 64 keys, 4 stages, registers 216 and 72\n"
    assert line in plan_text(plan)
    assert line not in plan_text(replace(plan, hopper=None))
