"""What an entry of a tensor stands for other than itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

LOGITS: Final = "logits"
"""Among the tensors of dense masks, the logits [B or 1, Hq, Nq, Nk] that thresholds ask for."""


@dataclass(frozen=True, slots=True)
class Top:
    """A table of 0 and 1: whether a block of keys is among the `count` best of a block of queries.

    The entry's tensor holds a score for each pair of blocks. Those up to the queries' own block
    compete; of equal scores the earlier block is the better one, NaN is worse than any number, -inf
    is the lowest finite number.
    """

    count: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A table of 0 and 1: whether a block of keys is drawn for a block of queries.

    With T = ceil(n / size) blocks, draw i of block q is mix(mix(mix(seed) + q) + i) % T in unsigned
    32-bit arithmetic, where mix(x) is x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b;
    x ^= x >> 16 (https://nullprogram.com/blog/2018/07/31/).
    """

    count: int
    size: int
    seed: int


@dataclass(frozen=True, slots=True)
class Passing:
    """0 and 1: whether a pair's logit `scale * (q . k)` is at least the entry, a threshold.

    The logit is the bare one, before gates and modifiers. NaN, in either, is at least nothing.
    """


Table: TypeAlias = "Top | Drawn | Passing"
