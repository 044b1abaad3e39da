"""Which listed keys need no mask: the part of a list that is attended throughout its queries.

The list of a span of queries has a part of its own for the keys that are selected at all of its
positions. Where the sweep that walks it takes selected pairs in a box alone (outside of a window,
say), it has there those that the box holds at all positions too: the sweep needs no mask for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Final, NamedTuple

from attncomp.codegen.expressions import gate_masks, selections_read
from attncomp.codegen.plan import Comparison, KernelPlan, SweepPlan
from attncomp.ir.ops import ALWAYS

_NO_KEY: Final = (1 << 31) - 1
_FARTHEST: Final = 1 << 30  # by which times may be reduced in 32 bits


class FullBox(NamedTuple):
    """A box of pairs that a selection has: lag + near <= q - k < lag + far, and a range of keys."""

    near: int
    far: int
    first_key: int
    end_key: int


def has_full_lists(sweep: SweepPlan) -> bool:
    """Whether a sweep attends all pairs of its box that its source selected, and reads no more."""
    others = sweep.condition != ALWAYS or gate_masks(sweep)
    return not others and selections_read(sweep) == [sweep.source]


def full_box(plan: KernelPlan, source: int) -> FullBox:
    """The box that a selection's lists are parted by: that of its sweeps with full lists.

    Of a sweep with several boxes it is the one that reaches farthest.
    """
    lag = plan.selections[source].lag
    boxes = [_box((), lag)]
    for sweep in plan.sweeps:
        if sweep.source == source and has_full_lists(sweep):
            found = [_box(part, lag) for part in sweep.residual or ((),)]
            boxes.append(max(found, key=attrgetter("far")))
    near, far, first_key, end_key = zip(*boxes, strict=True)
    return FullBox(max(near), min(far), max(first_key), min(end_key))


def _box(conjunction: Sequence[Comparison], lag: int) -> FullBox:
    bounds = {(c.value, c.relation): c.bound for c in conjunction}
    return FullBox(
        near=max(bounds.get(("distance", ">="), lag) - lag, 0),
        far=min(bounds.get(("distance", "<"), lag + _FARTHEST) - lag, _FARTHEST),
        first_key=bounds.get(("key", ">="), 0),
        end_key=bounds.get(("key", "<"), _NO_KEY),
    )
