"""`select` of Triton modules with narrow tiles: short rows have every level and every loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from select_support import check_select
from torch import Tensor
from triton_support import OVERFLOWS

from attncomp.runtime import selection

pytestmark = [pytest.mark.usefixtures("interpreted"), OVERFLOWS]

NARROW = {
    "PROGRAMS": 1,
    "FEWEST": 2,
    "SHORTEST": 2,
    "LONGEST": 2,
    "PARTS": 2,
    "FEW": 3,
    "SLICES": 2,
    "SURVIVORS": 4,
    "ROW_ITEMS": 32,
    "INTERVAL_ITEMS": 32,
    "LIST_ITEMS": 32,
    "SPAN_ITEMS": 32,
    "SAMPLE": 8,
    "SLOTS": 8,
    "WIDE": 16,
    "ITEMS": 8,
    "FILL": 16,
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
    assert len(selection.levels(scores, 7)) == 2
    check_select("sparsek(k=7, lag=2)", scores, 55)


@pytest.mark.parametrize("gate", ["hard", "logit"])
@pytest.mark.parametrize("k", [1, 30])
def test_modes(gate: str, k: int, narrow: None, generator: torch.Generator) -> None:
    scores = torch.randn(1, 2, 50, generator=generator)
    check_select(f"sparsek(k={k}, gate={gate!r})", scores, 50)


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
