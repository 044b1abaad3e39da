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


def torch_twin(plan: KernelPlan, queries: int) -> KernelPlan:
    """The plan for the torch backend, with so many queries a tile of the forward."""
    tile = dataclasses.replace(plan.schedule.forward, queries=queries)
    return dataclasses.replace(
        plan,
        problem=dataclasses.replace(plan.problem, backend="torch"),
        schedule=dataclasses.replace(plan.schedule, forward=tile),
    )


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
    layout = state_layout(plan, batch, [groups], n_queries, n_keys)
    assert [tuple(tensor.shape) for tensor in found] == [field.shape for field in layout]
    for name, queries in (
        ("tile", plan.schedule.forward.queries),
        ("segment", plan.schedule.segment),
    ):
        twin = torch_twin(plan, queries)
        wanted = split_state(twin, load_plan(twin).select(given_scores, n_queries))
        for state, expected in zip(split_state(plan, found), wanted, strict=True):
            for field, tensor in expected.items():
                assert_same(field, state[field.replace("tile", name)], tensor)


def assert_same(name: str, found: Tensor, wanted: Tensor) -> None:
    assert found.dtype == wanted.dtype
    if name == "tile_keys":  # in another order
        found, wanted = found.sort(-1).values, wanted.sort(-1).values
    if name == "delta":
        assert torch.allclose(found, wanted, rtol=0, atol=1e-6)
    else:
        assert torch.equal(found, wanted), name
