"""Tests taken out of a truth table: conditions, and what is left of the gate under each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from attncomp.ir.ops import Condition, Requirement
from attncomp.ir.passes.lattice import Selections, Table
from attncomp.ir.passes.reach import key_reach

_Case = tuple[bool | None, ...]
"""What each of some tests has to give; None where it does not matter."""


def cases(table: Table, selections: Selections) -> list[tuple[Condition, Table]]:
    """Conditions of which each pair meets at most one, and tables over selections alone.

    A pair that meets none has a gate of 0. Tests that bound the keys of a tile of queries come
    first, one case each way, so that every case has bounds of its own; the others are grouped by
    what they leave of the gate.

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
    indices = selections.test_indices(table)
    for index in indices:
        test = selections.tests[index - len(selections.ops)]
        if any(key_reach(Requirement(test, holds)) for holds in (True, False)):
            for holds in (True, False):
                rest = _decided(table, index, holds, selections)
                yield from _cases(rest, (*taken, Requirement(test, holds)), selections)
            return
    groups: dict[Table, list[_Case]] = {}
    for values in itertools.product((False, True), repeat=len(indices)):
        rest = table
        for index, holds in zip(indices, values, strict=True):
            rest = _decided(rest, index, holds, selections)
        if rest:
            groups.setdefault(rest, []).append(values)
    tests = [selections.tests[index - len(selections.ops)] for index in indices]
    for rest, group in groups.items():
        yield (
            tuple(
                (
                    *taken,
                    *(
                        Requirement(test, holds)
                        for test, holds in zip(tests, case, strict=True)
                        if holds is not None
                    ),
                )
                for case in shortest(group)
            ),
            rest,
        )


def _decided(table: Table, index: int, holds: bool, selections: Selections) -> Table:
    return selections.given(table, index) if holds else selections.without(table, index)


def shortest(group: Iterable[_Case]) -> list[_Case]:
    """The same cases by few lists of requirements: prime implicants, the widest first.

    >>> shortest([(True, False), (True, True), (False, True)])
    [(None, True), (True, None)]
    """
    left = set(group)
    primes: set[_Case] = set()
    merging = set(left)
    while merging:
        merged = {m for a, b in itertools.combinations(merging, 2) if (m := _merged(a, b))}
        covered = {case for case in merging if any(_holds(m, case) for m in merged)}
        primes |= merging - covered
        merging = merged
    chosen: list[_Case] = []
    ranked = sorted(primes, key=lambda case: (-case.count(None), _order(case)))
    while left:
        best = max(ranked, key=lambda prime: sum(_holds(prime, case) for case in left))
        chosen.append(best)
        left = {case for case in left if not _holds(best, case)}
    return sorted(chosen, key=_order)


def _merged(a: _Case, b: _Case) -> _Case | None:
    """Two cases that differ in one test, as one."""
    apart = [place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    if len(apart) != 1 or None in (a[apart[0]], b[apart[0]]):
        return None
    return (*a[: apart[0]], None, *a[apart[0] + 1 :])


def _holds(prime: _Case, case: _Case) -> bool:
    return all(x is None or x == y for x, y in zip(prime, case, strict=True))


def _order(case: _Case) -> tuple[int, ...]:
    return tuple(0 if x is None else 2 - x for x in case)
