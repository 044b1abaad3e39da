"""Ranks, values and lookups that `select` needs before and after it walks its tree."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_SCANNED: Final = 1024  # entries of a block of `row_cumsum`


def finite(scores: Tensor) -> Tensor:
    """Scores [B, G, Nk], contiguous in fp32 (fp64 stays), infinities clamped, NaN as it is."""
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    limit = torch.finfo(dtype).max / 4
    return scores.detach().to(dtype).clamp(-limit, limit).contiguous()


def row_cumsum(values: Tensor) -> Tensor:
    """Inclusive sums along the last axis, float64 or int64.

    By blocks, as few long rows scan slowly; no row has a part in another's sums, nor its NaN.
    """
    dtype = torch.float64 if values.is_floating_point() else torch.int64
    size = values.shape[-1]
    padded = torch.nn.functional.pad(values.to(dtype), (0, -size % _SCANNED))
    blocks = padded.unflatten(-1, (-1, _SCANNED)).cumsum(-1)
    before = torch.nn.functional.pad(blocks[..., :-1, -1].cumsum(-1), (1, 0))
    return (blocks + before.unsqueeze(-1)).flatten(-2)[..., :size].contiguous()


def seen_nan(score: Tensor) -> Tensor:
    """Whether the prefix that ends at each time [rows, Nk] holds a NaN."""
    return row_cumsum(score.isnan()) > 0


def compressed(ranked: Tensor) -> Tensor:
    """Float64 values that order `ranked` [rows, Nk] (descending) and keep differences below 2.

    A gap of 2 or more, of any size, becomes one of at least 2: the gate of a pair depends on
    differences below 1 alone, so that scores of any magnitude lose nothing. Between two such gaps
    values are differences from the first score, so they never increase and ties stay ties. NaN
    ranks first.
    """
    score = ranked.double().nan_to_num(nan=torch.finfo(ranked.dtype).max)
    leads = torch.zeros(ranked.shape, dtype=torch.bool, device=ranked.device)
    leads[:, 1:] = score[:, :-1] - score[:, 1:] >= 2.0
    island = row_cumsum(leads)
    leader = torch.searchsorted(island, island)  # the first index of the same island
    value = score - score.gather(-1, leader)
    drop = torch.zeros_like(island)
    drop[:, 1:] = torch.where(leads[:, 1:], (2 - value[:, :-1]).ceil().long(), 0)
    return value - row_cumsum(drop)


def item_ranks(value: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks, among all 2 Nk items of a row, of each key's "+" item (at its value) and "-" item.

    "-" stands one below "+"; at equal values "-" comes first.
    """
    plus, minus = -value, -(value - 1.0)  # ascending
    index = torch.arange(value.shape[-1], device=value.device)
    plus_rank = index + torch.searchsorted(minus, plus, right=True)
    minus_rank = index + torch.searchsorted(plus, minus)
    return plus_rank, minus_rank


def items_by_rank(
    value: Tensor, order: Tensor, plus_rank: Tensor, minus_rank: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Time and value of the item of each rank, [rows, size]; "+" of key j has time 2j, "-" 2j + 1.

    Ranks from 2 Nk on are padding, later than every key.
    """
    time = torch.arange(size, device=value.device, dtype=torch.int32).repeat(value.shape[0], 1)
    level = torch.zeros((value.shape[0], size), dtype=torch.float64, device=value.device)
    twice = (2 * order).int()
    time.scatter_(-1, plus_rank, twice).scatter_(-1, minus_rank, twice + 1)
    level.scatter_(-1, plus_rank, value).scatter_(-1, minus_rank, value - 1.0)
    return time, level


def first_below(limit: Tensor, rank: Tensor, order: Tensor, *, strict: bool) -> Tensor:
    """Per key, the first time t >= its own with `limit[t] < rank` (strict) or `limit[t] <= rank`.

    limit [rows, Nk] never increases in time; rank and order [rows, Nk] are in ranked order. Nk if
    there is no such time.
    """
    times = torch.searchsorted(-limit, (-rank).to(limit.dtype), right=strict, out_int32=True)
    result = torch.empty_like(times).scatter_(-1, order, times)
    own = torch.arange(limit.shape[-1], device=limit.device, dtype=torch.int32)
    return torch.maximum(result, own)


def scores_of_items(score: Tensor, item_time: Tensor, item: Tensor) -> Tensor:
    """Scores of the keys whose "+" items are given for each time [rows, Nk]; -inf without one."""
    past = item < item_time.shape[-1]
    key = item_time.gather(-1, torch.where(past, item, 0).long()) // 2
    theta = score.gather(-1, key.long())
    return torch.where(past, theta, float("-inf"))
