"""Tests taken out of a truth table: conditions, and what is left of the gate under each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from attncomp.errors import PatternTooLargeError
from attncomp.ir.ops import Condition, Requirement
from attncomp.ir.passes.lattice import Selections, Table
from attncomp.ir.passes.reach import key_reach
from attncomp.ir.walk import walkable

PATH_LIMIT: Final = 128

_Cube: TypeAlias = tuple[tuple[int, bool], ...]
"""Tests by their numbers, with the outcome that each has to have."""


def cases(table: Table, selections: Selections) -> list[tuple[Condition, Table]]:
    """Conditions of which each pair meets at most one, and tables over selections alone.

    A pair that meets none has a gate of 0. Tests that bound or list the keys of a tile of queries
    come first, one case each way, so that every case has bounds or a list of its own; the others
    are grouped by what they leave of the gate.

    >>> from attncomp.frontend.parser import parse
    >>> from attncomp.ir.build import build
    >>> from attncomp.ir.ops import SparseK, Where
    >>> from attncomp.ir.passes.cells import grid_of
    >>> from attncomp.ir.printer import condition_text
    >>> graph = build(parse("chunk(64) | sparsek(k=8) & where(h % 2 == 0)"))
    >>> ops = [graph.op(node) for node in graph.walk()]
    >>> tests = [op for op in ops if isinstance(op, Where)]
    >>> selections = Selections([op for op in ops if isinstance(op, SparseK)], tests)
    >>> for condition, rest in cases(grid_of(graph, selections).tables[-1][-1], selections):
    ...     print(condition_text(condition), "gives 1" if rest == selections.always else "gives m0")
    q // 64 == k // 64 gives 1
    q // 64 != k // 64 and h % 2 == 0 gives m0
    """
    return list(_cases(table, (), selections))


def _cases(
    table: Table, taken: tuple[Requirement, ...], selections: Selections
) -> Iterator[tuple[Condition, Table]]:
    for index in selections.test_indices(table):
        test = selections.test(index)
        ways = [Requirement(test, holds) for holds in (True, False)]
        if any(key_reach(way) or walkable(way) for way in ways):
            for holds in (True, False):
                rest = _decided(table, index, holds, selections)
                yield from _cases(rest, (*taken, Requirement(test, holds)), selections)
            return
    for rest, cubes in _paths(table, selections).items():
        primes = dict.fromkeys(_widened(cube, table, rest, selections) for cube in cubes)
        condition = tuple(
            (*taken, *(Requirement(selections.test(index), holds) for index, holds in cube))
            for cube in primes
            if not any(set(other) < set(cube) for other in primes)
        )
        yield condition, rest


def _paths(table: Table, selections: Selections) -> dict[Table, list[_Cube]]:
    """What is left of the gate, and the outcomes of tests that lead there, one test at a time.

    Raises PatternTooLargeError rather than fill a mask with comparisons without end.
    """
    found: dict[Table, list[_Cube]] = {}
    left: list[tuple[Table, _Cube]] = [(table, ())]
    count = 0
    while left:
        rest, cube = left.pop()
        index = next(iter(selections.test_indices(rest)), None)
        if index is not None:
            for holds in (False, True):
                left.append((_decided(rest, index, holds, selections), (*cube, (index, holds))))
        elif rest:
            found.setdefault(rest, []).append(cube)
            count += 1
            if count > PATH_LIMIT:
                span = selections.test(cube[0][0]).span
                raise PatternTooLargeError(span, limit=PATH_LIMIT, unit="outcomes of tests")
    return found


def _widened(cube: _Cube, table: Table, rest: Table, selections: Selections) -> _Cube:
    """The cube without the outcomes that do not matter: what is left of the gate stays `rest`."""
    for outcome in cube:
        wider = tuple(other for other in cube if other != outcome)
        left = table
        for index, holds in wider:
            left = _decided(left, index, holds, selections)
        if left == rest:
            cube = wider
    return cube


def _decided(table: Table, index: int, holds: bool, selections: Selections) -> Table:
    return selections.given(table, index) if holds else selections.without(table, index)
