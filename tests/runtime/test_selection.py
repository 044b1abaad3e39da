"""How `select` of Triton modules divides time."""

from __future__ import annotations

import pytest

from attncomp.runtime import selection


@pytest.mark.parametrize("rows", [1, 8, 1000])
@pytest.mark.parametrize("n_times", [0, 1, 63, 64, 65, 7680, 130_000, 1 << 20])
def test_spans(n_times: int, rows: int) -> None:
    """Each divides the one before; the coarsest are few, and the last launch's not too many."""
    found = selection.spans(n_times, rows)
    for longer, shorter in zip(found, [*found[1:], selection.INTERVAL], strict=True):
        assert longer % shorter == 0
        assert longer <= selection.RATIO * shorter
    assert found[0] * max(selection.FEWEST, selection.PROGRAMS // rows) >= n_times
