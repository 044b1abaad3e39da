"""All pairs of a call as dense tensors, and which of them a box or a test holds.

Part of the oracle: it follows the definitions and shares no code with passes or kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.ir.affine import Affine, Entry, Index, Product, Quotient, Remainder
from attncomp.ir.ops import Box, Condition, Interval, Where


class Pairs(NamedTuple):
    """distance [Nq, Nk] is query position minus key position; key [1, Nk]; indices by name."""

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
                case Entry(tensor, positions):
                    part = self._entry(tensor, [self._value(position) for position in positions])
                case _:
                    assert_never(term)
            total = total + coefficient * part
        return total

    def inside(self, box: Box) -> Tensor:
        return _within(self.distance, box.distance) & _within(self.key, box.keys)

    def _entry(self, name: str, positions: list[Tensor]) -> Tensor:
        tensor = self.tensors[name]
        inside = torch.tensor(True, device=tensor.device)
        clamped = []
        for size, position in zip(tensor.shape, positions, strict=True):
            # A dimension of size 1 serves every position.
            inside = inside & (position >= 0) & ((position < size) | (size == 1))
            clamped.append(position.clamp(0, size - 1))
        return torch.where(inside, tensor[tuple(clamped)].long(), 0)


def _within(value: Tensor, interval: Interval) -> Tensor:
    inside = torch.ones_like(value, dtype=torch.bool)
    if interval.lower is not None:
        inside &= value >= interval.lower
    if interval.upper is not None:
        inside &= value < interval.upper
    return inside
