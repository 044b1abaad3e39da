"""Which requirements leave a tile a range of positions that only tensors of the call can tell.

In `F(q) + G(k) + c >= 0`, `== 0` or `!= 0`, with entries of run-time tensors in F or G, the keys of
a query are those with a G beyond, equal to or other than what F is there. At the call it is found
out for every query which is the first of them and which the last (`attncomp.runtime.extents`).
"""

from __future__ import annotations

from attncomp.ir.ops import Condition, Requirement
from attncomp.ir.passes.reach import key_reach, query_reach


def bounded_by_ends(requirement: Requirement) -> bool:
    """Whether the ends of a tile tell which positions may meet a requirement, both ways."""
    return key_reach(requirement) is not None and query_reach(requirement) is not None


def separable(requirement: Requirement) -> bool:
    """Whether each term of a requirement is of one side of the pair.

    >>> from attncomp.ir.affine import Entry, index, term
    >>> from attncomp.ir.ops import Where
    >>> own, other = (term(Entry("ids", (index("b"), index(side)))) for side in ("q", "k"))
    >>> separable(Requirement(Where(relation="==", value=own - other), True))
    True
    >>> pair = term(Entry("mask", (index("q"), index("k"))))
    >>> separable(Requirement(Where(relation="==", value=pair), False))
    False
    """
    value = requirement.test.value
    tables = any(entry.table is not None for entry in value.entries)
    return not tables and not value.part({"q"}).part({"k"}).terms


def extent_of(condition: Condition) -> Condition:
    """What of a condition limits the positions of a tile at run time, () if nothing does.

    A pair that meets the condition meets one of these alternatives. Where tensors are read at all,
    tests without any that the ends of a tile do not bound are taken along.
    """
    parts = [
        tuple(part for part in alternative if separable(part) and not bounded_by_ends(part))
        for alternative in condition
    ]
    reads = any(part.test.value.entries for alternative in parts for part in alternative)
    return tuple(dict.fromkeys(parts)) if reads and all(parts) else ()
