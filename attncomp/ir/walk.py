"""Walks: sweeps that visit the blocks of keys that a table lists, and no other keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from attncomp.ir.affine import Affine, Entry, Index, IndexName, Quotient, index, term
from attncomp.ir.ops import Box, Condition, Requirement, Sweep

MIN_MASK_SIZE: Final = 16  # key tiles are no narrower: lists of smaller blocks of a mask save none


@dataclass(frozen=True, slots=True)
class Walk:
    """For a block of `size` query positions, the blocks of keys where an entry is not 0.

    The entry's last two subscripts are the blocks of query and key. Blocks without any pair in the
    box are left out.
    """

    entry: Entry
    size: int
    box: Box

    @property
    def packed(self) -> bool:
        """Whether lists are words of bits (`attncomp.runtime.words`), not numbers of blocks.

        A table that is given at the call may list all T blocks of keys for each block of queries,
        and how many is known on the device alone: words have room for them in a fraction of the
        memory that numbers take. Those that rank or draw list a few of them.
        """
        return self.entry.table is None

    def __str__(self) -> str:
        return f"blocks of {self.size} keys with {self.entry} != 0"


def walkable(requirement: Requirement) -> bool:
    """Whether the pairs that meet a requirement are those of blocks that can be listed."""
    return _block_size(requirement) is not None


def walk_of(sweep: Sweep) -> tuple[Walk, Requirement] | None:
    """The walk of a contiguous sweep, and what it makes sure of; None if it has to see all keys."""
    if sweep.gathered:
        return None
    for requirement in sweep.condition[0]:
        size = _block_size(requirement)
        if size is not None and all(requirement in other for other in sweep.condition):
            entry = requirement.test.value.entries[0]
            return Walk(entry, size, sweep.boxes[0]), requirement
    return None


def without(condition: Condition, met: Requirement) -> Condition:
    """What is left of a condition where a requirement is met."""
    rest = (tuple(part for part in alternative if part != met) for alternative in condition)
    return tuple(dict.fromkeys(rest))


def _block_size(requirement: Requirement) -> int | None:
    """The size of the blocks for which an entry is not 0; None for any other requirement."""
    test = requirement.test
    entry = next(iter(test.value.entries), None)
    if requirement.holds or test.relation != "==" or entry is None or test.value != term(entry):
        return None
    if len(entry.indices) < 2:
        return None
    *others, query, key = entry.indices
    size = _divisor(query, "q")
    if size is None or _divisor(key, "k") != size:
        return None
    if tuple(others) not in ((), (index("b"),), (index("h"),), (index("b"), index("h"))):
        return None
    return None if entry.table is None and size < MIN_MASK_SIZE else size


def _divisor(subscript: Affine, name: IndexName) -> int | None:
    """c of `name // c`, 1 of `name`."""
    if subscript.constant or len(subscript.terms) != 1:
        return None
    match subscript.terms[0]:
        case (Index(found), 1) if found == name:
            return 1
        case (Quotient(value, divisor), 1) if value == index(name):
            return divisor
        case _:
            return None
