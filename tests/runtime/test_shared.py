"""Shared memory: the stated bound holds for what compiles, and schedules stay below it."""

from __future__ import annotations

import itertools
import random

import pytest

from attncomp.codegen.lower import lower
from attncomp.errors import BackendError
from attncomp.ir.passes.schedule import schedule_of
from attncomp.ir.schedule import PARTS, DtypeName, Part, Problem, Schedule, Tile
from attncomp.ir.shared_memory import SHARED_KIB, fits, fitted, shared_bytes, shared_limit
from attncomp.runtime.ahead_of_time import compile_plan, limits

DTYPES: tuple[DtypeName, ...] = ("bfloat16", "float32")
HEAD_DIMS = (16, 64, 80, 128, 192, 256)
KERNELS: dict[str, Part] = {
    "forward_kernel": "forward",
    "backward_query_kernel": "backward_query",
    "backward_gathered_0_kernel": "backward_gathered",
    "backward_key_kernel": "backward_contiguous",
}


def problem(
    target: str, dtype: DtypeName = "bfloat16", head_dim: int = 64, value_dim: int = 64
) -> Problem:
    return Problem(
        backend="triton",
        target=target,
        dtype=dtype,
        head_dim=head_dim,
        value_dim=value_dim,
        unit_heads=4,
    )


def schedule_with(tile: Tile) -> Schedule:
    return Schedule(
        packed_heads=1,
        segment=2048,
        forward=tile,
        backward_query=tile,
        backward_gathered=tile,
        backward_contiguous=tile,
    )


@pytest.mark.parametrize("target", [*SHARED_KIB, "sm_87", "sm_103", "sm_121", "gfx1100"])
def test_the_table_fits_as_it_stands(target: str) -> None:
    for dtype, head_dim, value_dim in itertools.product(DTYPES, HEAD_DIMS, HEAD_DIMS):
        asked = problem(target, dtype, head_dim, value_dim)
        row = schedule_of(asked)
        assert all(fits(part, row, asked) for part in PARTS)
        assert fitted(row, asked) == row


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "sm_90", "gfx942"])
@pytest.mark.parametrize("pair_tables", [0, 1, 5])
def test_any_tile_is_cut_until_it_fits(target: str, pair_tables: int) -> None:
    large = schedule_with(Tile(queries=256, keys=256, warps=8, stages=5))
    for dtype, head_dim in itertools.product(DTYPES, HEAD_DIMS):
        asked = problem(target, dtype, head_dim, 256)
        cut = fitted(large, asked, pair_tables)
        for part in PARTS:
            tile = cut.tile(part)
            assert fits(part, cut, asked, pair_tables)
            assert min(tile.queries, tile.keys) >= 16 and tile.warps == 8
        assert fitted(cut, asked, pair_tables) == cut


def test_the_order_of_cuts() -> None:
    asked = problem("sm_80", head_dim=128, value_dim=128)
    wide = schedule_with(Tile(queries=128, keys=64, stages=4))
    cut = fitted(wide, asked)
    # 32 KiB of queries and 32 KiB of keys and values a stage; dout is as large as the queries.
    assert cut.forward == Tile(queries=128, keys=64, stages=4)
    assert cut.backward_query == Tile(queries=128, keys=64, stages=3)
    # 32 KiB of keys and values, 64 KiB of queries and dout a stage, 32 KiB transposed.
    assert cut.backward_contiguous == Tile(queries=128, keys=64, stages=1)
    tables = fitted(wide, asked, 3).forward
    assert tables == Tile(queries=128, keys=64, stages=1)


def test_a_bias_is_counted() -> None:
    asked = problem("sm_86")
    many = schedule_with(Tile(queries=64, keys=64, stages=5))
    plain, biased = (
        lower(pattern, asked, schedule=many).schedule
        for pattern in ("causal", "causal with bias(8)")
    )
    masked = lower("where(m[b, q, k] == 1)", asked, schedule=many).schedule
    assert plain.backward_query.stages > biased.backward_query.stages
    assert masked == biased


def test_what_is_not_listed() -> None:
    assert shared_limit("cpu") is None
    assert shared_limit("sm_87") == shared_limit("sm_86") == 99 * 1024
    assert shared_limit("sm_90a") == shared_limit("sm_90") == 227 * 1024
    assert shared_limit("gfx1100") == 64 * 1024


def test_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attncomp.ir.shared_memory.shared_limit", lambda target: 1024)
    with pytest.raises(BackendError) as caught:
        fitted(schedule_with(Tile(queries=16, keys=16, stages=1)), problem("sm_90"))
    assert str(caught.value) == (
        "target 'sm_90': no tile of forward for bfloat16 and head dims 64 and 64 fits the shared "
        "memory of a block"
    )


def assert_bounded(pattern: str, asked: Problem) -> None:
    plan = lower(pattern, asked)
    for report in compile_plan(plan, asked.target):
        part = KERNELS[report.name]
        bound = shared_bytes(part, plan.schedule, asked, int("bias" in pattern))
        assert report.shared <= bound <= limits(asked.target).shared, (pattern, asked, report.name)


@pytest.mark.parametrize("target", ["sm_80", "sm_86", "gfx942"])
def test_what_compiles_stays_below_the_bound(target: str, seed: int) -> None:
    """Kernels of a drawn problem; `target` alone is not drawn."""
    draw = random.Random(seed)
    asked = problem(target, draw.choice(DTYPES), draw.choice(HEAD_DIMS), draw.choice(HEAD_DIMS))
    assert_bounded(draw.choice(["causal", "window(40) with bias(8)"]), asked)


def test_outputs_that_are_wider_than_what_they_are_made_of() -> None:
    assert_bounded("causal", problem("sm_86", head_dim=16, value_dim=80))
