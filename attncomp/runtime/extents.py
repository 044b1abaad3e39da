"""Extents: how far a sweep's conditions let each query and each key reach, read from tensors.

The keys of a query that meet `F(q) + G(k) + c >= 0`, `== 0` or `!= 0` are told by comparing two
numbers, -F(q) - c and G(k): which of them is the first and which the last, and whether all keys in
between are among them; queries of a key likewise. Where one of the numbers is the same for all
positions, that is a comparison, and where G never falls or never rises, as k itself, a search.
Elsewhere the keys are sorted by G, to find equal ones and to count the others, whose first and last
are where the running maxima of G reach the number.

That takes O(N log N) time and O(N) memory, on the tensors' device, and waits for nothing. Tensors
are dropped as soon as they have served.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.ir.affine import (
    Affine,
    Entry,
    Index,
    Product,
    Quotient,
    Remainder,
    Term,
    constant,
    term,
)
from attncomp.ir.ops import Condition, Requirement
from attncomp.runtime.positions import Call as Call
from attncomp.runtime.positions import Side, dtype_of, evaluated
from attncomp.runtime.ranking import row_cummax

_Relation: TypeAlias = Literal["==", "!=", ">=", "<="]


class Reached(NamedTuple):
    """Positions [lower, upper) of the other side for each position, int32.

    solid: whether all positions in between are reached. Where none is, lower is their number and
    upper 0. All three are [B', H', N], with 1 for each size that makes no difference.
    """

    lower: Tensor
    upper: Tensor
    solid: Tensor


@dataclass(frozen=True)
class Comparison:
    """A test as `ranked relation wanted`: a value of the sought, and one of the given positions.

    slope: 1 if `ranked` never falls from a position to the next, else 0.
    """

    ranked: Affine
    relation: _Relation
    wanted: Affine
    slope: int
    dtype: torch.dtype

    @staticmethod
    def of(part: Requirement, sought: Side) -> Comparison:
        """That of a requirement."""
        value, relation = _against_zero(part)
        slope = _slope(value.part({sought}), sought)
        if slope < 0:
            value, relation = -value, "<=" if relation == ">=" else relation
        ranked = value.part({sought})
        wanted = ranked - value
        moved = constant(wanted.constant)
        if (wanted - moved).reach > ranked.reach:  # with the smaller numbers fewer bits hold it
            ranked, wanted = ranked - moved, wanted - moved
        return Comparison(ranked, relation, wanted, abs(slope), dtype_of(ranked, wanted))


def _against_zero(part: Requirement) -> tuple[Affine, _Relation]:
    """A requirement as a value and what it is to 0."""
    value = part.test.value
    if part.test.relation == "==":
        return value, "==" if part.holds else "!="
    return (value if part.holds else -value - constant(1)), ">="  # value < 0 is -value - 1 >= 0


@dataclass(frozen=True)
class Extent:
    """A condition made ready, once a plan, to look for keys, and for queries.

    symmetric: whether each requirement stays what it is when query and key change places.
    """

    keys: tuple[tuple[Comparison, ...], ...]
    queries: tuple[tuple[Comparison, ...], ...]
    symmetric: bool

    @staticmethod
    def of(condition: Condition) -> Extent:
        """That of a condition with an alternative, each of which has a requirement."""

        def sought(side: Side) -> tuple[tuple[Comparison, ...], ...]:
            return tuple(tuple(Comparison.of(part, side) for part in parts) for parts in condition)

        parts = (part for parts in condition for part in parts)
        return Extent(sought("k"), sought("q"), all(map(_symmetric, parts)))


def extent_tables(extent: Extent, call: Call) -> list[Tensor]:
    """The keys that each query may reach, and the queries that may reach each key, as indices.

    Gives [B', H', 2, Nq] and [B', H', 2, Nk] int32: `Reached.lower` and `Reached.upper`, of the
    latter the bitwise complement, a negative number, where it is not solid. B' is 1 or B, H'
    divides Hk. Of a symmetric relation of as many queries as keys both are one tensor.
    """
    keys = _table(extent.keys, "k", "q", call)
    if extent.symmetric and call.n_queries == call.n_keys:
        return [keys, keys]
    return [keys, _table(extent.queries, "q", "k", call)]


def _symmetric(part: Requirement) -> bool:
    value, swapped = part.test.value, part.test.value.replace({"q": "k", "k": "q"})
    return swapped == value or (part.test.relation == "==" and swapped == -value)


def _table(extent: Sequence[Sequence[Comparison]], sought: Side, given: Side, call: Call) -> Tensor:
    """`Reached` of the sought positions, as one tensor with a row for each given one."""
    # Generators: one alternative, and one test of it, has its tensors at a time.
    met = (_met(parts, sought, given, call) for parts in extent)
    lower, upper, solid = _of_kv_heads(functools.reduce(_either, met), call)
    upper = torch.where(solid, upper, ~upper)
    rows = torch.broadcast_shapes(lower.shape, upper.shape)[:2]
    return torch.stack([end.expand(*rows, call.count(given)) for end in (lower, upper)], 2)


def _met(parts: Sequence[Comparison], sought: Side, given: Side, call: Call) -> Reached:
    """What meets all of some tests."""

    def both(one: Reached, other: Reached) -> Reached:
        lower, upper = torch.maximum(one.lower, other.lower), torch.minimum(one.upper, other.upper)
        return _emptied(lower, upper, one.solid & other.solid, call.count(sought))

    return functools.reduce(both, (_reached(part, sought, given, call) for part in parts))


def _either(one: Reached, other: Reached) -> Reached:
    """What any of two alternatives reaches."""
    lower, upper = torch.minimum(one.lower, other.lower), torch.maximum(one.upper, other.upper)
    return Reached(lower, upper, torch.zeros_like(one.solid[:1, :1, :1]))


def _emptied(lower: Tensor, upper: Tensor, solid: Tensor, count: int) -> Reached:
    """The range, in one form where it is empty."""
    empty = lower >= upper
    return Reached(lower.masked_fill(empty, count), upper.masked_fill(empty, 0), solid | empty)


def _of_kv_heads(found: Reached, call: Call) -> Reached:
    """The same for as many heads as KV heads, or a divisor of these, for all heads of each."""
    rows, heads, _ = torch.broadcast_shapes(*(part.shape for part in found))
    if call.kv_heads % heads == 0:
        return found
    a_head, together = call.heads // heads, call.heads // call.kv_heads
    lower, upper, solid = (
        part.expand(rows, heads, -1).repeat_interleave(a_head, 1).unflatten(1, (-1, together))
        for part in found
    )
    ends = lower.amin(2), upper.amax(2)
    alike = (ends[0] == lower.amax(2)) & (ends[1] == upper.amin(2))
    return Reached(*ends, alike & solid.all(2))


def _reached(test: Comparison, sought: Side, given: Side, call: Call) -> Reached:
    """For each given position the sought ones that meet a test with it."""
    sides = _Sides(test, sought, given, call)
    if not test.ranked.terms:
        return _all_or_none(sides)
    if given not in test.wanted.indices:
        return _one_for_all(sides)
    if test.slope:
        return _in_order(sides)
    if test.relation == ">=":
        return _at_least(sides)
    return _equal(sides) if test.relation == "==" else _different(sides)


def _slope(value: Affine, side: Side) -> int:
    """1 if a value never falls from a position of a side to the next, -1 if never rises, else 0."""
    slopes = {_term_slope(t, side) * c for t, c in value.terms if side in term(t).indices}
    signs = {(slope > 0) - (slope < 0) for slope in slopes}
    return signs.pop() if len(signs) == 1 else 0


def _term_slope(t: Term, side: Side) -> int:
    match t:
        case Index():
            return 1
        case Quotient(inner):
            return _slope(inner, side)
        case Remainder() | Product() | Entry():
            return 0
        case _:
            assert_never(t)


@dataclass(frozen=True)
class _Sides:
    """A test with what it compares."""

    test: Comparison
    sought: Side
    given: Side
    call: Call

    @property
    def count(self) -> int:
        return self.call.count(self.sought)

    def ranks(self) -> Tensor:
        """[B', H', N] of the sought positions; N is 1 for one value for all."""
        return evaluated(self.test.ranked, self.sought, self.call, self.test.dtype)

    def wanted(self) -> Tensor:
        """[B', H', N] of the given positions, likewise."""
        return evaluated(self.test.wanted, self.given, self.call, self.test.dtype)

    def holds(self) -> Tensor:
        """Whether values meet the test, where there is one for all positions of a side."""
        return _holds(self.ranks(), self.test.relation, self.wanted())


def _all_or_none(sides: _Sides) -> Reached:
    """For one value of all sought positions."""
    met, count = sides.holds(), sides.count
    upper = met.int() * count
    return Reached(count - upper, upper, met.new_ones((1, 1, 1)))


def _one_for_all(sides: _Sides) -> Reached:
    """For one value of all given positions."""
    met = sides.holds()
    lower, upper = _ends(met, sides.count)
    return Reached(lower, upper, _filled(lower, upper, met.sum(-1, keepdim=True)))


def _holds(ranks: Tensor, relation: _Relation, wanted: Tensor) -> Tensor:
    match relation:
        case "==":
            return ranks == wanted
        case "!=":
            return ranks != wanted
        case ">=":
            return ranks >= wanted
        case "<=":
            return ranks <= wanted
        case _:
            assert_never(relation)


def _ends(met: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """First and last + 1 of what is met in each row [..., N], as [..., 1] int32."""
    place = torch.arange(count, dtype=torch.int32, device=met.device)
    lower = torch.where(met, place, count).amin(-1, keepdim=True)
    return lower, torch.where(met, place + 1, 0).amax(-1, keepdim=True)


def _filled(lower: Tensor, upper: Tensor, met: Tensor) -> Tensor:
    """Whether as many positions are met as there are in a range."""
    return met == (upper - lower).clamp(min=0)


def _in_order(sides: _Sides) -> Reached:
    """For values of the sought positions that never fall."""
    ranks, wanted, count = sides.ranks(), sides.wanted(), sides.count
    solid = torch.ones((1, 1, 1), dtype=torch.bool, device=ranks.device)
    relation = sides.test.relation
    if relation == "<=":
        end = _search(ranks, wanted, right=True)
        return _emptied(torch.zeros_like(end[:1, :1, :1]), end, solid, count)
    begin = _search(ranks, wanted)
    if relation == ">=":
        return _emptied(begin, torch.full_like(begin[:1, :1, :1], count), solid, count)
    end = _search(ranks, wanted, right=True)
    if relation == "==":
        return _emptied(begin, end, solid, count)
    lower = torch.where(begin == 0, end, 0)
    upper = torch.where(end == count, begin, count)
    return Reached(lower, upper, _filled(lower, upper, count - (end - begin)))


def _at_least(sides: _Sides) -> Reached:
    """Where `ranked >= wanted`: the first is where the running maximum gets there."""
    ranks, wanted, count = sides.ranks(), sides.wanted(), sides.count
    met = count - _search(_sorted(ranks), wanted)
    lower = _search(row_cummax(ranks), wanted)
    upper = count - _search(row_cummax(ranks.flip(-1)), wanted)
    return Reached(lower, upper, _filled(lower, upper, met))


def _different(sides: _Sides) -> Reached:
    """Where `ranked != wanted`: at either end, or at the nearest rank that differs from it."""
    ranks, wanted, count = sides.ranks(), sides.wanted(), sides.count
    first, last = ranks[..., :1], ranks[..., -1:]
    lower = torch.where(wanted == first, _ends(ranks != first, count)[0], 0)
    upper = torch.where(wanted == last, _ends(ranks != last, count)[1], count)
    ranks = _sorted(ranks)
    met = count - (_search(ranks, wanted, right=True) - _search(ranks, wanted))
    return Reached(lower, upper, _filled(lower, upper, met))


def _equal(sides: _Sides) -> Reached:
    """Where `ranked == wanted`: side by side in sorted order."""
    ranks, places = sides.ranks().sort(dim=-1, stable=True)
    places, wanted, last = places.int(), sides.wanted(), sides.count - 1
    begin, end = _search(ranks, wanted), _search(ranks, wanted, right=True)
    del ranks, wanted
    places = places.expand(*begin.shape[:2], -1)
    lower = places.gather(-1, begin.clamp(max=last).long())
    upper = places.gather(-1, (end - 1).clamp(min=0).long()) + 1
    met = end - begin
    return _emptied(lower, upper.masked_fill(met == 0, 0), _filled(lower, upper, met), last + 1)


def _sorted(ranks: Tensor) -> Tensor:
    return ranks.sort(dim=-1).values


def _search(ranks: Tensor, wanted: Tensor, *, right: bool = False) -> Tensor:
    """How many of ranks [B', H', N], ascending, are less than each number; right: or equal."""
    if ranks.shape[:2] == (1, 1):
        ranks = ranks.reshape(-1)  # serves all rows
    else:
        rows = torch.broadcast_shapes(ranks.shape[:2], wanted.shape[:2])
        ranks, wanted = ranks.expand(*rows, -1).contiguous(), wanted.expand(*rows, -1)
    return torch.searchsorted(ranks, wanted.contiguous(), out_int32=True, right=right)
