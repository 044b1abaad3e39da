"""What generated Triton modules call on the host: sizes, strides, buffers and small reductions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

TIMES: Final = 1024  # that a program adds up at a time for gradients through thresholds
BLOCKS: Final = 64


def tiles(length: int, size: int) -> int:
    """How many tiles of `size` cover `length`."""
    return (length + size - 1) // size


def alignment(*tensors: Tensor) -> int:
    """The number of elements, 16 bytes' worth or 1, that all strides but the last are multiples of.

    Kernels get strides divided by it, so that the compiler knows which rows allow vector loads
    without specialising on any stride's value.
    """
    for tensor in tensors:
        batch, head, row, _ = tensor.stride()
        # A power of two divides all of them if it divides what their bits add up to.
        if (batch | head | row) % (16 // tensor.element_size()) or tensor.data_ptr() % 16:
            return 1
    return 16 // tensors[0].element_size()


def list_alignment(*lists: Tensor) -> int:
    """Of how many entries, 16 bytes' worth or 1, [..., capacity] int32 lists are multiples."""
    return 1 if any(keys.shape[3] % 4 for keys in lists) else 4


def programs(items: int, device: torch.device) -> int:
    """How many programs share `items` work items, each on a multiprocessor of its own."""
    return min(items, _multiprocessors(device)) if device.type == "cuda" else items


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def strides(tensor: Tensor, align: int) -> tuple[int, int, int]:
    """Strides of batch, head and row of a [B, H, N, D] tensor, in units of `align` elements."""
    batch, head, row, _ = tensor.stride()
    return batch // align, head // align, row // align


def stride(tensor: Tensor, place: int) -> int:
    """The stride of a dimension of an integer tensor; 0 where one entry serves every position."""
    return 0 if tensor.shape[place] == 1 else tensor.stride(place)


def extent(tensor: Tensor, place: int) -> int:
    """The positions that a dimension of an integer tensor serves."""
    return (1 << 31) - 1 if tensor.shape[place] == 1 else tensor.shape[place]


def rows(spans: Tensor) -> int:
    """By how many lists of blocks two rows of the batch are apart; 0 where they share them."""
    return spans.shape[1] if spans.shape[0] > 1 else 0


def inverse_lists(spans: Tensor, lists: Tensor) -> tuple[Tensor, Tensor]:
    """For each block of keys the blocks of queries that list it, ascending.

    Takes and gives spans [B', H', T, 2] and lists [B', H', T * width] int32, of blocks of queries
    and of blocks of keys (`attncomp.codegen.state`).
    """
    n_blocks = spans.shape[2]
    listed = lists.unflatten(2, (n_blocks, -1))
    width = listed.shape[3]
    count = (spans[..., 1] - spans[..., 0]).unsqueeze(3)
    used = torch.arange(width, device=lists.device) < count
    ordered = torch.where(used, listed, n_blocks).flatten(2).sort(dim=-1, stable=True)
    block = torch.arange(n_blocks + 1, device=lists.device, dtype=torch.int32)
    ends = torch.searchsorted(ordered.values, block.expand(*spans.shape[:2], -1).contiguous())
    inverse = torch.stack([ends[..., :-1], ends[..., 1:]], -1)
    return inverse.int(), (ordered.indices // width).int()


def precision(tensor: Tensor) -> str:
    """How float32 products are formed: as torch's float32 matmul precision says."""
    exact = torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact and tensor.dtype == torch.float32 else "tf32"


def partial_sums(
    like: Tensor, per_key: Sequence[int], per_slot: Sequence[int], *width: int
) -> tuple[Tensor, Tensor]:
    """Uninitialised float32 buffers for the parts of a gathered gradient."""
    parts = [
        torch.empty((*size, *width), dtype=torch.float32, device=like.device)
        for size in (per_key, per_slot)
    ]
    return parts[0], parts[1]


def sum_of_rows(rows: Tensor) -> Tensor:
    """The sum a head [Hq] float32 of what each row [B, Hq, Nq] adds to it."""
    return rows.sum((0, 2), dtype=torch.float64).float()


def quanta_a_unit(dout: Tensor, dlse: Tensor | None, v: Tensor, lse: Tensor) -> Tensor:
    """How many quanta one is, [1] float32, so that sums of dx in whole quanta fit 61 bits.

    Integers add up to the same in every order, which makes their atomics deterministic. A row's
    |dx| add up to at most 2 |dout| max |v| + |dlse|: its weights sum to 1, and out is a mean of v.
    NaN, which integers do not have, comes back out of `table_gradient` for all entries.
    """
    rows = max(1, lse.shape[0] * lse.shape[2])
    longest = torch.linalg.vector_norm(v, dim=-1, dtype=torch.float32).amax()
    bound = 2 * torch.linalg.vector_norm(dout, dim=-1, dtype=torch.float32).amax() * longest
    if dlse is not None:
        bound = bound + torch.where(lse == -torch.inf, 0.0, dlse.abs()).amax()
    bound = torch.where(lse.isnan().any(), torch.nan, bound)
    return (2.0**60 / (rows * bound).clamp(min=2.0**-40)).reshape(1)


def table_gradient(counts: Tensor, quanta: Tensor, ahead: Tensor, behind: Tensor) -> Tensor:
    """The gradient [Hq, W] float32 of a table of biases, from its inner entries in quanta.

    The first entry is that of all keys far ahead, the last of all far behind, a sum a row each,
    [B, Hq, Nq]; of a table with one entry, both are it.
    """
    gradient = (counts.double() / quanta.double()).float()
    if counts.shape[1] == 1:
        return sum_of_rows(ahead)[:, None]
    return torch.cat(
        [sum_of_rows(ahead)[:, None], gradient[:, 1:-1], sum_of_rows(behind)[:, None]], 1
    )


def sink_gradient(sinks: Tensor, lse: Tensor, row_deltas: Tensor) -> Tensor:
    """The gradient [Hq] float32 of the sinks' logits, from lse and delta of each row [B, Hq, Nq].

    A row's softmax gives the sink the weight exp(sink - lse), and no value.
    """
    weight = torch.where(lse == -torch.inf, 0.0, torch.exp(sinks[:, None] - lse))
    return -sum_of_rows(weight * row_deltas)


def list_spans(n_queries: int, segment: int, tile: int) -> list[int]:
    """Lengths of the spans that key lists are made for, each a divisor of the one before.

    From at most 64 over all queries, by factors of 8, to `segment`, then by up to 64 to `tile`: all
    keys are read for each of the longest, and all that one of them lists for each that it holds.
    """
    spans = [segment]
    while spans[0] * 64 < n_queries:
        spans.insert(0, spans[0] * 8)
    while spans[-1] > tile:
        spans.append(max(tile, spans[-1] // 64))
    return spans


def blocks_of_times(n_times: int) -> tuple[int, int]:
    """How many times one of at most `BLOCKS` blocks has, by whole `TIMES`, and how many there are.

    A program adds up a block; to cross some of them it takes no more steps than there may be.
    """
    span = tiles(n_times, BLOCKS * TIMES) * TIMES
    return span, tiles(n_times, span)


def sums_of_times(support: Tensor, n_blocks: int) -> tuple[Tensor, Tensor]:
    """Uninitialised float64 buffers for sums over times [B, G, Nk], and over whole blocks."""
    batch, groups, n_times = support.shape
    sums, totals = [
        torch.empty((batch, groups, size), dtype=torch.float64, device=support.device)
        for size in (n_times, n_blocks)
    ]
    return sums, totals
