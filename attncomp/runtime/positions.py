"""The positions of a call's queries and keys, and integer expressions at all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from attncomp.ir.affine import Affine, Entry, IndexName, index
from attncomp.runtime.values import value_of

Side: TypeAlias = Literal["q", "k"]


@dataclass(frozen=True)
class Call:
    """The sizes of a call and its checked tensors by name, of which conditions read entries."""

    batch: int
    heads: int
    kv_heads: int
    n_queries: int
    n_keys: int
    device: torch.device
    tensors: Mapping[str, Tensor]

    @staticmethod
    def of(q: Tensor, k: Tensor, tensors: Mapping[str, Tensor]) -> Call:
        """That of q [B, Hq, Nq, D] and k [B, Hk, Nk, D]."""
        batch, heads, n_queries, _ = q.shape
        return Call(batch, heads, k.shape[1], n_queries, k.shape[2], q.device, tensors)

    def count(self, side: Side) -> int:
        """How many queries there are, or how many keys."""
        return self.n_keys if side == "k" else self.n_queries

    def position(self, side: Side, dtype: torch.dtype = torch.int64) -> Tensor:
        """The positions of all queries [Nq], or of all keys [Nk]."""
        first = self.n_keys - self.count(side)
        return torch.arange(first, self.n_keys, dtype=dtype, device=self.device)


def dtype_of(*values: Affine) -> torch.dtype:
    """That of 32 bits if all that is computed fits, else of 64."""
    narrow = max(value.reach for value in values) <= torch.iinfo(torch.int32).max
    return torch.int32 if narrow else torch.int64


def evaluated(value: Affine, side: Side, call: Call, dtype: torch.dtype) -> Tensor:
    """An expression of b, h, n and one of q and k at all positions of that side, [B', H', N].

    N is 1 where the expression has neither q nor k.
    """
    if not value.terms:
        return torch.full((1, 1, 1), value.constant, dtype=dtype, device=call.device)
    rows, heads = _rows(value, "b", call.batch, call), _rows(value, "h", call.heads, call)
    whole = {entry: _whole(entry, side, heads, call) for entry in value.entries}
    looked_up = [entry for entry, tensor in whole.items() if tensor is None]
    made: dict[IndexName, Callable[[], Tensor]] = {
        side: lambda: call.position(side, dtype),
        "h": lambda: torch.arange(heads, dtype=dtype, device=call.device)[:, None],
        "b": lambda: torch.arange(rows, dtype=dtype, device=call.device)[:, None, None],
        "n": lambda: torch.full((), call.n_keys, dtype=dtype, device=call.device),
    }
    used = {side, *value.indices} if looked_up else value.bare_indices
    indices = {name: make() for name, make in made.items() if name in used}

    def entry_of(entry: Entry) -> Tensor:
        tensor = whole[entry]
        return (_entry(entry, indices, call.tensors) if tensor is None else tensor).to(dtype)

    found = value_of(value, indices, entry_of)
    count = call.count(side) if side in value.indices else 1
    return found.expand(torch.broadcast_shapes(found.shape, (1, 1, count)))


def _whole(entry: Entry, side: Side, heads: int, call: Call) -> Tensor | None:
    """An entry at all positions as a part of its tensor, [B', H', N]; None if it is looked up.

    A size of 1 serves every position.
    """
    tensor = call.tensors[entry.tensor]
    names: tuple[IndexName, ...] = ("b", "h", side)
    order = [name for name in names if index(name) in entry.indices]
    if list(entry.indices) != [index(name) for name in order]:
        return None
    for place, name in enumerate(order):
        size, count = tensor.shape[place], call.count(side)
        if name == side and count > call.n_keys:  # queries before the first position
            return None
        if size == 1 or name == "b":
            continue
        if size != (heads if name == "h" else call.n_keys):
            return None
        if name == side:
            tensor = tensor.narrow(place, size - count, count)
    return tensor[tuple(slice(None) if name in order else None for name in names)]


def _rows(value: Affine, name: IndexName, total: int, call: Call) -> int:
    """For how many heads, or rows of the batch, an expression may differ.

    Where it depends on them by the subscripts of tensors alone, as many as these are for.
    """
    if name not in value.indices:
        return 1
    places = [(entry, place) for entry in value.entries for place in enumerate(entry.indices)]
    direct = [(e, at) for e, (at, position) in places if position == index(name)]
    uses = sum(name in position.indices for _, (_, position) in places)
    if name in value.bare_indices or uses != len(direct):
        return total
    sizes = [call.tensors[entry.tensor].shape[at] for entry, at in direct]
    most = max(sizes)
    # A group of heads may read a tensor of all heads of the call.
    shared = most > 0 and total % most == 0 and all(most % size == 0 for size in sizes)
    return most if shared else total


def _entry(
    entry: Entry, indices: Mapping[IndexName, Tensor], tensors: Mapping[str, Tensor]
) -> Tensor:
    """An entry, 0 outside of the tensor; a dimension of size 1 serves every position."""
    tensor, places, within = tensors[entry.tensor], [], []
    for size, subscript in zip(tensor.shape, entry.indices, strict=True):
        place = value_of(subscript, indices)
        if subscript == index("h") and size < indices["h"].shape[0]:  # consecutive heads share one
            place = place * size // indices["h"].shape[0]
        within.append((place >= 0) & ((place < size) | (size == 1)))
        places.append(place.clamp(0, size - 1))
    return torch.where(functools.reduce(torch.logical_and, within), tensor[tuple(places)], 0)
