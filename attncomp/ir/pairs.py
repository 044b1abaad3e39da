"""All pairs of a call as dense tensors, and which of them a box or a test holds.

Part of the oracle: it follows the definitions and shares no code with passes or kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.ir.affine import (
    Affine,
    Drawn,
    Entry,
    Index,
    Passing,
    Product,
    Quotient,
    Remainder,
    Top,
)
from attncomp.ir.ops import Box, Condition, Interval, Where
from attncomp.ir.tables import LOGITS


class Pairs(NamedTuple):
    """distance [Nq, Nk] is query position minus key position; key [1, Nk]; indices by name.

    tensors: those of the call and, where thresholds are compared with them, the logits
    [B or 1, Hq, Nq, Nk] under `LOGITS`.
    """

    distance: Tensor
    key: Tensor
    indices: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]

    @staticmethod
    def of(
        n_queries: int,
        n_keys: int,
        tensors: Mapping[str, Tensor],
        heads: int,
        batch: int,
        device: torch.device,
    ) -> Pairs:
        key = torch.arange(n_keys, device=device)[None, :]
        query = torch.arange(n_queries, device=device)[:, None] + (n_keys - n_queries)
        indices = {
            "q": query,
            "k": key,
            "h": torch.arange(heads, device=device)[:, None, None],
            "b": torch.arange(batch, device=device)[:, None, None, None],
            "n": torch.tensor(n_keys, device=device),
        }
        return Pairs(query - key, key, indices, tensors)

    def passing(self, test: Where) -> Tensor:
        """Whether each pair passes a test, [B or 1, H or 1, Nq, Nk]."""
        value = self._value(test.value)
        passes = value == 0 if test.relation == "==" else value >= 0
        return passes | torch.zeros_like(self.distance, dtype=torch.bool)[None, None]

    def meeting(self, condition: Condition) -> Tensor:
        """Whether each pair meets a condition."""
        met = torch.zeros_like(self.distance, dtype=torch.bool)[None, None]
        for alternative in condition:
            every = torch.ones_like(met)
            for required in alternative:
                every = every & (self.passing(required.test) == required.holds)
            met = met | every
        return met

    def _value(self, value: Affine) -> Tensor:
        total = torch.tensor(value.constant, device=self.key.device)
        for term, coefficient in value.terms:
            match term:
                case Index(name):
                    part = self.indices[name]
                case Quotient(inner, divisor):
                    part = self._value(inner) // divisor
                case Remainder(inner, divisor):
                    part = self._value(inner) % divisor
                case Product(left, right):
                    part = self._value(left) * self._value(right)
                case Entry():
                    part = self._read(term)
                case _:
                    assert_never(term)
            total = total + coefficient * part
        return total

    def inside(self, box: Box) -> Tensor:
        return _within(self.distance, box.distance) & _within(self.key, box.keys)

    def _read(self, entry: Entry) -> Tensor:
        match entry.table:
            case None:
                table = self.tensors[entry.tensor]
            case Top(count):
                table = _best(self.tensors[entry.tensor].detach(), count)
            case Drawn() as draw:
                table = _drawn(draw, int(self.indices["n"])).to(self.key.device)
            case Passing():
                thresholds = self.tensors[entry.tensor][:, None, None]  # [Hq, 1, 1]
                return (self.tensors[LOGITS] >= thresholds).long()
            case _:
                assert_never(entry.table)
        return _entry(table, [self._value(position) for position in entry.indices])


def _entry(tensor: Tensor, positions: list[Tensor]) -> Tensor:
    inside = torch.tensor(True, device=tensor.device)
    clamped = []
    for size, position in zip(tensor.shape, positions, strict=True):
        # A dimension of size 1 serves every position.
        inside = inside & (position >= 0) & ((position < size) | (size == 1))
        clamped.append(position.clamp(0, size - 1))
    return torch.where(inside, tensor[tuple(clamped)].long(), 0)


def _best(scores: Tensor, count: int) -> Tensor:
    """Which blocks [..., T, T] are among the `count` best of their row, up to the diagonal."""
    scores = scores.clamp(min=torch.finfo(scores.dtype).min)
    block = torch.arange(scores.shape[-1], device=scores.device)
    left, right = scores.unsqueeze(-1), scores.unsqueeze(-2)  # does the left one beat the right?
    earlier = block[:, None] < block
    same = (left == right) | (left.isnan() & right.isnan())
    beats = (left > right) | (right.isnan() & ~left.isnan()) | (same & earlier)
    competes = block <= block[:, None]  # [T, T]
    better = (beats & competes.unsqueeze(-1)).sum(-2)
    return (competes & (better < count)).long()


def _drawn(table: Drawn, n_keys: int) -> Tensor:
    """The table [T, T] of a draw, one integer after the other."""

    def mix(x: int) -> int:
        x &= 0xFFFFFFFF
        x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
        x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    n_blocks = -(-n_keys // table.size)
    found = torch.zeros(n_blocks, n_blocks, dtype=torch.int64)
    for query in range(n_blocks):
        for number in range(table.count):
            found[query, mix(mix(mix(table.seed) + query) + number) % n_blocks] = 1
    return found


def _within(value: Tensor, interval: Interval) -> Tensor:
    inside = torch.ones_like(value, dtype=torch.bool)
    if interval.lower is not None:
        inside &= value >= interval.lower
    if interval.upper is not None:
        inside &= value < interval.upper
    return inside
