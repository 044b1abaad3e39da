"""Scans along rows, by blocks."""

from __future__ import annotations

import pytest
import torch

from attncomp.runtime.ranking import row_cummax, row_cumsum


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 3000])
def test_rows_have_no_part_in_each_other(size: int, generator: torch.Generator) -> None:
    values = torch.randn(2, 3, size, generator=generator)
    sums = row_cumsum(values)
    torch.testing.assert_close(sums, values.double().cumsum(-1), atol=1e-11, rtol=1e-11)
    counts = row_cumsum(values > 0)
    assert counts.dtype == torch.int64 and counts.equal((values > 0).cumsum(-1))
    values[0, 1, size // 2 :] = torch.nan
    others = torch.tensor([[True, False, True], [True, True, True]])
    assert row_cumsum(values)[others].equal(sums[others])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 3000])
def test_largest_so_far(size: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    values = torch.randint(-5000, 5000, (2, 3, size), generator=generator).to(dtype)
    assert row_cummax(values).equal(values.cummax(-1).values)
