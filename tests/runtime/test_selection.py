"""How `select` of Triton modules divides time."""

from __future__ import annotations

import itertools

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


@pytest.mark.parametrize("nodes", [1, 3, 16, 128])
@pytest.mark.parametrize("n_times", N_TIMES)
def test_no_interval_is_longer_than_the_last(n_times: int, nodes: int) -> None:
    """Checkpoint i stands at n_times i^2 / nodes^2, rounded up."""
    times = [-(-n_times * i * i // (nodes * nodes)) for i in range(nodes + 1)]
    lengths = [b - a for a, b in itertools.pairwise(times)]
    assert max(lengths) <= selection.longest(n_times, nodes) <= max(lengths) + 2


@pytest.mark.parametrize("rows", [1, 8, 1000])
@pytest.mark.parametrize("n_times", N_TIMES)
def test_levels(n_times: int, rows: int) -> None:
    """Two where intervals are long; a program of the last launch takes few slices."""
    found = selection.levels(torch.empty(1, rows, n_times + 512, device="meta"), 512)
    length = selection.longest(n_times, found[0].nodes)
    assert len(found) == 1 + (length > selection.LONGEST)
    assert found[0].room <= n_times + 512
    assert found[0].nodes < selection.CHECKS
    assert [level.slices > 0 for level in found] == [False] * (len(found) - 1) + [True]
    for level in found:
        assert level.slices <= selection.SLICES
        assert level.keys.shape == level.values.shape == (rows, level.capacity)
