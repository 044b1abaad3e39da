"""The Gluon forward for Hopper: emulated against dense attention, and compiled for the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense import Shape, blocks_of, dense_result, random_inputs
from gluon_support import emulate
from triton_support import OVERFLOWS, error_norm, load_plan, make_problem, wide

from attncomp.codegen.hopper import hopper_forward, refusal
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.ir.schedule import DtypeName

SCALE = 0.2
TOLERANCE = 3e-3  # of float16 weights and outputs


def plan_for(
    pattern: str, shape: Shape, *, target: str = "sm_90", dtype: DtypeName = "float16"
) -> KernelPlan:
    problem = make_problem(shape, dtype=dtype, target=target)
    plan = lower(pattern, problem)
    return (
        plan
        if plan.scores
        else lower(pattern, make_problem(shape, dtype=dtype, target=target, crisp=True))
    )


FOUR = Shape(
    batch=2, query_heads=8, kv_heads=2, groups=2, n_queries=200, n_keys=200,
    head_dim=64, value_dim=64,
)  # fmt: skip
CASES = {
    "causal": FOUR,
    "full": replace(FOUR, n_queries=70, n_keys=300),
    "window(100)": replace(FOUR, n_queries=300, n_keys=170),
    "window(9) | first(4)": replace(FOUR, query_heads=2, kv_heads=2),
    "chunk(70) | first(3)": replace(FOUR, query_heads=4, kv_heads=2),
    "causal & ~window(7)": FOUR,
    "sparsek(k=70)": replace(FOUR, n_queries=90, n_keys=333),
    "sparsek(k=69, lag=40) | window(30)": replace(FOUR, query_heads=16, groups=1, value_dim=128),
    "sparsek(k=9, gate='hard', lag=3) | window(3)": replace(FOUR, query_heads=2),
    "sparsek(k=100, gate='logit') | window(20)": FOUR,
    "sparsek(k=20, gate='value') & window(64)": FOUR,
    "sparsek(k=80) - window(33)": FOUR,
    "sparsek(k=30) | sparsek(k=9, lag=50) | first(2)": replace(FOUR, query_heads=4),
}


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("pattern", CASES)
def test_matches_dense_attention(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = CASES[pattern]
    plan = plan_for(pattern.replace("'", '"'), shape)
    assert refusal(plan) is None
    module = load_plan(replace(plan, hopper=hopper_forward(plan)))
    emulate(module, monkeypatch, programs=3)
    inputs = random_inputs(shape, generator, dtype=torch.float32)
    inputs = replace(inputs.to(torch.float16), scores=inputs.scores)
    state = module.select((inputs.scores,) * len(plan.scores), shape.n_queries)
    out, lse = module.forward(
        inputs.q, inputs.k, inputs.v, (*state, *blocks_of(plan, inputs)), SCALE
    )
    expected = dense_result(pattern.replace("'", '"'), wide(inputs), scale=SCALE)
    assert error_norm(out, expected.out) <= TOLERANCE
    assert error_norm(lse, expected.lse) <= TOLERANCE
