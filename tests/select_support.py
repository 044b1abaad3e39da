"""`select` of generated Triton modules beside that of the torch backend."""

from __future__ import annotations

import dataclasses

import torch
from dense import Shape
from selection_reference import split_state
from torch import Tensor
from triton_support import load_plan, make_plan

from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.state import state_layout
from attncomp.frontend.ast import Expr


def torch_twin(plan: KernelPlan) -> KernelPlan:
    """The plan with the same schedule for the torch backend."""
    return dataclasses.replace(plan, problem=dataclasses.replace(plan.problem, backend="torch"))


def check_select(
    pattern: str | Expr, scores: Tensor, n_queries: int, *, segment: int | None = None
) -> None:
    """Exactly the same integers and thresholds theta; delta to rounding, for sums differ.

    segment: queries that the backward's lists are for, None for as many as the schedule has.
    """
    batch, groups, n_keys = scores.shape
    shape = Shape(
        query_heads=groups, groups=groups, n_queries=n_queries, n_keys=n_keys, head_dim=16
    )
    plan = make_plan(pattern, dataclasses.replace(shape, value_dim=16))
    if segment is not None:
        plan = dataclasses.replace(
            plan, schedule=dataclasses.replace(plan.schedule, segment=segment)
        )
    given_scores = (scores,) * len(plan.scores)
    found = load_plan(plan).select(given_scores, n_queries)
    wanted = load_plan(torch_twin(plan)).select(given_scores, n_queries)
    layout = state_layout(plan, batch, [groups], n_queries, n_keys)
    assert [tuple(tensor.shape) for tensor in found] == [field.shape for field in layout]
    states = split_state(plan, found), split_state(torch_twin(plan), wanted)
    for state, twin in zip(*states, strict=True):
        for name, wanted_field in twin.items():
            field = state[name]
            assert field.dtype == wanted_field.dtype
            if name.endswith("_keys"):  # in another order
                field, wanted_field = field.sort(-1).values, wanted_field.sort(-1).values
            if name == "delta":
                assert torch.allclose(field, wanted_field, rtol=0, atol=1e-6)
            else:
                assert torch.equal(field, wanted_field), name
