"""From patterns to plans."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from strategies import patterns

from attncomp.codegen.lower import contiguous_residual, gathered_residual, lower
from attncomp.codegen.plan import Comparison, KernelPlan, Largest, Selected, SelectionPlan, Smallest
from attncomp.codegen.plan_text import plan_text
from attncomp.errors import BackendError, SoftComplementError
from attncomp.frontend.ast import Expr
from attncomp.frontend.parser import parse
from attncomp.ir.ops import Box, Interval, SparseK
from attncomp.ir.passes.schedule import schedule_of
from attncomp.ir.schedule import Problem, Tile
from attncomp.ir.schedule_table import row_for, rows_for

PROBLEM = Problem(
    backend="triton", target="sm_90", dtype="bfloat16", head_dim=128, value_dim=128, unit_heads=4
)
SMALL = Problem(
    backend="triton", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
)
HEADS = 2


def test_union_of_selection_and_window() -> None:
    plan = lower("sparsek(k=512) | window(256)", PROBLEM)
    window, selected = plan.sweeps
    assert plan.mode == "key_value" and plan.scores == ("scores",)
    assert plan.selections == (SelectionPlan(k=512, lag=0, scores="scores"),)
    assert (window.source, window.gate, window.absent) == (None, None, ())
    assert window.residual == ((Comparison("distance", ">=", 0), Comparison("distance", "<", 256)),)
    assert window.bounds is not None and window.full_tiles
    assert (window.label, window.origin) == ("window: 0 <= q - k < 256", "<spec>:1:18-29")
    assert (selected.source, selected.gate, selected.absent) == (0, Selected(0), ())
    assert selected.residual == ((Comparison("distance", ">=", 256),),)
    assert selected.bounds is None and not selected.full_tiles
    assert selected.label == "sparsek(k=512) where q - k >= 256"
    assert selected.origin == "<spec>:1:1-15"


def test_lag_equal_to_the_window_leaves_no_residual() -> None:
    plan = lower("sparsek(k=512, lag=256) | window(256)", PROBLEM)
    assert plan.sweeps[1].residual == ()
    assert plan.sweeps[1].label == "sparsek(k=512, lag=256)"


@pytest.mark.parametrize(
    ("pattern", "labels"),
    [
        ("full", ["full: any"]),
        ("causal", ["causal: q - k >= 0"]),
        (
            "first(4) | window(256)",
            ["window: 0 <= q - k < 256", "band: q - k >= 256, k < 4"],
        ),
        (
            "window(8) | first(2) | sparsek(k=4)",
            [
                "window: 0 <= q - k < 8",
                "band: q - k >= 8, k < 2",
                "sparsek(k=4) where q - k >= 8 and k >= 2",
            ],
        ),
        (
            "sparsek(k=4) & (window(8) | first(2))",
            ["sparsek(k=4) where q - k < 8 or q - k >= 8 and k < 2"],
        ),
        (
            "sparsek(k=4) | sparsek(k=8, lag=2)",
            ["sparsek(k=4)", "sparsek(k=8, lag=2), not in sparsek(k=4)"],
        ),
        (
            'causal - sparsek(k=4, gate="hard")',
            ["causal: q - k >= 0, not in sparsek(k=4)"],
        ),
        (
            '(sparsek(8, gate="hard") - sparsek(2, lag=10, gate="hard"))'
            ' | sparsek(20, lag=3, gate="hard")',
            [
                "sparsek(k=8), and in sparsek(k=20, lag=3) and sparsek(k=2, lag=10)",
                "sparsek(k=8), not in sparsek(k=2, lag=10)",
                "sparsek(k=20, lag=3), not in sparsek(k=8)",
            ],
        ),
        (
            '(sparsek(8, gate="hard") | sparsek(6, lag=10, gate="hard"))'
            ' & sparsek(9, lag=4, gate="hard") - window(5)',
            ["sparsek(k=9, lag=4) where q - k >= 5, and in sparsek(k=8) or sparsek(k=6, lag=10)"],
        ),
        # A soft gate is shown beside the label.
        ("sparsek(k=8) & sparsek(k=6, lag=10)", ["sparsek(k=6, lag=10)"]),
        ("window(4) - full", []),
    ],
)
def test_labels(pattern: str, labels: list[str]) -> None:
    assert [sweep.label for sweep in lower(pattern, PROBLEM).sweeps] == labels


def test_gates_of_overlapping_selections() -> None:
    either = lower("sparsek(k=4) | sparsek(k=8, lag=2)", PROBLEM)
    assert [s.gate for s in either.sweeps] == [Largest((Selected(0), Selected(1))), Selected(1)]
    assert [s.absent for s in either.sweeps] == [(), (0,)]
    both = lower("sparsek(k=4) & sparsek(k=8, lag=2)", PROBLEM)
    assert [s.gate for s in both.sweeps] == [Smallest((Selected(0), Selected(1)))]


@pytest.mark.parametrize(
    ("pattern", "sources"),
    [
        ("sparsek(k=4) & sparsek(k=8, lag=2)", [0]),
        ("sparsek(k=8) & sparsek(k=4, lag=2)", [1]),
        ("sparsek(k=8) & sparsek(k=4, lag=2) | sparsek(k=8) & sparsek(k=3, lag=3)", [1, 2]),
        ("sparsek(k=8) & sparsek(k=4, lag=2) | sparsek(k=8) & sparsek(k=5, lag=3)", [0]),
        ("sparsek(k=8) | sparsek(k=4, lag=2)", [0, 1]),
    ],
)
def test_the_fewest_keys_are_walked(pattern: str, sources: list[int]) -> None:
    assert [sweep.source for sweep in lower(pattern, PROBLEM).sweeps] == sources


def test_hard_gates_are_one() -> None:
    plan = lower('sparsek(k=4, gate="hard") - sparsek(k=2, lag=3, gate="hard")', PROBLEM)
    assert [(s.source, s.absent, s.gate) for s in plan.sweeps] == [(0, (1,), None)]
    assert plan.mode == "hard" and not plan.differentiable_scores


def test_pattern_that_needs_no_scores_has_no_mode() -> None:
    plan = lower("window(8) | sparsek(k=4) & window(4)", PROBLEM)
    assert (plan.mode, plan.scores, plan.selections) == (None, (), ())
    assert plan == lower("window(8)", PROBLEM)


def test_trees_lower_like_their_texts() -> None:
    text = "sparsek(k=4) | window(8)"
    assert lower(parse(text), PROBLEM) == lower(text, PROBLEM)
    assert lower(" window(8)|(sparsek( 4 )) ", PROBLEM).pattern == "window(8) | sparsek(k=4)"


def test_equal_patterns_share_a_plan() -> None:
    a = lower("sparsek(k=4) | window(8)", PROBLEM)
    b = lower("window(8) | sparsek(k=4) - window(3)", PROBLEM)
    assert a == b and hash(a) == hash(b) and plan_text(a) == plan_text(b)
    assert a.pattern != b.pattern
    assert a.sweeps[1].origin != b.sweeps[1].origin


def test_errors_come_with_their_place() -> None:
    with pytest.raises(SoftComplementError) as caught:
        lower("causal - sparsek(k=4)", PROBLEM)
    assert str(caught.value).splitlines() == [
        "error: a soft pattern has no complement",
        " --> <spec>:1:10",
        "  | causal - sparsek(k=4)",
        '  |          ^^^^^^^^^^^^ only sparsek(..., gate="hard") may stand here',
    ]


def test_callback_sees_every_pass() -> None:
    seen: list[str] = []
    lower("causal", PROBLEM, lambda step, graph, seconds: seen.append(step.name))
    assert seen == ["share", "simplify", "make-disjoint", "bound", "stride", "schedule"]


def test_residuals() -> None:
    band = Box(distance=Interval(8, 16), keys=Interval(4, 9))
    distance = (Comparison("distance", ">=", 8), Comparison("distance", "<", 16))
    keys = (Comparison("key", ">=", 4), Comparison("key", "<", 9))
    assert contiguous_residual(band) == ((*distance, *keys),)
    assert contiguous_residual(Box()) == ()
    assert gathered_residual((band,), SparseK(k=4, lag=7)) == ((*distance, *keys),)
    assert gathered_residual((band,), SparseK(k=4, lag=8)) == ((distance[1], *keys),)
    whole = Box(distance=Interval(0, None), keys=Interval(0, None))
    assert gathered_residual((whole, band), SparseK(k=4)) == ()


TILE = schedule_of(SMALL).forward
WIDTH = TILE.queries + 2 * TILE.keys  # the narrowest band that surely holds a full tile


@pytest.mark.parametrize(
    ("pattern", "full_tiles"),
    [
        ("causal", True),
        ("full", True),
        (f"window({WIDTH - 1})", False),
        (f"window({WIDTH})", True),
        (f"first({2 * TILE.keys - 1})", False),
        (f"first({2 * TILE.keys})", True),
        ('causal - sparsek(k=4, gate="hard")', False),
    ],
)
def test_full_tiles_where_a_tile_can_be_full(pattern: str, full_tiles: bool) -> None:
    (sweep,) = lower(pattern, SMALL).sweeps
    assert sweep.full_tiles == full_tiles


@given(a=patterns(max_leaves=3), b=patterns(max_leaves=3))
def test_texts_are_equal_exactly_if_plans_are(a: Expr, b: Expr) -> None:
    left, right = lower(a, SMALL), lower(b, SMALL)
    assert (plan_text(left) == plan_text(right)) == (left == right)


def other(value: Any) -> Any:
    """A value of the same type, but a different one."""
    match value:
        case bool():
            return not value
        case int():
            return value * 2 + 1
        case str():
            return value + "x"
        case None | tuple():
            return (9,)
        case _:
            field = dataclasses.fields(value)[0].name
            return replace(value, **{field: other(getattr(value, field))})


def test_text_holds_every_decision() -> None:
    plan = lower("sparsek(k=4) | first(2) | sparsek(k=8, lag=3)", PROBLEM)
    changed: list[KernelPlan] = []
    for field in dataclasses.fields(PROBLEM):
        problem = replace(PROBLEM, **{field.name: other(getattr(PROBLEM, field.name))})
        changed.append(replace(plan, problem=problem))
    for field in dataclasses.fields(plan.schedule):
        schedule = replace(plan.schedule, **{field.name: other(getattr(plan.schedule, field.name))})
        changed.append(replace(plan, schedule=schedule))
    for field in dataclasses.fields(Tile)[1:]:  # `other` has changed the first one above
        tile = plan.schedule.backward_gathered
        tile = replace(tile, **{field.name: other(getattr(tile, field.name))})
        changed.append(replace(plan, schedule=replace(plan.schedule, backward_gathered=tile)))
    for field in dataclasses.fields(SelectionPlan):
        selection = plan.selections[1]
        selection = replace(selection, **{field.name: other(getattr(selection, field.name))})
        changed.append(replace(plan, selections=(plan.selections[0], selection)))
    last = plan.sweeps[-1]
    for name, value in {
        "source": 0,
        "absent": (),
        "box": (Box(),),
        "residual": (),
        "gate": None,
        "full_tiles": True,
        "bounds": plan.sweeps[0].bounds,
    }.items():
        changed.append(replace(plan, sweeps=(*plan.sweeps[:-1], replace(last, **{name: value}))))
    changed += [replace(plan, mode="value"), replace(plan, scores=("other",)), plan]
    assert len(set(changed)) == len(changed)
    assert len({plan_text(each) for each in changed}) == len(changed)


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "gfx942", "cpu"])
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("unit_heads", [1, 3, 4, 8, 12, 64])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_schedules_are_valid(target: str, head_dim: int, unit_heads: int, dtype: Any) -> None:
    problem = replace(PROBLEM, target=target, head_dim=head_dim, unit_heads=unit_heads, dtype=dtype)
    schedule = lower("causal", problem).schedule  # verified after the pass
    assert unit_heads % schedule.packed_heads == 0
    assert schedule.forward.queries >= 16


def test_head_packing() -> None:
    rows = row_for("triton", "sm_90", "bfloat16", 128).forward.rows
    for unit_heads, power in ((1, 1), (3, 1), (4, 4), (6, 2), (8, 8), (64, 64)):
        schedule = schedule_of(replace(PROBLEM, unit_heads=unit_heads))
        packed = min(power, rows // 16)
        assert (schedule.packed_heads, schedule.forward.queries) == (packed, rows // packed)
    on_torch = schedule_of(replace(PROBLEM, unit_heads=16, backend="torch", target="cpu"))
    assert (on_torch.packed_heads, on_torch.forward.queries) == (16, 128)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_single_precision_has_smaller_tiles(target: str) -> None:
    half = schedule_of(replace(PROBLEM, target=target)).forward
    single = schedule_of(replace(PROBLEM, target=target, dtype="float32")).forward
    assert single.queries * single.keys < half.queries * half.keys


@pytest.mark.parametrize("target", ["sm_89", "sm_103", "sm_90a", "gfx90a", "gfx1100"])
def test_targets_between_rows(target: str) -> None:
    assert len(rows_for("triton", target, "float16")) == 3


@pytest.mark.parametrize("target", ["sm_75", "sm_", "cuda", "gfx", "sm_90 ", ""])
def test_unknown_target(target: str) -> None:
    with pytest.raises(BackendError) as caught:
        lower("causal", replace(PROBLEM, target=target))
    assert str(caught.value) == (
        f"backend 'triton' has no schedule for target {target!r}: expected 'cpu', 'sm_<nn>' from "
        "sm_80 on, or an AMD 'gfx<nnn>'"
    )


def test_head_dim_beyond_the_table() -> None:
    with pytest.raises(BackendError) as caught:
        lower("causal", replace(PROBLEM, value_dim=257))
    assert str(caught.value) == (
        "backend 'triton' on target 'sm_90': expected a head dim of at most 256, found 512"
    )
