"""The key-major backward for Hopper in Gluon: emulated against dense attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense import Inputs, Shape, dense_result
from gluon_support import emulate, halves, plan_for
from torch import Tensor
from triton_support import OVERFLOWS, error_norm, load_plan, wide

from attncomp.codegen.hopper import hopper_keys, key_refusal
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.plan_text import plan_text
from attncomp.runtime import descriptors

SCALE = 0.2
TOLERANCE = 2e-3  # of gradients whose factors are float16
ONE = Shape(
    query_heads=4, kv_heads=2, groups=2, n_queries=200, n_keys=200, head_dim=64, value_dim=64
)
CASES = {
    "causal": replace(ONE, batch=2),
    "full": replace(ONE, n_queries=24, n_keys=300),
    "window(100)": replace(ONE, query_heads=8, n_queries=172, n_keys=141),
    "window(9) | first(70)": replace(ONE, n_queries=276, n_keys=276),
    "causal & ~window(7)": replace(ONE, n_queries=68, n_keys=203, value_dim=128),
    "window(300)": replace(ONE, n_queries=400, n_keys=100, query_heads=2),
    "where(q // 48 >= k // 48) & window(150)": ONE,
    "where(h % 2 == k % 2) & causal": replace(ONE, query_heads=8),
    "sparsek(k=69, lag=40) | window(30)": ONE,
    'sparsek(k=60, gate="logit") | window(20) with sink': replace(ONE, query_heads=8),
}


def run(
    plan: KernelPlan, inputs: Inputs, patch: pytest.MonkeyPatch, *, emulated: bool
) -> list[Tensor]:
    """Gradients with dk and dv by the emulated kernel, or by what serves other calls."""
    plan = replace(plan, hopper=None, hopper_query=None)
    module = load_plan(plan)
    state = module.select((inputs.scores,) * len(plan.scores), inputs.q.shape[2])
    if plan.modifiers.sink is not None:
        state = (*state, torch.zeros(inputs.q.shape[1]))
    out, lse = module.forward(inputs.q, inputs.k, inputs.v, state, SCALE)
    given = inputs.dout, inputs.dlse, inputs.q, inputs.k, inputs.v
    with patch.context() as within:
        if emulated:
            emulate(module, within, programs=3)
            within.setattr(descriptors, "FEWEST_ROWS", 0)
        within.setattr(module, "backward_key_kernel" if emulated else "hopper_key_kernel", None)
        return list(module.backward(*given, out, lse, state, SCALE))


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("pattern", CASES)
def test_gradients_are_those_of_the_triton_kernel(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = halves(CASES[pattern], generator)
    plan = plan_for(pattern, CASES[pattern])
    dk, dv = run(plan, inputs, monkeypatch, emulated=True)[1:3]
    others = run(plan, inputs, monkeypatch, emulated=False)[1:3]
    assert error_norm(dk, others[0]) <= TOLERANCE
    assert error_norm(dv, others[1]) <= TOLERANCE
    if "sink" not in pattern:
        expected = dense_result(pattern, wide(inputs), scale=SCALE)
        assert error_norm(dk, expected.dk) <= TOLERANCE
        assert error_norm(dv, expected.dv) <= TOLERANCE


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
def test_other_heads_do_not_leak(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = halves(ONE, generator)
    plan = plan_for("window(100)", ONE)
    whole = run(plan, inputs, monkeypatch, emulated=True)
    dout = inputs.dout.clone()
    dout[:, 2:] = torch.nan
    found = run(plan, replace(inputs, dout=dout), monkeypatch, emulated=True)
    for gradient, other in zip(found[1:], whole[1:], strict=True):
        assert torch.equal(gradient[:, :1], other[:, :1])
    assert all(gradient[:, 1:].isnan().all() for gradient in found[1:])


@pytest.mark.parametrize(
    ("pattern", "shape", "reason"),
    [
        ("causal", ONE, None),
        ("causal with sink", ONE, None),
        ("sparsek(k=5) | window(9)", ONE, None),
        ("sparsek(k=5) | blocks(64) & causal", ONE, "lists of blocks"),
        ("sparsek(k=5)", ONE, "no sweeps over contiguous keys"),
        ('window(9) - sparsek(k=5, gate="hard")', ONE, "contiguous keys under a selection"),
        ("causal with softcap(9)", ONE, "logits under modifiers"),
        ("causal", replace(ONE, head_dim=96), "head dims 96 and 64"),
        ("causal & documents", ONE, "tables of key ranges"),
    ],
)
def test_other_plans_are_refused(pattern: str, shape: Shape, reason: str | None) -> None:
    plan = plan_for(pattern, shape)
    assert key_refusal(plan) == reason
    assert (plan.hopper_keys is None) == (reason is not None)


def test_the_plan_names_it() -> None:
    plan = plan_for("causal", ONE)
    assert plan.hopper_keys == hopper_keys(plan)
    line = "dk and dv: hopper, warp-specialised, 64 keys, 4 stages, registers 240 and 24\n"
    assert line in plan_text(plan)
    assert line not in plan_text(replace(plan, hopper_keys=None))
