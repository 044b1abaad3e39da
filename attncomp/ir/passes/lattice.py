"""Gates over selections as truth tables.

Where a pair stands inside or outside of all boxes, its gate is an expression over selections and
tests by max, min and, for hard gates and tests, complement. Two such expressions over [0, 1]
without complements are equal everywhere if they are equal for gates 0 and 1, so a truth table is
a canonical form of either kind. Selections that share lag and scores are nested (gates grow with
k): of a chain of n such selections only n + 1 combinations can occur, and the table has no other.
A test is a chain by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from attncomp.errors import PatternTooLargeError
from attncomp.ir.ops import SparseK, Where

TABLE_LIMIT: Final = 4096

Table: TypeAlias = int
"""Bit s is the gate in state s; a state says which selections have the pair, which tests hold."""


class Selections:
    """The distinct selections and tests of a pattern, in canonical order, and tables over them.

    Selections are numbered from 0 on, tests after them. A state is a number of mixed radix, one
    digit a chain: digit r says that the r selections of largest k have selected the pair and the
    rest of the chain have not.

    >>> a, b = SparseK(k=8), SparseK(k=4, lag=2)
    >>> tables = Selections([a, b])
    >>> either = tables.selected(0) | tables.selected(1)
    >>> tables.terms(either), tables.terms(tables.without(either, 0))
    (((0,), (1,)), ((1,),))
    """

    def __init__(self, ops: Iterable[SparseK], tests: Iterable[Where] = ()) -> None:
        self.ops = sorted(set(ops), key=lambda op: (op.lag, op.scores, -op.k))
        self.tests = sorted(set(tests), key=Where.text)
        chains: dict[tuple[int, str], list[int]] = {}
        for index, op in enumerate(self.ops):
            chains.setdefault((op.lag, op.scores), []).append(index)
        parts: list[SparseK | Where] = [*self.ops, *self.tests]
        self._chains = [*chains.values(), *([i] for i in range(len(self.ops), len(parts)))]
        self._strides: list[int] = []
        self.size = 1
        for chain in self._chains:
            self._strides.append(self.size)
            self.size *= len(chain) + 1
            if self.size > TABLE_LIMIT:
                raise PatternTooLargeError(
                    parts[chain[-1]].span,
                    limit=TABLE_LIMIT,
                    unit="combinations of selections and tests",
                )
        # Of each selection, its chain and its place in it.
        self._places = {
            index: (number, place)
            for number, chain in enumerate(self._chains)
            for place, index in enumerate(chain)
        }
        self.always: Table = (1 << self.size) - 1
        self._digits: dict[tuple[int, int], Table] = {}

    def _digit(self, chain: int, digit: int) -> Table:
        """The states in which a chain has the given digit."""
        if (chain, digit) not in self._digits:
            stride, radix = self._strides[chain], len(self._chains[chain]) + 1
            states = (s for s in range(self.size) if s // stride % radix == digit)
            self._digits[chain, digit] = sum(1 << s for s in states)
        return self._digits[chain, digit]

    def test_indices(self, table: Table) -> list[int]:
        """The tests that the table depends on, by number."""
        first = len(self.ops)
        return [i for i in range(first, first + len(self.tests)) if self.depends(table, i)]

    def test(self, index: int) -> Where:
        """The test of that number."""
        return self.tests[index - len(self.ops)]

    def selected(self, index: int) -> Table:
        """The gate of one selection, or test."""
        chain, place = self._places[index]
        digits = range(place + 1, len(self._chains[chain]) + 1)
        return sum(self._digit(chain, digit) for digit in digits)

    def without(self, table: Table, index: int) -> Table:
        """The table where the selection (and so any smaller one) has not selected the pair."""
        chain, place = self._places[index]
        edge = table & self._digit(chain, place)
        kept = table & ~self.selected(index)
        for step in range(1, len(self._chains[chain]) - place + 1):
            kept |= edge << step * self._strides[chain]
        return kept

    def given(self, table: Table, index: int) -> Table:
        """The table where the selection (and so any larger one) has selected the pair."""
        chain, place = self._places[index]
        edge = table & self._digit(chain, place + 1)
        kept = table & self.selected(index)
        for step in range(1, place + 2):
            kept |= edge >> step * self._strides[chain]
        return kept

    def _steps(self, table: Table, index: int) -> tuple[Table, Table]:
        """The table just below and just above the selection's step, aligned."""
        chain, place = self._places[index]
        below = (table & self._digit(chain, place)) << self._strides[chain]
        return below, table & self._digit(chain, place + 1)

    def depends(self, table: Table, index: int) -> bool:
        below, above = self._steps(table, index)
        return below != above

    def falls(self, table: Table, index: int) -> bool:
        """Whether selecting the pair may turn the gate from 1 to 0."""
        below, above = self._steps(table, index)
        return below & ~above != 0

    def terms(self, table: Table) -> tuple[tuple[int, ...], ...]:
        """The shortest max of mins of a table that never falls: a selection's index each."""
        found = []
        for state in range(self.size):
            if not table >> state & 1:
                continue
            digits = [
                state // stride % (len(chain) + 1)
                for chain, stride in zip(self._chains, self._strides, strict=True)
            ]
            lower = (
                state - stride
                for digit, stride in zip(digits, self._strides, strict=True)
                if digit > 0
            )
            if not any(table >> other & 1 for other in lower):
                term = (
                    chain[digit - 1]
                    for chain, digit in zip(self._chains, digits, strict=True)
                    if digit > 0
                )
                found.append(tuple(sorted(term)))
        return tuple(sorted(found))
