"""What `select` of generated Triton modules keeps between its launches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INTERVAL = 64  # times that one program of the last launch serves
PROGRAMS = 128  # intervals of all rows that the coarsest level should have at least
FEWEST = 16  # and of one row
RATIO = 64  # the most intervals of the last launch in one of a level
ROW_ITEMS = 4096  # keys of a row, of a long list and of a short one that a program takes at a time
LIST_ITEMS = 256
ITEMS = 32
SAMPLE = 2048  # keys that bracket the thresholds of a prefix eight times as long
EVENTS = 16  # changes of the thresholds that it takes at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Intervals of `span` times each, between checkpoints; one list of keys for each interval.

    Row r has `nodes` intervals and one checkpoint more. theta [R, nodes + 1] in the scores' dtype;
    ints [R, nodes + 1, 8] int32: the key of theta, support, the first key that is NaN, and of the
    interval that begins there: where its list starts, how many items it has, how many of the
    interval's first k best are among them, how many other keys have a gate of 1 throughout, and
    how many one in (0, 1); reals [R, nodes + 1, 2] float64: delta, and the sum of those in (0, 1)
    relative to the next theta. keys and values [R, capacity] hold the lists, also those of the last
    launch; where they end stands in place of the list of the last checkpoint.
    """

    span: int
    nodes: int
    capacity: int
    theta: Tensor
    ints: Tensor
    reals: Tensor
    keys: Tensor
    values: Tensor


def spans(n_times: int, rows: int) -> list[int]:
    """Lengths of the intervals of each level for `n_times` times after the first checkpoint."""
    wanted = max(FEWEST, PROGRAMS // max(rows, 1))
    coarsest = INTERVAL
    while coarsest * wanted < n_times:
        coarsest *= 2
    if coarsest <= RATIO * INTERVAL:
        return [coarsest]
    # a level in between, halfway
    return [coarsest, INTERVAL << ((coarsest // INTERVAL).bit_length() // 2)]


def levels(score: Tensor, kept: int) -> list[Level]:
    """Uninitialised levels for scores [B, G, Nk] of which `kept` are selected, coarsest first."""
    rows, n_keys = score.shape[0] * score.shape[1], score.shape[2]
    n_times = n_keys - kept
    return [_level(score, rows, n_times, span) for span in spans(n_times, rows)]


def _level(score: Tensor, rows: int, n_times: int, span: int) -> Level:
    nodes = -(-n_times // span)
    # the lists of this level, and of the last launch
    capacity = _list_capacity(score.shape[2], nodes)
    capacity += _list_capacity(score.shape[2], -(-n_times // INTERVAL))

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty((rows, *shape), dtype=dtype, device=score.device)

    return Level(
        span=span,
        nodes=nodes,
        capacity=capacity,
        theta=empty(nodes + 1, dtype=score.dtype),
        ints=empty(nodes + 1, 8, dtype=torch.int32),
        reals=empty(nodes + 1, 2, dtype=torch.float64),
        keys=empty(capacity, dtype=torch.int32),
        values=empty(capacity, dtype=score.dtype),
    )


def _list_capacity(n_keys: int, intervals: int) -> int:
    """Room for the lists of all intervals of a row.

    A key is new once, displaced once, and its gate becomes less than 1 once, and 0 once; the key
    that is the k-th best at the ends of an interval is listed besides.
    """
    return 4 * n_keys + 2 * intervals
