"""Which listed keys need no mask: boxes of pairs, and the lists that are parted by them."""

from __future__ import annotations

import pytest
import torch
from dense import Shape
from selection_reference import split_state
from torch import Tensor
from triton_support import OVERFLOWS, load_plan, make_plan

from attncomp.codegen.full_lists import FullBox, full_box, has_full_lists
from attncomp.codegen.plan import KernelPlan

SHAPE = Shape(
    query_heads=2, groups=2, n_queries=90, n_keys=120, head_dim=16, value_dim=16
)  # fmt: skip
FAR, NO_KEY = 1 << 30, (1 << 31) - 1
ANY = FullBox(near=0, far=FAR, first_key=0, end_key=NO_KEY)


@pytest.mark.parametrize(
    ("pattern", "boxes", "unmasked"),
    [
        ("sparsek(k=9)", [ANY], 1),
        ("sparsek(k=9) | window(30)", [ANY._replace(near=30)], 1),
        ("sparsek(k=9, lag=10) | window(30)", [ANY._replace(near=20)], 1),
        ("sparsek(k=9, lag=10) & window(30)", [ANY._replace(far=20)], 1),
        ("sparsek(k=9) | first(7)", [ANY._replace(first_key=7)], 1),
        ("sparsek(k=9) & first(7)", [ANY._replace(end_key=7)], 1),
        ("sparsek(k=9) - (window(30) - window(5))", [ANY._replace(near=30)], 1),
        ("sparsek(k=9) & where(q % 2 == 0)", [ANY], 0),
        ("sparsek(k=9) | sparsek(k=5, lag=3) | first(7)", [ANY, ANY], 0),
    ],
)
def test_boxes(pattern: str, boxes: list[FullBox], unmasked: int) -> None:
    plan = make_plan(pattern, SHAPE)
    assert [full_box(plan, i) for i in range(len(plan.selections))] == boxes
    assert sum(map(has_full_lists, plan.sweeps)) == unmasked


def attended_throughout(plan: KernelPlan, evict: Tensor, span: int) -> list[set[int]]:
    """Per span of queries the keys that are selected, and in the box, at all of its positions."""
    near, far, first_key, end_key = full_box(plan, 0)
    key = torch.arange(SHAPE.n_keys)
    found = []
    for start in range(0, SHAPE.n_queries, span):
        query = torch.arange(start, min(start + span, SHAPE.n_queries))[:, None]
        time = query + SHAPE.n_keys - SHAPE.n_queries - plan.selections[0].lag
        inside = (key <= time) & (time < evict) & (near <= time - key) & (time - key < far)
        inside &= (first_key <= key) & (key < end_key)
        found.append(set(inside.all(0).nonzero().flatten().tolist()))
    return found


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "pattern",
    [
        "sparsek(k=40) | window(30)",
        "sparsek(k=40, lag=10) & window(70)",
        "sparsek(k=40) | first(20) | window(5)",
        "sparsek(k=40) & first(50)",
    ],
)
def test_lists_begin_with_what_needs_no_mask(pattern: str, generator: torch.Generator) -> None:
    plan = make_plan(pattern, SHAPE)
    scores = torch.randn(1, SHAPE.groups, SHAPE.n_keys, generator=generator)
    (state,) = split_state(plan, load_plan(plan).select((scores,), SHAPE.n_queries))
    spans = {"tile": plan.schedule.forward.queries, "segment": plan.schedule.segment}
    seen = 0
    for group in range(SHAPE.groups):
        for name, span in spans.items():
            wanted = attended_throughout(plan, state["evict"][0, group], span)
            counts = state[f"{name}_full"][0, group].tolist()
            assert counts == [len(keys) for keys in wanted]
            for i, (keys, count) in enumerate(zip(wanted, counts, strict=True)):
                listed = state[f"{name}_keys"][0, group, i, :count].tolist()
                assert set(listed) == keys
                assert name == "tile" or listed == sorted(listed)
                seen += count
    assert seen > 0
