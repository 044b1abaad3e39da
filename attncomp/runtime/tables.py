"""Tables of blocks: what tests read of them, and the lists of blocks that walks go through.

All of it is made on the tensors' device at the call, of shapes that sizes alone decide, so that
nothing waits for the device. T = ceil(Nk / size) blocks; B', H' are the sizes of the table's own
dimensions, 1 where it has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.codegen.plan import KernelPlan
from attncomp.ir.affine import Drawn, Entry, Passing, Top, index
from attncomp.ir.ops import Box
from attncomp.ir.walk import Walk
from attncomp.runtime.extents import Call, Extent, extent_tables
from attncomp.runtime.words import list_words


def spread_heads(tensor: Tensor, entries: Iterable[Entry], heads: int) -> Tensor:
    """A checked tensor with an entry for each of several heads."""
    for place, subscript in enumerate(next(iter(entries)).indices):
        size = tensor.shape[place]
        if subscript == index("h") and 1 < size < heads:
            tensor = tensor.repeat_interleave(heads // size, place)
    return tensor


def with_all_heads(
    tensors: Mapping[str, Tensor], entries: Mapping[str, Sequence[Entry]], heads: int
) -> dict[str, Tensor]:
    """Checked tensors, those that tests read with an entry for each of several heads."""
    return {
        name: spread_heads(tensor, entries[name], heads) if name in entries else tensor
        for name, tensor in tensors.items()
    }


class BlockParts(NamedTuple):
    """What the state behind a plan's selections is made for: `block_state`.

    Worked out once a plan: torch.compile need not trace how.
    """

    entries: tuple[Entry, ...]
    walks: tuple[Walk, ...]
    extents: tuple[Extent, ...]

    @staticmethod
    def of(plan: KernelPlan) -> BlockParts:
        """Those of a plan, in the order of the state."""
        extents = tuple(map(Extent.of, plan.extents))
        return BlockParts(tuple(plan.entries.values()), plan.walks, extents)


def list_heads(parts: BlockParts, tensors: Mapping[str, Tensor]) -> list[int]:
    """How many heads each walk has lists for: H', a divisor of Hq."""
    return [_outer(walk.entry, tensors)[1] for walk in parts.walks]


def _outer(entry: Entry, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """B' and H' of a table."""
    rows, heads = 1, 1
    for place, subscript in enumerate(entry.indices):
        if subscript == index("b"):
            rows = tensors[entry.tensor].shape[place]
        elif subscript == index("h"):
            heads = tensors[entry.tensor].shape[place]
    return rows, heads


def block_state(parts: BlockParts, call: Call) -> list[Tensor]:
    """What stands in the state behind the selections (`attncomp.codegen.state`)."""
    tensors, n_keys, device = call.tensors, call.n_keys, call.device
    read = [_read(entry, tensors, call.heads, n_keys, device) for entry in parts.entries]
    lists = [part for walk in parts.walks for part in block_lists(walk, tensors, n_keys, device)]
    tables = [table for extent in parts.extents for table in extent_tables(extent, call)]
    return [*read, *lists, *tables]


def _read(
    entry: Entry, tensors: Mapping[str, Tensor], heads: int, n_keys: int, device: torch.device
) -> Tensor:
    """The tensor that kernels read an entry of."""
    match entry.table:
        case None | Passing():
            table = tensors[entry.tensor]
        case Top(count):
            order = best_first(tensors[entry.tensor])
            block = torch.arange(order.shape[-1], device=device)
            chosen = (block < count) & (order <= block[:, None])
            table = torch.zeros_like(order, dtype=torch.int32)
            table.scatter_(-1, order, chosen.int())
        case Drawn(_, size, _):
            return draws(entry.table, -(-n_keys // size), device)
        case _:
            assert_never(entry.table)
    return spread_heads(table, [entry], heads)


def block_lists(
    walk: Walk, tensors: Mapping[str, Tensor], n_keys: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each block of queries the blocks of keys that a walk visits, ascending, each once.

    Gives spans [B', H', T, 2] int32, where each block's list begins, and that plus its length, and
    the lists [B', H', T * width], int32 or words. Blocks without a pair in the walk's box are left
    out.
    """
    n_blocks = -(-n_keys // walk.size)
    block = torch.arange(n_blocks, dtype=torch.int32, device=device)
    lower, upper = _met(walk.box, walk.size, block)
    match walk.entry.table:
        case None:
            table = tensors[walk.entry.tensor]
            table = table.reshape(*_outer(walk.entry, tensors), n_blocks, n_blocks)
            return list_words(table, lower, upper)
        case Top(count):
            scores = tensors[walk.entry.tensor]
            listed = best_first(scores)[..., : torch.sym_min(count, n_blocks)]
            valid = listed <= block[:, None]
        case Drawn():
            listed = draws(walk.entry.table, n_blocks, device).sort(-1).values[None, None]
            before = torch.nn.functional.pad(listed[..., :-1], (1, 0), value=-1)
            valid = listed != before
        case Passing():
            raise TypeError(f"expected a table of blocks, found {walk.entry}")
        case _:
            assert_never(walk.entry.table)
    valid = valid & (listed >= lower[:, None]) & (listed < upper[:, None])
    ordered = torch.where(valid, listed, n_blocks).int().sort(-1).values
    begin = block * ordered.shape[-1]
    spans = torch.stack([begin.expand(valid.shape[:-1]), begin + valid.sum(-1)], -1)
    return spans.int(), ordered.flatten(-2).contiguous()


def _met(box: Box, size: int, block: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks of keys [lower, upper) that have pairs in a box, for all blocks of queries [T]."""
    first, behind = (box.keys.lower or 0) // size, block.shape[0]
    if box.keys.upper is not None:
        behind = -(-box.keys.upper // size)
    lower, upper = torch.full_like(block, first), torch.full_like(block, behind)
    # Distances of the pairs are less than `size` from that of the blocks' first positions.
    if box.distance.upper is not None:
        lower = torch.maximum(lower, block + (1 - box.distance.upper) // size)
    if box.distance.lower is not None:
        upper = torch.minimum(upper, block + 1 - box.distance.lower // size)
    return lower, upper


def best_first(scores: Tensor) -> Tensor:
    """Blocks of keys [..., T, T] by falling score, for each block of queries.

    Of equal scores the earlier block comes first; -inf counts as the lowest finite number. NaN
    comes behind all numbers, and behind those all blocks later than the queries' own.
    """
    block = torch.arange(scores.shape[-1], device=scores.device)
    score = scores.detach().clamp(min=torch.finfo(scores.dtype).min)  # keeps NaN
    last = score.isnan() | (block > block[:, None])
    return score.masked_fill(last, -torch.inf).sort(dim=-1, descending=True, stable=True).indices


def draws(table: Drawn, n_blocks: int, device: torch.device) -> Tensor:
    """The blocks of keys [T, count] int32 that are drawn for each block of queries."""
    query = torch.arange(n_blocks, device=device)[:, None]
    number = torch.arange(table.count, device=device)
    seed = torch.full((), table.seed, device=device)
    return (_mixed(_mixed(_mixed(seed) + query) + number) % n_blocks).int()


def _mixed(x: Tensor) -> Tensor:
    """The hash that `attncomp.ir.affine.Drawn` tells of, of 32-bit numbers held in int64."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
