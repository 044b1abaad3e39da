"""Ranks, values and lookups that `select` needs before and after it walks its tree."""

from __future__ import annotations

import torch
from torch import Tensor


def finite(scores: Tensor) -> Tensor:
    """Scores [B, G, Nk], contiguous in fp32 (fp64 stays), infinities clamped, NaN as it is."""
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    limit = torch.finfo(dtype).max / 4
    return scores.detach().to(dtype).clamp(-limit, limit).contiguous()


def compressed(ranked: Tensor) -> Tensor:
    """Float64 values with the differences of `ranked` [rows, Nk] (descending), those above 2 cut to 2.

    The gate of a pair depends on differences below 1 alone, so that scores of any size lose
    nothing. Equal scores get the very same value, whatever the order of summation.
    """
    wide = ranked.double()
    gaps = (wide[:, :-1] - wide[:, 1:]).clamp(max=2.0).nan_to_num(nan=0.0)
    value = torch.zeros_like(wide)
    torch.cumsum(-gaps, dim=-1, out=value[:, 1:])
    index = torch.arange(ranked.shape[-1], device=ranked.device).expand_as(ranked)
    leads = torch.ones_like(ranked, dtype=torch.bool)
    leads[:, 1:] = gaps > 0
    leader = torch.where(leads, index, 0).cummax(dim=-1).values
    return value.gather(-1, leader).cummin(dim=-1).values


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
