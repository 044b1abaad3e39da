"""Which requirements leave a tile a range of positions that only tensors of the call can tell.

In `F(q) + G(k) + c >= 0`, `== 0` or `!= 0`, with entries of run-time tensors in F or G, the keys of
a query are those with a G beyond, equal to or other than what F is there. One sort by G tells for
every query which is the first of them and which the last.
"""

from __future__ import annotations

from attncomp.ir.ops import Condition, Requirement


def read_at_run_time(requirement: Requirement) -> bool:
    """Whether a requirement reads tensors, and each term of it those of one side of the pair.

    >>> from attncomp.ir.affine import Entry, index, term
    >>> from attncomp.ir.ops import Where
    >>> own, other = (term(Entry("ids", (index("b"), index(side)))) for side in ("q", "k"))
    >>> read_at_run_time(Requirement(Where(relation="==", value=own - other), True))
    True
    >>> pair = term(Entry("mask", (index("q"), index("k"))))
    >>> read_at_run_time(Requirement(Where(relation="==", value=pair), False))
    False
    """
    value = requirement.test.value
    of_pairs = value.part({"q"}).part({"k"})
    given = [entry.table is None for entry in value.entries]
    return bool(given) and all(given) and not of_pairs.terms


def extent_of(condition: Condition) -> Condition:
    """What of a condition limits the positions of a tile at run time, () if nothing does.

    A pair that meets the condition meets one of these alternatives.
    """
    parts = [tuple(filter(read_at_run_time, alternative)) for alternative in condition]
    return tuple(dict.fromkeys(parts)) if all(parts) else ()
