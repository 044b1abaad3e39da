"""How `select` of Triton modules divides time."""

from __future__ import annotations

import pytest
import torch

from attncomp.runtime import selection

N_TIMES = [1, 63, 64, 65, 3584, 7680, 130_000, 1 << 20]


@pytest.mark.parametrize("rows", [1, 8, 1000])
@pytest.mark.parametrize("n_times", [0, *N_TIMES])
def test_intervals(n_times: int, rows: int) -> None:
    """They are few, and not too short on average."""
    nodes = selection.intervals(n_times, rows)
    assert 1 <= nodes <= max(selection.FEWEST, selection.PROGRAMS // rows)
    assert nodes == 1 or nodes * selection.SHORTEST <= n_times


@pytest.mark.parametrize("rows", [1, 8, 1000])
@pytest.mark.parametrize("n_times", N_TIMES)
def test_levels(n_times: int, rows: int) -> None:
    """Intervals and their parts, with room for their lists."""
    n_keys = n_times + 512
    intervals, parts = selection.levels(torch.empty(1, rows, n_keys, device="meta"), 512)
    assert intervals.room <= n_keys
    assert intervals.nodes < selection.CHECKS
    each = parts.nodes // intervals.nodes
    assert parts.nodes == intervals.nodes * each
    assert selection.PARTS <= each <= selection.MANY
    # lists of parts stand there twice: a key is new, is passed, and its gate falls below 1 and to 0
    assert intervals.capacity >= 4 * n_keys
    assert parts.capacity >= 8 * n_keys
    for level in (intervals, parts):
        assert level.keys.shape == level.values.shape == (rows, level.capacity)
