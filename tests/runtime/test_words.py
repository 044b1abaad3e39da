"""Lists of blocks as words: what they list, both ways, in several chunks and with gaps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attncomp.runtime import words
from attncomp.runtime.words import BITS, list_words, listed_blocks, transposed_words, unpacked


def rows_of(spans: Tensor, listed: Tensor) -> Tensor:
    """The table [B', H', T, T] that lists of words are of; checks how they are laid out."""
    n_blocks = spans.shape[2]
    listed = listed.unflatten(2, (n_blocks, -1))
    width = -(-n_blocks // BITS)
    assert listed.shape[3] == width
    begin = (torch.arange(n_blocks) * width).int()
    assert torch.equal(spans[..., 0], begin.expand_as(spans[..., 0]))
    some = listed & ((1 << BITS) - 1) != 0
    assert (some.int().diff(dim=-1) <= 0).all()  # those with blocks come first
    assert (listed.diff(dim=-1)[some[..., 1:]] > 0).all()
    table = unpacked(listed)
    assert not table[..., n_blocks:].any()
    assert torch.equal(table.sum(-1), spans[..., 1] - spans[..., 0])
    return table[..., :n_blocks]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("n_blocks", [1, 47, 48, 49, 145, 300])
@pytest.mark.parametrize("chunk", [1 << 22, 1 << 14])
def test_words(
    n_blocks: int,
    density: float,
    chunk: int,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(words, "_CHUNK", chunk)
    size = (2, 1, n_blocks, n_blocks)
    table = (torch.rand(size, generator=generator) < density) * torch.randint(
        1, 9, size, generator=generator
    )
    lower, upper = torch.randint(0, n_blocks + 1, (2, n_blocks), generator=generator).int()
    block = torch.arange(n_blocks)
    expected = (table != 0) & (block >= lower[:, None]) & (block < upper[:, None])
    spans, listed = list_words(table, lower, upper)
    assert torch.equal(rows_of(spans, listed), expected)
    assert torch.equal(rows_of(*transposed_words(spans, listed)), expected.mT)


def test_listed_blocks(generator: torch.Generator) -> None:
    table = torch.rand((1, 1, 130, 130), generator=generator) < 0.1
    ends = torch.zeros(130, dtype=torch.int32)
    spans, listed = list_words(table, ends, ends + 130)
    for row, own, (begin, end) in zip(
        table[0, 0], listed.view(130, -1), spans[0, 0].tolist(), strict=True
    ):
        assert torch.equal(listed_blocks(own)[: end - begin], row.nonzero()[:, 0].int())
