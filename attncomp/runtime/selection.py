"""What `select` of generated Triton modules keeps between its launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PROGRAMS = 128  # intervals of all rows that there should be at least
FEWEST = 16  # and of one row
CHECKS = 256  # more than a row's checkpoints between them
SHORTEST = 64  # times of an interval, at least as many as this on average
PARTS = 16  # of an interval at least
MANY = 64  # and at most
PART = 128  # times of a part on average, where that is neither too few parts nor too many
FEW = 16  # new keys of a part, as long as there are parts
SURVIVORS = 8  # times k keys at most that a checkpoint hands on, beside as many as the sample, or
LEFT = 16  # beside one of so many
ROW_ITEMS = 2048  # of a row, an interval, the lists of both: keys that a program takes at a time
INTERVAL_ITEMS = 1024
LIST_ITEMS = 128
PART_ITEMS = 128
LISTED = 1024  # and of what a threshold is searched in: a sample, what it leaves, or all
ITEMS = 32  # of a part
TIMES = 16  # of a part at which something changes: all that happens in it then is found at once
RUN = 64  # items of a part that are sorted in registers
SPAN_ITEMS = 2048  # keys that may be selected in a span of queries
SPANS = 16  # of queries whose lists are made from the row, if segments are longer
SAMPLE = 1024  # keys that a threshold is estimated from, in longer rows one of so many:
SAMPLED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Intervals of time between checkpoints; one list of keys for each interval.

    Row r has `nodes` intervals and one checkpoint more. theta [R, nodes + 1] in the scores' dtype;
    ints [R, nodes + 1, 12] int32: the key of theta, support, the first key that is NaN, and of the
    interval that begins there: where its list starts, how many items it has, how many of the
    interval's first k best are among them, how many other keys have a gate of 1 throughout, how
    many one in (0, 1), and how many items are old; the checkpoint's time, and how many survivors it
    has, or -1; reals [R, nodes + 1, 2] float64: delta, and the sum of those in (0, 1) relative to
    the next theta. keys and values [R, capacity] hold the lists; where they end stands in place of
    the list of the last checkpoint. Those of the second level have a copy in order of scores behind
    them, and of an interval there only what a checkpoint has.
    Survivors are the keys up to a checkpoint that matter later, up to `room`: [R, nodes + 1, room],
    on the first level.
    """

    nodes: int
    room: int
    capacity: int
    theta: Tensor
    ints: Tensor
    reals: Tensor
    keys: Tensor
    values: Tensor
    survivors: Tensor
    survivor_values: Tensor


def intervals(n_times: int, rows: int) -> int:
    """How many intervals of a row `n_times` times after the first checkpoint are divided into."""
    most = max(FEWEST, PROGRAMS // max(rows, 1))
    return max(1, min(most, n_times // SHORTEST))


def sampled(n_keys: int) -> int:
    """Keys of a row at most that a threshold is estimated from.

    A share of long rows: the fewer of the k best are in a sample, the more keys it leaves.
    """
    return max(SAMPLE, n_keys // SAMPLED)


def part_span(n_queries: int, spans: Sequence[int]) -> int:
    """The other span of queries whose lists are made from the row: part of the first, or that one.

    spans: from `launch.list_spans`. Lists of tiles are made from those of parts: these are shorter.
    """
    if len(spans) != 2:
        return spans[0]
    span = 1 << max(n_queries // SPANS, 1).bit_length() - 1
    return min(spans[0], max(spans[1], span))


def levels(score: Tensor, kept: int) -> tuple[Level, Level]:
    """Uninitialised levels for scores [B, G, Nk] of which `kept` are selected: intervals, parts.

    Intervals have at least so many parts that rising scores, all of whose keys are new to the best,
    give parts of few keys; most are empty where few are.
    """
    rows, n_keys = score.shape[0] * score.shape[1], score.shape[2]
    nodes = intervals(n_keys - kept, rows)
    room = min(n_keys, SURVIVORS * kept + max(sampled(n_keys), n_keys // LEFT))
    parts = nodes * min(MANY, max(PARTS, 2 * (n_keys - kept) // (nodes * PART)))
    listed = 2 * _list_capacity(n_keys, parts)  # in order of time, and of scores
    return (
        _level(score, nodes, room, _list_capacity(n_keys, nodes)),
        _level(score, parts, 0, listed),
    )


def _level(score: Tensor, nodes: int, room: int, capacity: int) -> Level:
    rows = score.shape[0] * score.shape[1]

    def empty(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.empty((rows, *shape), dtype=dtype, device=score.device)

    return Level(
        nodes=nodes,
        room=room,
        capacity=capacity,
        theta=empty(nodes + 1, dtype=score.dtype),
        ints=empty(nodes + 1, 12, dtype=torch.int32),
        reals=empty(nodes + 1, 2, dtype=torch.float64),
        keys=empty(capacity, dtype=torch.int32),
        values=empty(capacity, dtype=score.dtype),
        survivors=empty(nodes + 1, room, dtype=torch.int32),
        survivor_values=empty(nodes + 1, room, dtype=score.dtype),
    )


def _list_capacity(n_keys: int, intervals: int) -> int:
    """Room for the lists of all intervals of a row.

    A key is new once, displaced once, and its gate becomes less than 1 once, and 0 once; the key
    that is the k-th best at the ends of an interval is listed besides.
    """
    return 4 * n_keys + 2 * intervals
