"""Scans along rows, and scores in a form that float64 sums them in."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_SCANNED: Final = 1024  # entries of a block of a scan: few long rows scan slowly


def row_cumsum(values: Tensor) -> Tensor:
    """Inclusive sums along the last axis, float64 or int64.

    No row has a part in another's sums, nor its NaN.
    """
    dtype = torch.float64 if values.is_floating_point() else torch.int64
    size = values.shape[-1]
    padded = torch.nn.functional.pad(values.to(dtype), (0, -size % _SCANNED))
    blocks = padded.unflatten(-1, (-1, _SCANNED)).cumsum(-1)
    before = torch.nn.functional.pad(blocks[..., :-1, -1].cumsum(-1), (1, 0))
    return (blocks + before.unsqueeze(-1)).flatten(-2)[..., :size].contiguous()


def row_cummax(values: Tensor) -> Tensor:
    """The largest so far along the last axis, of integers.

    There are at least two blocks: torch.compile has a graph of its own for one.
    """
    size = values.shape[-1]
    padded = torch.nn.functional.pad(values, (0, _SCANNED + -size % _SCANNED))
    blocks = padded.unflatten(-1, (-1, _SCANNED)).cummax(-1).values
    least = torch.iinfo(values.dtype).min
    before = torch.nn.functional.pad(blocks[..., -1].cummax(-1).values, (1, -1), value=least)
    return torch.maximum(blocks, before.unsqueeze(-1)).flatten(-2)[..., :size]


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
    first = torch.where(leads, torch.arange(ranked.shape[-1], device=ranked.device), 0)
    leader = row_cummax(first)  # the index behind the last gap
    value = score - score.gather(-1, leader)
    drop = torch.zeros_like(leader)
    drop[:, 1:] = torch.where(leads[:, 1:], (2 - value[:, :-1]).ceil().long(), 0)
    return value - row_cumsum(drop)
