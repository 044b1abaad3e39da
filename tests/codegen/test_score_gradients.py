"""The kernels that give gradients of scores, in the interpreter, against sums over whole rows."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from dense import Shape
from score_gradient_reference import threshold_gradient, unit_sums
from torch import Tensor
from triton_support import OVERFLOWS, load_plan, make_plan

from attncomp.runtime import launch

pytestmark = [pytest.mark.usefixtures("interpreted"), OVERFLOWS]

# Two heads a unit, two units a group, two groups.
SHAPE = Shape(
    batch=2, query_heads=8, kv_heads=4, groups=2, n_queries=1, n_keys=1, head_dim=16, value_dim=16
)
UNITS, GROUPS = 4, 2


class Row(NamedTuple):
    """What a selection leaves for the gradients of its scores; n_times keys."""

    thresholds: Tensor
    support: Tensor
    evict: Tensor
    frac_birth: Tensor
    frac_death: Tensor
    parts: Tensor


def module() -> ModuleType:
    return load_plan(make_plan("sparsek(k=4)", SHAPE))


def drawn(n_queries: int, n_times: int, generator: torch.Generator) -> Row:
    """Intervals of all lengths; none for some keys. Memory that nobody wrote is NaN."""

    def times(low: int) -> Tensor:
        size = SHAPE.batch, GROUPS, n_times
        return torch.randint(low, n_times + 1, size, generator=generator, dtype=torch.int32)

    evict = times(0)
    key = torch.arange(n_times)
    evict = torch.where(evict > key, evict, key).int()
    parts = torch.randn(SHAPE.batch, UNITS, n_times, generator=generator)
    never = (evict <= key).repeat_interleave(UNITS // GROUPS, 1)
    return Row(
        thresholds=torch.randn(SHAPE.batch, 8, n_queries, generator=generator),
        support=times(0),
        evict=evict,
        frac_birth=times(0),
        frac_death=times(0),
        parts=torch.where(never, torch.nan, parts),
    )


def sums_of(row: Row, first_time: int) -> tuple[Tensor, Tensor, int, int]:
    n_times, n_queries = row.support.shape[2], row.thresholds.shape[2]
    span, n_blocks = launch.blocks_of_times(n_times)
    sums, totals = launch.sums_of_times(row.support, n_blocks)
    for buffer in (sums, totals):
        buffer.fill_(torch.nan)
    module().sum_thresholds_kernel[(n_blocks * SHAPE.batch * GROUPS,)](
        row.thresholds, row.support, sums, totals, first_time, n_queries, n_times, UNITS, GROUPS,
        span, n_blocks, TIMES=launch.TIMES,
    )  # fmt: skip
    return sums, totals, span, n_blocks


def gradient(
    row: Row, first_time: int, groups: int, dtype: torch.dtype, *, parts: bool, add: Tensor | None
) -> Tensor:
    """By the kernels; through thresholds where the scores are the selection's own."""
    n_times = row.support.shape[2]
    own = groups == GROUPS
    sums, totals, span, n_blocks = sums_of(row, first_time)
    n_tiles = launch.tiles(n_times, 512)
    given = torch.full((SHAPE.batch, groups, n_times), torch.nan, dtype=dtype)
    dscores = given if add is None else add.to(dtype)
    module().backward_scores_kernel[(n_tiles * SHAPE.batch * groups,)](
        dscores, row.parts, row.evict, sums, totals, row.frac_birth, row.frac_death,
        first_time, row.thresholds.shape[2], n_times, UNITS, groups, GROUPS, span, n_blocks,
        n_tiles, PARTS=parts, SUMS=own, ADD=add is not None,
    )  # fmt: skip
    return dscores


LENGTHS = {
    "one": (1, 1, 0),
    "few queries": (5, 700, 690),
    "queries before the first key": (900, 700, -200),
    "queries behind a lag": (700, 700, -30),
    "two blocks": (1500, 1500, -7),
    "a block's end": (1024, 1024, 0),
}


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("name", LENGTHS)
def test_gradients_of_own_scores(name: str, parts: bool, generator: torch.Generator) -> None:
    n_queries, n_times, first_time = LENGTHS[name]
    row = drawn(n_queries, n_times, generator)
    found = gradient(row, first_time, GROUPS, torch.float64, parts=parts, add=None)
    wanted = -threshold_gradient(
        row.thresholds, row.support, row.frac_birth, row.frac_death, first_time
    )
    if parts:
        wanted += unit_sums(row.parts, row.evict, first_time, n_queries, GROUPS)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_of_other_scores(groups: int, generator: torch.Generator) -> None:
    row = drawn(600, 600, generator)
    before = torch.randn(SHAPE.batch, groups, 600, generator=generator)
    wanted = before.double() + unit_sums(row.parts, row.evict, 0, 600, groups)
    found = gradient(row, 0, groups, torch.float32, parts=True, add=before.clone())
    assert torch.allclose(found.double(), wanted, rtol=0, atol=1e-5)


def test_blocks_of_several_steps(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """As in long rows: no row has more than a number of blocks."""
    monkeypatch.setattr(launch, "TIMES", 16)
    monkeypatch.setattr(launch, "BLOCKS", 5)
    assert launch.blocks_of_times(900) == (192, 5)
    row = drawn(850, 900, generator)
    found = gradient(row, 40, GROUPS, torch.float64, parts=False, add=None)
    wanted = -threshold_gradient(row.thresholds, row.support, row.frac_birth, row.frac_death, 40)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_times", [1, 1023, 1024, 1025, 65536, 65537, 2**20 + 1, 2**31 - 1])
def test_blocks_cover_all_times(n_times: int) -> None:
    span, n_blocks = launch.blocks_of_times(n_times)
    assert span % launch.TIMES == 0 and n_blocks <= launch.BLOCKS
    assert (n_blocks - 1) * span < n_times <= n_blocks * span
    assert n_blocks == 64 or span == 1024 or span * 64 < n_times + 64 * 1024


def test_sums_lose_nothing_to_large_ones(generator: torch.Generator) -> None:
    """One of 1e8 among them leaves the others' differences as they are."""
    row = drawn(1200, 1200, generator)
    row.thresholds[..., 3] = 1e8
    found = gradient(row, 0, GROUPS, torch.float32, parts=False, add=None)
    wanted = -threshold_gradient(row.thresholds, row.support, row.frac_birth, row.frac_death, 0)
    late = (row.frac_birth > 3) & (row.frac_death > row.frac_birth)
    assert late.any()
    assert torch.allclose(found[late].double(), wanted[late], rtol=0, atol=1e-5)


def test_a_row_keeps_its_nan(generator: torch.Generator) -> None:
    row = drawn(300, 300, generator)
    clean = gradient(row, 0, GROUPS, torch.float32, parts=False, add=None)
    row.thresholds[0, 1, 100] = torch.nan  # of the first row and group
    found = gradient(row, 0, GROUPS, torch.float32, parts=False, add=None)
    crossed = (row.frac_birth <= 100) & (row.frac_death > 100)
    assert found[0, 0][crossed[0, 0]].isnan().all() and crossed[0, 0].any()
    assert torch.equal(found.flatten(0, 1)[1:], clean.flatten(0, 1)[1:])
