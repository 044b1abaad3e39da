"""`select` of Triton modules with narrow tiles: short rows have every level and every loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from dense import Shape
from select_support import check_select
from torch import Tensor
from triton_support import OVERFLOWS, load_plan, make_plan

from attncomp.runtime import launch, selection

pytestmark = [pytest.mark.usefixtures("interpreted"), OVERFLOWS]

NARROW = {
    "PROGRAMS": 1,
    "FEWEST": 2,
    "SHORTEST": 2,
    "PARTS": 2,
    "MANY": 3,
    "PART": 12,
    "FEW": 4,
    "SURVIVORS": 4,
    "LEFT": 4,
    "ROW_ITEMS": 32,
    "INTERVAL_ITEMS": 32,
    "LIST_ITEMS": 32,
    "SPAN_ITEMS": 32,
    "SPANS": 1,
    "SAMPLE": 8,
    "SAMPLED": 4,
    "PART_ITEMS": 8,
    "ITEMS": 8,
    "RUN": 16,
    "LISTED": 16,
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in NARROW.items():
        monkeypatch.setattr(selection, name, size)


# From normal numbers and the time of each key.
ROWS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normal": lambda x, t: x,
    "slowly rising": lambda x, t: t / 30 + x,
    "rising": lambda x, t: t / 3,
    "falling": lambda x, t: -t / 3,
    "constant": lambda x, t: torch.full_like(x, 0.5),
    "zeros of both signs": lambda x, t: torch.copysign(torch.zeros_like(x), x),
    "halves": lambda x, t: (2 * x).round() / 2,
    "two clusters 1 apart": lambda x, t: (x > 0).float(),
    "sorted blocks": lambda x, t: t % 17 / 5,
    "a jump": lambda x, t: x + 1e30 * (t > 40),
    "enormous": lambda x, t: 1e30 * x,
    "tiny": lambda x, t: 1e-30 * x,
    "every eighth is high": lambda x, t: x + 9 * (t % 8 == 0),
    "the last are high": lambda x, t: x + 9 * (t > 52),
    "infinite": lambda x, t: x.masked_fill(x > 1, torch.inf).masked_fill(x < -1, -torch.inf),
}


@pytest.mark.parametrize("kind", ROWS)
def test_every_level(kind: str, narrow: None, generator: torch.Generator) -> None:
    normal = torch.randn(1, 1, 60, generator=generator)
    scores = ROWS[kind](normal, torch.arange(60.0).expand(1, 1, -1))
    check_select("sparsek(k=7, lag=2)", scores, 55)


@pytest.mark.parametrize("gate", ["hard", "logit"])
@pytest.mark.parametrize("k", [1, 30])
def test_modes(gate: str, k: int, narrow: None, generator: torch.Generator) -> None:
    scores = torch.randn(1, 2, 50, generator=generator)
    check_select(f"sparsek(k={k}, gate={gate!r})", scores, 50)


@pytest.mark.parametrize("spans", [1, 3, 60])  # of whole segments, parts of them, or tiles
@pytest.mark.parametrize("gate", ["hard", "key_value"])
def test_lists_from_the_row(
    gate: str, spans: int, narrow: None, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr(selection, "SPANS", spans)
    scores = torch.randn(1, 2, 70, generator=generator)
    check_select(f"sparsek(k=9, lag=3, gate={gate!r})", scores, 67)


def test_lists_between_those_of_segments_and_tiles(
    narrow: None, generator: torch.Generator
) -> None:
    """Tiles much shorter than segments: their lists come from lists of spans between the two."""
    assert launch.list_spans(67, 4096, 32) == [4096, 64, 32]
    scores = torch.randn(1, 2, 70, generator=generator)
    check_select("sparsek(k=9, lag=3)", scores, 67, segment=4096)


def test_scores_of_64_bits(narrow: None, generator: torch.Generator) -> None:
    """Differences that float32 does not have."""
    scores = 1 + 1e-12 * torch.randn(1, 1, 40, generator=generator, dtype=torch.float64)
    check_select("sparsek(k=5)", scores, 40)


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_ranks_first(dtype: torch.dtype, narrow: None, generator: torch.Generator) -> None:
    scores = torch.randn(1, 1, 40, generator=generator).to(dtype)
    scores[..., [3, 20, 21]] = torch.nan
    check_select("sparsek(k=2, gate='hard')", scores, 40)


LONG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normal": lambda x, t: x,
    "wide": lambda x, t: 4 * x,
    "rising": lambda x, t: x + t / 2048,
    "heavy tails": lambda x, t: torch.tan(1.5707 * torch.erf(x / 2**0.5)),
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize(("k", "n_keys"), [(64, 1 << 18), (512, 1 << 18), (512, 1 << 20)])
def test_a_sample_is_enough_for_long_rows(
    kind: str, k: int, n_keys: int, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """It leaves few keys; as many as there need be are left where the whole prefix was searched."""
    for name, size in {"PROGRAMS": 1, "FEWEST": 2, "ROW_ITEMS": 1 << 14}.items():
        monkeypatch.setattr(selection, name, size)
    normal = torch.randn(1, 1, n_keys, generator=generator)
    scores = LONG[kind](normal, torch.arange(float(n_keys)))
    level = selection.levels(scores, k)[0]
    shape = Shape(query_heads=1, groups=1, n_queries=n_keys, n_keys=n_keys, head_dim=16)
    module = load_plan(make_plan(f"sparsek(k={k})", dataclasses.replace(shape, value_dim=16)))
    checks = level.nodes + 1
    module.checkpoint_kernel[(checks,)](
        *(scores, level.survivors, level.survivor_values, level.theta, level.ints, level.reals),
        *(k, n_keys, level.nodes, level.room, selection.sampled(n_keys)),
        ROW=selection.ROW_ITEMS,
        BLOCK=selection.LISTED,
    )
    for check in range(1, checks):
        prefix = scores[0, 0, : int(level.ints[0, check, 9]) + 1].double()
        theta, delta = level.theta[0, check].double(), level.reals[0, check, 0]
        assert theta == prefix.topk(k).values[-1]
        needed = int((prefix > theta - delta).sum())
        assert needed < int(level.ints[0, check, 10]) <= level.room
