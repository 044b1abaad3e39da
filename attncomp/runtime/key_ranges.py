"""Where sweeps go, for many tiles of queries at once: ranges of keys and lengths of block lists."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from attncomp.ir.affine import Drawn, IndexName, Top
from attncomp.ir.ops import Range
from attncomp.ir.passes.bound import bounds_of
from attncomp.ir.walk import Walk
from attncomp.runtime.tables import block_lists
from attncomp.runtime.values import value_of

CPU: Final = torch.device("cpu")


def key_ends(keys: Range, first: Tensor, last: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
    """Both ends of a range of keys for tiles of queries from first to last."""
    indices: dict[IndexName, Tensor] = {
        "first": first,
        "last": last,
        "n_keys": torch.tensor(n_keys),
    }
    lower, upper = (
        torch.stack([value_of(end, indices).expand_as(first) for end in ends])
        for ends in (keys.lower, keys.upper)
    )
    return lower.amax(0), upper.amin(0)


def listed_blocks(walk: Walk, block: Tensor, n_keys: int) -> Tensor:
    """How many blocks of keys are listed for blocks of queries, or the most that may be."""
    if isinstance(walk.entry.table, Drawn):
        spans, _ = block_lists(walk, {}, n_keys, CPU)
        count = (spans[0, 0, :, 1] - spans[0, 0, :, 0]).long()
        return count[block.clamp(max=len(count) - 1)]
    size, first = walk.size, block * walk.size
    lower, upper = key_ends(bounds_of(walk.box).keys, first, first + size - 1, n_keys)
    table = walk.entry.table
    if isinstance(table, Top):
        upper = torch.minimum(upper, first + size)  # blocks up to the queries' own compete
    count = torch.where(upper > lower, -(-upper // size) - lower // size, 0)
    return count.clamp(max=table.count) if isinstance(table, Top) else count
