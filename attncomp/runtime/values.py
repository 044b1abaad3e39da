"""Integer expressions of a pattern's indices, evaluated on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.ir.affine import Affine, Entry, Index, IndexName, Product, Quotient, Remainder


def value_of(
    value: Affine,
    indices: Mapping[IndexName, Tensor],
    entry_of: Callable[[Entry], Tensor] | None = None,
) -> Tensor:
    """An expression of indices that broadcast against each other, of their integer dtype.

    It may be one of the indices itself. entry_of tells the entries of tensors; ValueError for an
    entry without it.
    """
    total: Tensor | None = None
    for term, coefficient in value.terms:
        match term:
            case Index(name):
                part = indices[name]
            case Quotient(inner, divisor):
                part = value_of(inner, indices, entry_of) // divisor
            case Remainder(inner, divisor):
                part = value_of(inner, indices, entry_of) % divisor
            case Product(left, right):
                part = value_of(left, indices, entry_of) * value_of(right, indices, entry_of)
            case Entry():
                if entry_of is None:
                    raise ValueError(f"expected an expression of indices alone, found {term}")
                part = entry_of(term)
            case _:
                assert_never(term)
        if total is not None:
            total = torch.add(total, part, alpha=coefficient)
        else:
            total = part if coefficient == 1 else part * coefficient
    if total is None:
        return torch.full((), value.constant, device=next(iter(indices.values())).device)
    return total + value.constant if value.constant else total
