"""Tables of blocks that have rows for the queries of a call alone, fewer than it has keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncomp.ir.affine import Affine, Entry, Quotient, index


def with_all_rows(tensor: Tensor, entries: Sequence[Entry], n_queries: int, n_keys: int) -> Tensor:
    """A table [..., T, T] for one of [..., ceil(Nq / c), T], where blocks of c keys are T.

    Queries stand at the end, so that the rows given are the last ones; those before, which no query
    reads, hold what is never chosen. Any other tensor comes back as it is, to be checked: one with
    all rows, one that not only `q // c` and `k // c` subscribe last, one whose first block of
    queries is cut.
    """
    if n_queries >= n_keys or tensor.ndim < 2 or tensor.ndim != len(entries[0].indices):
        return tensor
    size = _block_size(entries)
    if size is None or (n_keys - n_queries) % size:
        return tensor
    before = (n_keys - n_queries) // size
    if tensor.shape[-2] + before != -(-n_keys // size):
        return tensor
    lowest = -torch.inf if tensor.is_floating_point() else 0
    return torch.nn.functional.pad(tensor, (0, 0, before, 0), value=lowest)


def _block_size(entries: Sequence[Entry]) -> int | None:
    """c, where the last two subscripts of all entries are q // c and k // c; None elsewhere."""
    sizes: set[int | None] = set()
    for entry in entries:
        last = entry.indices[-2:]
        if [subscript.indices for subscript in last] != [{"q"}, {"k"}]:
            return None
        sizes |= set(map(positions_a_size, last))
    return sizes.pop() if len(sizes) == 1 else None


def positions_a_size(subscript: Affine) -> int | None:
    """1 for `q` and `k`, c for `q // c` and `k // c`, None for any other subscript."""
    if subscript in (index("q"), index("k")):
        return 1
    match subscript.terms:
        case ((Quotient(value, divisor), 1),) if not subscript.constant:
            return divisor if value in (index("q"), index("k")) else None
        case _:
            return None
