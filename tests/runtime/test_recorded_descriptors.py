"""Records of calls whose kernels take descriptors of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from attncomp.runtime import quick_launch, replay
from attncomp.runtime.driver import Place, Tiles


def test_descriptors_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are of places, as pointers are; only the driver can give them other addresses."""
    compiled = quick_launch.Compiled(None, lambda *_: None)

    def call(given: Sequence[Tensor]) -> replay.Result:
        out, between = torch.empty(3), torch.empty(8, 4)
        told = quick_launch.watcher.get()
        assert told is not None
        for base in (given[0][1:], between):
            tiles = SimpleNamespace(
                base=base, block_shape=[2, 4], shape=list(base.shape), strides=list(base.stride())
            )
            told(quick_launch.Launched(compiled, (1, 1, 1), (tiles, out)))
        return (out,), ()

    monkeypatch.setattr(replay, "entry_of", lambda kernel: None)
    assert replay.record(call, [torch.empty(9, 4)])[1] is None
    found: list[Any] = []
    monkeypatch.setattr(replay, "entry_of", lambda kernel: "an entry")
    monkeypatch.setattr(replay, "Ready", lambda n_tensors, launches: found.append(launches))
    assert replay.record(call, [torch.empty(9, 4)])[1] is not None
    places = [arguments[0].place for _, _, arguments in found[0]]
    assert places == [Place(0, 16), Place(2, 0)]
    assert found[0][0][2][0] == Tiles(Place(0, 16), (8, 4), (4, 1))
