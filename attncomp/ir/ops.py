"""Ops of the pattern IR.

    gate  :=  Box                       crisp: 1 in a band of distances and a range of keys, else 0
           |  Where                     crisp: 1 where a test of the pair's indices holds, else 0
           |  SparseK                   soft: the gate of a differentiable top-k selection
           |  Union(gate, ...)          max over the operands
           |  Intersection(gate, ...)   min over the operands
           |  Complement(gate)          1 - gate, for crisp gates alone
    sweep :=  Sweep(gate, [source], absent ...)     one pass over keys: a domain, a mask and a gate
    root  :=  gate  |  Partition(sweep, ...)        sweeps that visit each attended pair once

Operands are edges of the graph (`attncomp.ir.graph`), not fields of the op. The distance of a pair
is query position minus key position; all intervals are half-open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from attncomp.errors import Span
from attncomp.frontend.catalog import GATE_MODES as GATE_MODES
from attncomp.frontend.catalog import GateMode as GateMode
from attncomp.ir.affine import Affine, Entry, Passing, constant, index, term
from attncomp.ir.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Interval:
    """The integers `lower <= x < upper`; None stands for no limit on that side."""

    lower: int | None = None
    upper: int | None = None

    def __contains__(self, value: int) -> bool:
        return (self.lower is None or value >= self.lower) and (
            self.upper is None or value < self.upper
        )

    @property
    def empty(self) -> bool:
        return self.lower is not None and self.upper is not None and self.lower >= self.upper

    def intersect(self, other: Interval) -> Interval:
        lowers = [x for x in (self.lower, other.lower) if x is not None]
        uppers = [x for x in (self.upper, other.upper) if x is not None]
        return Interval(max(lowers, default=None), min(uppers, default=None))

    def covers(self, other: Interval) -> bool:
        """Whether every integer of `other` is in this interval."""
        return other.empty or self.intersect(other) == other

    def __str__(self) -> str:
        lower = "-inf" if self.lower is None else str(self.lower)
        upper = "inf" if self.upper is None else str(self.upper)
        return f"[{lower}, {upper})"


ALL = Interval()

TestRelation: TypeAlias = Literal["==", ">="]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Pairs with `q - k` in `distance`, `k` in `keys`: full, causal, window, first, their meets.

    Keys are positions 0 <= k < n_keys, so a `keys` interval with lower limit 0 or None is the same.
    """

    distance: Interval = ALL
    keys: Interval = ALL
    span: Span | None = field(default=None, compare=False)

    @property
    def empty(self) -> bool:
        upper = self.keys.upper
        return self.distance.empty or self.keys.empty or (upper is not None and upper <= 0)

    def intersect(self, other: Box) -> Box:
        return Box(
            distance=self.distance.intersect(other.distance),
            keys=self.keys.intersect(other.keys),
            span=self.span,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Pairs whose indices q, k, h, b, n give `value` 0 (relation "==") or at least 0 (">=").

    Of `reaches`, pairs whose logit is at least a threshold.

    q and k are positions, h is the query head, b the row of the batch and n the number of keys.
    """

    relation: TestRelation
    value: Affine
    span: Span | None = field(default=None, compare=False)

    def text(self, holds: bool = True) -> str:
        """The test, or its opposite, with positive terms on both sides: `q // 64 == k // 64`."""
        if self.passing is not None:
            return str(self.passing) if holds else f"not {self.passing}"
        relation = {"==": ("!=", "=="), ">=": ("<", ">=")}[self.relation][holds]
        left, right = self.sides
        return f"{left} {relation} {right}"

    @property
    def passing(self) -> Entry | None:
        """The threshold of the test that a pair's logit reaches one; None for any other test."""
        entry = next(iter(self.value.entries), None)
        return entry if entry is not None and isinstance(entry.table, Passing) else None

    @property
    def sides(self) -> tuple[Affine, Affine]:
        """Two expressions without negative terms whose difference is `value`."""
        terms, constant = self.value.terms, self.value.constant
        left = tuple((term, c) for term, c in terms if c > 0)
        right = tuple((term, -c) for term, c in terms if c < 0)
        return Affine(left, max(constant, 0) if right else 0), Affine(
            right, max(-constant, 0) if right else -constant
        )


def reaches(theta: str, span: Span | None = None) -> Where:
    """The pairs whose logit is at least theta[h], a tensor [Hq] of thresholds."""
    value = term(Entry(theta, (index("h"),), Passing())) - constant(1)
    return Where(relation="==", value=value, span=span)


@dataclass(frozen=True, slots=True)
class Requirement:
    """That a test holds, or that it does not."""

    test: Where
    holds: bool

    def __str__(self) -> str:
        return self.test.text(self.holds)


Condition: TypeAlias = tuple[tuple[Requirement, ...], ...]
"""What must hold of a pair: one of several lists of requirements, all of it."""

ALWAYS: Final[Condition] = ((),)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseK:
    """The k highest-scored keys of the prefix `k + lag <= q` (arXiv 2406.16747), gated softly.

    scores names the run-time tensor [B, G, Nk] that ranks the keys. The gate is 0 wherever
    `q - k < lag`.
    """

    k: int
    lag: int = 0
    gate: GateMode = "key_value"
    scores: str = "scores"
    span: Span | None = field(default=None, compare=False)

    @property
    def support(self) -> Interval:
        """Distances at which a pair can be selected."""
        return Interval(self.lag, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Union:
    """Fuzzy union: the largest gate of the operands."""

    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intersection:
    """Fuzzy intersection: the smallest gate of the operands."""

    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Complement:
    """One minus the gate of the one operand, which is crisp (or a SparseK with a hard gate)."""

    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A half-open range `[max(lower), min(upper))` of positions, empty where lower >= upper.

    The ends are expressions of first and last, the inclusive ends of a tile, and n_keys.
    """

    lower: tuple[Affine, ...]
    upper: tuple[Affine, ...]

    def __str__(self) -> str:
        lower, upper = (", ".join(map(str, terms)) for terms in (self.lower, self.upper))
        lower = f"max({lower})" if len(self.lower) > 1 else lower
        upper = f"min({upper})" if len(self.upper) > 1 else upper
        return f"[{lower}, {upper})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Where a contiguous sweep goes, as functions of a tile's first and last position.

    keys / full_keys: for a tile of query positions, the keys to visit and those among them that
    every query of the tile attends. queries / full_queries: for a tile of keys, the query positions
    likewise; key tiles that reach out of `Box.keys` are never full. extent: requirements that limit
    all of these ranges further at the call, in alternatives, by tensors that it is given; () for
    none. The full ranges are None where which pairs are attended is known neither from a tile's
    ends nor from its extent.
    """

    keys: Range
    full_keys: Range | None
    queries: Range
    full_queries: Range | None
    extent: Condition = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One pass over keys: pairs in one of `boxes`, under `condition`, that no `absent` one selects.

    Operands: the gate (a constant-1 Box for crisp sweeps), then, if `gathered`, the SparseK whose
    index list is walked, then the SparseK selections that must not have selected the pair. Pairs of
    a gathered sweep are selected by the source. `boxes` are disjoint; a contiguous sweep has one.
    `bounds`, set by the bound pass, has one entry a box of a contiguous sweep. `step`, set by the
    stride pass: the distances of all pairs are multiples of it, and the positions of one remainder
    modulo it are visited by themselves.
    """

    boxes: tuple[Box, ...]
    gathered: bool
    condition: Condition = ALWAYS
    bounds: Bounds | None = None
    step: int = 1
    span: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The whole pattern as sweeps that visit each attended pair exactly once, in order.

    `schedule` is set by the schedule pass.
    """

    schedule: Schedule | None = None
    span: Span | None = field(default=None, compare=False)


Op: TypeAlias = "Box | Where | SparseK | Union | Intersection | Complement | Sweep | Partition"
