"""Which keys a test lets a tile of queries reach, and which queries a tile of keys.

A test `F(q) + G(k) + c >= 0` with monotone F and G is an inequality for k at every q, and its
extremes over a tile are at the tile's ends: with the end at which F is larger it holds the keys
that any query of the tile may attend, with the other one the keys that all of them attend. A test
`== 0` is the two inequalities together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from attncomp.ir.affine import Affine, Index, IndexName, Quotient, constant
from attncomp.ir.ops import Range, Requirement

_LIMIT: Final = 1 << 31  # bounds are 32-bit integers


@dataclass(frozen=True, slots=True)
class Reach:
    """Positions that any member of a tile may need, and positions that all of them do."""

    any: Range
    all: Range


def key_reach(requirement: Requirement) -> Reach | None:
    """For a tile of queries, the keys of the pairs that meet a requirement; None if unknown."""
    return _reach(requirement, "q", "k")


def query_reach(requirement: Requirement) -> Reach | None:
    """For a tile of keys, the queries of the pairs that meet a requirement; None if unknown."""
    return _reach(requirement, "k", "q")


def _reach(requirement: Requirement, given: IndexName, sought: IndexName) -> Reach | None:
    test, value = requirement.test, requirement.test.value
    if test.relation == "==" and not requirement.holds:
        return None
    if value.entries or not value.indices <= {"q", "k", "n"}:
        return None
    if test.relation == "==":
        both = [_one_sided(side, given, sought) for side in (value, -value)]
        if None in both:
            return None
        reaches = [reach for reach in both if reach is not None]
    else:
        side = value if requirement.holds else -value - constant(1)
        reach = _one_sided(side, given, sought)
        if reach is None:
            return None
        reaches = [reach]
    return Reach(meet([r.any for r in reaches]), meet([r.all for r in reaches]))


def meet(ranges: Iterable[Range]) -> Range:
    """What is in all of the ranges."""
    ranges = list(ranges)
    return Range(
        lower=tuple(dict.fromkeys(end for r in ranges for end in r.lower)),
        upper=tuple(dict.fromkeys(end for r in ranges for end in r.upper)),
    )


def _one_sided(value: Affine, given: IndexName, sought: IndexName) -> Reach | None:
    """The positions for which `value >= 0`."""
    of_sought, of_given = value.part({sought}), value.part({given})
    if of_sought.part({given}).terms or not of_sought.terms:
        return None  # a term of both, or nothing to solve for
    rest = value - of_sought
    direction = _direction(of_given)
    if direction is None:
        return None
    largest: IndexName = "last" if direction > 0 else "first"
    smallest: IndexName = "first" if direction > 0 else "last"
    ends = [
        _solved(of_sought, rest.replace({given: end, "n": "n_keys"}), sought)
        for end in (largest, smallest)
    ]
    hull, full = ends
    return None if hull is None or full is None else Reach(hull, full)


def _direction(value: Affine) -> int | None:
    """1 for an expression that never falls as its indices grow, -1 for one that never rises.

    0 for a constant, None for one that may do both.
    """
    signs: set[int] = set()
    for term, coefficient in value.terms:
        match term:
            case Index():
                inner: int | None = 1
            case Quotient(part):
                inner = _direction(part)
            case _:
                inner = None
        if inner is None:
            return None
        signs.add(inner if coefficient > 0 else -inner)
    signs.discard(0)
    return None if len(signs) > 1 else next(iter(signs), 0)


def _solved(value: Affine, rest: Affine, sought: IndexName) -> Range | None:
    """The values of the sought index for which `value + rest >= 0`."""
    rising = _direction(value) == 1
    # rising: value > -rest - 1; falling: -value <= rest
    bound = _last_below(value if rising else -value, -rest - constant(1) if rising else rest)
    if bound is None or bound.reach >= _LIMIT:
        return None
    end = bound + constant(1)
    return Range(lower=(end,), upper=()) if rising else Range(lower=(), upper=(end,))


def _last_below(value: Affine, limit: Affine) -> Affine | None:
    """The largest index x for which `value(x) <= limit`, for a rising value of one term."""
    if len(value.terms) != 1 or value.terms[0][1] < 0:
        return None
    term, coefficient = value.terms[0]
    limit = (limit - constant(value.constant)).quotient(coefficient)
    match term:
        case Index():
            return limit
        case Quotient(part, divisor):
            # part // divisor <= limit where part < (limit + 1) * divisor
            return _last_below(part, (limit + constant(1)).scaled(divisor) - constant(1))
        case _:
            return None
