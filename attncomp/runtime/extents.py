"""Extents: how far a sweep's conditions let each query and each key reach, read from tensors.

The keys of a query that meet `F(q) + G(k) + c >= 0`, or `== 0`, stand side by side once the keys
are sorted by G, and those of `!= 0` around others. One sort of the keys and a search for each query
tell which of them is the first and which the last, and whether all keys in between are among them;
queries of a key likewise. That takes O(N log N) time and O(N) memory, on the tensors' device, and
waits for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.ir.affine import (
    Affine,
    Entry,
    Index,
    IndexName,
    Product,
    Quotient,
    Remainder,
    constant,
    index,
)
from attncomp.ir.ops import Condition, Requirement


class Reached(NamedTuple):
    """Positions [lower, upper) of the other side for each position, [B', H', N] int64.

    solid: whether all positions in between are reached. Where none is, lower is their number and
    upper 0.
    """

    lower: Tensor
    upper: Tensor
    solid: Tensor


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

    def position(self, side: Literal["q", "k"]) -> Tensor:
        """The positions of all queries [Nq], or of all keys [Nk]."""
        key = torch.arange(self.n_keys, device=self.device)
        if side == "k":
            return key
        queries = torch.arange(self.n_queries, device=self.device)
        return queries + (self.n_keys - self.n_queries)


def extent_tables(extent: Condition, call: Call) -> list[Tensor]:
    """The keys that each query may reach, and the queries that may reach each key, as indices.

    Gives [B', H', 2, Nq] and [B', H', 2, Nk] int32: `Reached.lower` and `Reached.upper`, of the
    latter the bitwise complement, a negative number, where it is not solid. B' is 1 or B, H'
    divides Hk.
    """
    tables = []
    sides: tuple[tuple[Literal["q", "k"], Literal["q", "k"]], ...] = (("k", "q"), ("q", "k"))
    for sought, given in sides:
        found = _joined([_met(parts, sought, given, call) for parts in extent])
        lower, upper, solid = _of_kv_heads(found, call)
        tables.append(torch.stack([lower, torch.where(solid, upper, ~upper)], 2).int())
    return tables


def _met(
    parts: Sequence[Requirement], sought: Literal["q", "k"], given: Literal["q", "k"], call: Call
) -> Reached:
    """What meets all of some requirements."""
    reached = [_reached(part, sought, given, call) for part in parts]
    lower, upper, solid = (list(column) for column in zip(*reached, strict=True))
    return _emptied(
        functools.reduce(torch.maximum, lower),
        functools.reduce(torch.minimum, upper),
        functools.reduce(torch.logical_and, solid),
        call.n_keys if sought == "k" else call.n_queries,
    )


def _joined(alternatives: Sequence[Reached]) -> Reached:
    """What any of some alternatives reaches."""
    if len(alternatives) == 1:
        return alternatives[0]
    lower = functools.reduce(torch.minimum, [found.lower for found in alternatives])
    upper = functools.reduce(torch.maximum, [found.upper for found in alternatives])
    return Reached(lower, upper, torch.zeros_like(lower, dtype=torch.bool))


def _emptied(lower: Tensor, upper: Tensor, solid: Tensor, count: int) -> Reached:
    empty = lower >= upper
    return Reached(lower.masked_fill(empty, count), upper.masked_fill(empty, 0), solid | empty)


def _of_kv_heads(found: Reached, call: Call) -> Reached:
    """The same for as many heads as KV heads, or a divisor of these, for all heads of each."""
    heads = found.lower.shape[1]
    if call.kv_heads % heads == 0:
        return found
    a_head, together = call.heads // heads, call.heads // call.kv_heads
    lower, upper, solid = (
        part.repeat_interleave(a_head, 1).unflatten(1, (-1, together)) for part in found
    )
    ends = lower.amin(2), upper.amax(2)
    alike = (ends[0] == lower.amax(2)) & (ends[1] == upper.amin(2))
    return Reached(*ends, alike & solid.all(2))


def _reached(
    part: Requirement, sought: Literal["q", "k"], given: Literal["q", "k"], call: Call
) -> Reached:
    """For each given position the sought ones that meet a requirement with it."""
    value, equality = part.test.value, part.test.relation == "=="
    if not part.holds and not equality:
        value = -value - constant(1)
    ranked = value.part({sought})
    ranks, places = _evaluated(ranked, sought, call).sort(dim=-1, stable=True)
    wanted = _evaluated(ranked - value, given, call)  # ranked ==, != or >= wanted
    rows = torch.broadcast_shapes(ranks.shape[:2], wanted.shape[:2])
    ranks, places = (t.expand(*rows, -1).contiguous() for t in (ranks, places))
    wanted = wanted.expand(*rows, -1).contiguous()
    count, begin = ranks.shape[-1], torch.searchsorted(ranks, wanted)
    end = torch.searchsorted(ranks, wanted, right=True) if equality else begin
    if equality and part.holds:
        lower = places.gather(-1, begin.clamp(max=count - 1))
        upper = places.gather(-1, (end - 1).clamp(min=0)) + 1
        met = end - begin
    else:  # those from a rank on, or those before and behind the equal ones
        begin = begin if equality else torch.zeros_like(begin)
        before, behind = _ends_before(places), _ends_before(places.flip(-1))
        lower, upper = (
            choose(of_before.gather(-1, begin), of_behind.gather(-1, count - end))
            for choose, of_before, of_behind in zip(
                (torch.minimum, torch.maximum), before, behind, strict=True
            )
        )
        met = begin + count - end
    lower, upper = lower.masked_fill(met == 0, count), upper.masked_fill(met == 0, 0)
    return _emptied(lower, upper, met == upper - lower, count)


def _ends_before(places: Tensor) -> tuple[Tensor, Tensor]:
    """First and last + 1 of the places [..., N] before each of N + 1 ranks."""
    nowhere = (1, 0)
    first = torch.nn.functional.pad(places.cummin(-1).values, nowhere, value=places.shape[-1])
    return first, torch.nn.functional.pad(places.cummax(-1).values + 1, nowhere)


def _evaluated(value: Affine, side: Literal["q", "k"], call: Call) -> Tensor:
    """An expression of b, h, n and one of q and k at all positions of that side, [B', H', N]."""
    indices = {
        side: call.position(side),
        "h": torch.arange(_rows(value, "h", call.heads, call), device=call.device)[:, None],
        "b": torch.arange(_rows(value, "b", call.batch, call), device=call.device)[:, None, None],
        "n": torch.full((), call.n_keys, device=call.device),
    }
    found = _value(value, indices, call.tensors)
    shape = torch.broadcast_shapes(found.shape, (1, 1, indices[side].shape[0]))
    return found.expand(shape)


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
    return most if all(most % size == 0 for size in sizes) else total


def _value(value: Affine, indices: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    total = torch.full_like(indices["n"], value.constant)
    for term, coefficient in value.terms:
        match term:
            case Index(name):
                part = indices[name]
            case Quotient(inner, divisor):
                part = _value(inner, indices, tensors) // divisor
            case Remainder(inner, divisor):
                part = _value(inner, indices, tensors) % divisor
            case Product(left, right):
                part = _value(left, indices, tensors) * _value(right, indices, tensors)
            case Entry():
                part = _entry(term, indices, tensors)
            case _:
                assert_never(term)
        total = total + coefficient * part
    return total


def _entry(entry: Entry, indices: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    """An entry, 0 outside of the tensor; a dimension of size 1 serves every position."""
    tensor, places = tensors[entry.tensor], []
    inside = torch.ones_like(indices["n"], dtype=torch.bool)
    for size, subscript in zip(tensor.shape, entry.indices, strict=True):
        place = _value(subscript, indices, tensors)
        if subscript == index("h"):  # consecutive heads share one
            place = place * size // max(1, indices["h"].shape[0])
        inside = inside & (place >= 0) & ((place < size) | (size == 1))
        places.append(place.clamp(0, size - 1))
    return torch.where(inside, tensor[tuple(places)].long(), 0)
