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

from attncomp.ir.affine import Affine, Entry, Index, IndexName, constant, index
from attncomp.ir.ops import Condition, Requirement
from attncomp.runtime.values import value_of


class Reached(NamedTuple):
    """Positions [lower, upper) of the other side for each position, [B', H', N] int32.

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
    if not torch.compiler.is_compiling() and call.n_queries == call.n_keys and _is_mutual(extent):
        return [_table(extent, "k", "q", call)] * 2
    sides: tuple[tuple[Literal["q", "k"], Literal["q", "k"]], ...] = (("k", "q"), ("q", "k"))
    return [_table(extent, sought, given, call) for sought, given in sides]


def _table(
    extent: Condition, sought: Literal["q", "k"], given: Literal["q", "k"], call: Call
) -> Tensor:
    found = _joined([_met(parts, sought, given, call) for parts in extent])
    lower, upper, solid = _of_kv_heads(found, call)
    return torch.stack([lower, torch.where(solid, upper, ~upper)], 2)


@functools.lru_cache(maxsize=1024)
def _is_mutual(extent: Condition) -> bool:
    """Whether a query reaches a key exactly if the query in the key's place reaches that one's."""
    return all(
        part.test.relation == "=="
        and part.test.value.replace({"q": "k", "k": "q"}) in (part.test.value, -part.test.value)
        for parts in extent
        for part in parts
    )


def _met(
    parts: Sequence[Requirement], sought: Literal["q", "k"], given: Literal["q", "k"], call: Call
) -> Reached:
    """What meets all of some requirements."""
    count = call.n_keys if sought == "k" else call.n_queries

    def both(one: Reached, other: Reached) -> Reached:
        lower, upper = torch.maximum(one.lower, other.lower), torch.minimum(one.upper, other.upper)
        return _emptied(lower, upper, one.solid & other.solid, count)

    return functools.reduce(both, [_reached(part, sought, given, call) for part in parts])


def _joined(alternatives: Sequence[Reached]) -> Reached:
    """What any of some alternatives reaches."""
    if len(alternatives) == 1:
        return alternatives[0]
    lower = functools.reduce(torch.minimum, [found.lower for found in alternatives])
    upper = functools.reduce(torch.maximum, [found.upper for found in alternatives])
    return Reached(lower, upper, torch.zeros_like(lower, dtype=torch.bool))


def _emptied(lower: Tensor, upper: Tensor, solid: Tensor, count: int) -> Reached:
    """The range, in one form where it is empty."""
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
    places, begin, end = _ranked(part, sought, given, call)
    count = places.shape[-1]
    if part.test.relation == "==" and part.holds:
        lower = _at(places, begin.clamp(max=count - 1))
        upper = _at(places, (end - 1).clamp(min=0)) + 1
        met = end - begin
    else:
        lower, upper = (_at(ends, count - end) for ends in _ends_before(places.flip(-1)))
        met = count - end
        if part.test.relation == "==":  # those before the equal ones as well as those behind
            first, last = (_at(ends, begin) for ends in _ends_before(places))
            lower, upper = torch.minimum(lower, first), torch.maximum(upper, last)
            met = met + begin
    upper = upper.masked_fill(met == 0, 0)
    return _emptied(lower, upper, met == upper - lower, count)


def _ranked(
    part: Requirement, sought: Literal["q", "k"], given: Literal["q", "k"], call: Call
) -> tuple[Tensor, Tensor, Tensor]:
    """The sought places by rank, and where the ranks equal to each given position's begin and end.

    Of a test `>= 0` both are where those begin that meet it.
    """
    compiling = torch.compiler.is_compiling()  # which cannot look into the cache
    ranked, wanted_value, narrow = (_sides if compiling else _known_sides)(part, sought)
    equality = part.test.relation == "=="
    ranks = _evaluated(ranked, sought, call, narrow=narrow)
    wanted = _evaluated(wanted_value, given, call, narrow=narrow)
    batch, heads = (
        one if other == 1 else other
        for one, other in zip(ranks.shape[:2], wanted.shape[:2], strict=True)
    )
    ranks, places = ranks.sort(dim=-1, stable=True)
    ranks, places, wanted = (
        t.expand(batch, heads, -1).contiguous() for t in (ranks, places, wanted)
    )
    begin = torch.searchsorted(ranks, wanted, out_int32=True)
    end = torch.searchsorted(ranks, wanted, out_int32=True, right=True) if equality else begin
    return places.int(), begin, end


def _sides(part: Requirement, sought: Literal["q", "k"]) -> tuple[Affine, Affine, bool]:
    """What sought positions are ranked by, what given ones ask for, and if both fit 32 bits."""
    value = part.test.value
    if part.test.relation == "==":  # of either sign, of which entries themselves have +
        if any(factor < 0 for _, factor in value.part({sought}).terms[:1]):
            value = -value
    elif not part.holds:
        value = -value - constant(1)
    ranked = value.part({sought})
    wanted = ranked - value
    return ranked, wanted, max(ranked.reach, wanted.reach) <= torch.iinfo(torch.int32).max


_known_sides = functools.lru_cache(maxsize=1024)(_sides)


def _at(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor.gather(-1, index.long())


def _ends_before(places: Tensor) -> tuple[Tensor, Tensor]:
    """First and last + 1 of the places [..., N] before each of N + 1 ranks."""
    nowhere = (1, 0)
    first = torch.nn.functional.pad(places.cummin(-1).values, nowhere, value=places.shape[-1])
    return first, torch.nn.functional.pad(places.cummax(-1).values + 1, nowhere)


def _evaluated(value: Affine, side: Literal["q", "k"], call: Call, *, narrow: bool) -> Tensor:
    """An expression of b, h, n and one of q and k at all positions of that side, [B', H', N].

    int32 if narrow, else int64.
    """
    if not torch.compiler.is_compiling():
        rows = _rows_given(value, side, call)
        if rows is not None:
            return rows.int() if narrow else rows.long()
    indices: dict[IndexName, Tensor] = {
        side: call.position(side),
        "h": torch.arange(_rows(value, "h", call.heads, call), device=call.device)[:, None],
        "b": torch.arange(_rows(value, "b", call.batch, call), device=call.device)[:, None, None],
        "n": torch.full((), call.n_keys, device=call.device),
    }
    found = value_of(value, indices, lambda entry: _entry(entry, indices, call.tensors))
    shape = torch.broadcast_shapes(found.shape, (1, 1, indices[side].shape[0]))
    return (found.int() if narrow else found).expand(shape)


def _rows_given(value: Affine, side: Literal["q", "k"], call: Call) -> Tensor | None:
    """The positions of a side, or a tensor's entries for them, [B', H', N]; None for all else.

    What conditions ask for mostly, and what takes no operator to work out.
    """
    simple = _simple(value)
    if simple is None:
        return None
    name, subscripts = simple
    if name is None:
        return call.position(side)[None, None] if subscripts == (side,) else None
    tensor = call.tensors[name]
    first = 0 if side == "k" else call.n_keys - call.n_queries
    if subscripts not in ((side,), ("b", side)) or tensor.shape[-1] != call.n_keys or first < 0:
        return None
    rows = tensor if first == 0 else tensor[..., first:]
    return rows[None, None] if tensor.ndim == 1 else rows[:, None]


@functools.lru_cache(maxsize=1024)
def _simple(value: Affine) -> tuple[str | None, tuple[IndexName, ...]] | None:
    """The tensor and the subscripts of an expression that is one entry, None and the index of one.

    None for any other expression.
    """
    if value.constant or len(value.terms) != 1 or value.terms[0][1] != 1:
        return None
    match value.terms[0][0]:
        case Index(name):
            return None, (name,)
        case Entry(tensor, indices, None):
            names = [name for position in indices for name in position.indices]
            exact = tuple(map(index, names)) == indices
            return (tensor, tuple(names)) if exact else None
        case _:
            return None


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
    return most if total % most == 0 and all(most % size == 0 for size in sizes) else total


def _entry(
    entry: Entry, indices: Mapping[IndexName, Tensor], tensors: Mapping[str, Tensor]
) -> Tensor:
    """An entry, 0 outside of the tensor; a dimension of size 1 serves every position."""
    tensor, places = tensors[entry.tensor], []
    inside = torch.ones_like(indices["n"], dtype=torch.bool)
    for size, subscript in zip(tensor.shape, entry.indices, strict=True):
        place = value_of(subscript, indices)
        heads = indices["h"].shape[0]
        if subscript == index("h") and size < heads:  # consecutive heads share one
            place = place * size // heads
        inside = inside & (place >= 0) & ((place < size) | (size == 1))
        places.append(place.clamp(0, size - 1))
    return torch.where(inside, tensor[tuple(places)].long(), 0)
