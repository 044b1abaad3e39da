"""The pass `bound`: where a contiguous sweep goes, as affine functions of a tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Bounds, Box, Op, Range, Sweep, Term


@dataclass(frozen=True)
class Bound:
    """Sets the bounds of each contiguous sweep from its box, by interval arithmetic.

    >>> from attncomp.frontend.parser import parse
    >>> from attncomp.ir.build import build
    >>> from attncomp.ir.passes.make_disjoint import MakeDisjoint
    >>> graph = Bound()(MakeDisjoint()(build(parse("window(256)"))))
    >>> bounds = graph.op(graph.operands(graph.root)[0]).bounds
    >>> print(bounds.keys, bounds.full_keys)
    [max(0, first - 255), min(n_keys, last + 1)) [max(0, last - 255), min(n_keys, first + 1))
    >>> print(bounds.queries, bounds.full_queries)
    [first, last + 256) [last, first + 256)
    """

    name: ClassVar[str] = "bound"

    def __call__(self, graph: Graph) -> Graph:
        return graph.rewrite(_bound)


def _bound(graph: Graph, op: Op, operands: tuple[NodeId, ...]) -> NodeId:
    if isinstance(op, Sweep) and not op.gathered:
        op = replace(op, bounds=bounds_of(op.boxes[0]))
    return graph.add(op, operands)


def bounds_of(box: Box) -> Bounds:
    """The bounds of one box; see `Bounds` for what they bound.

    A pair at distance d in [a, b) has key q - d in [q - b + 1, q - a + 1), and a key k is at such
    a distance from queries [k + a, k + b). A tile's hull takes the outer ends over its positions,
    its full part the inner ones. Limits that a box has not are left out; queries outside of the
    call are for the template to cut off.
    """
    a, b = box.distance.lower, box.distance.upper
    least = Term("constant", max(0, box.keys.lower or 0))
    most = [Term("n_keys")]
    if box.keys.upper is not None:
        most.append(Term("constant", box.keys.upper))

    def keys(lower_end: Term | None, upper_end: Term | None) -> Range:
        lower = (least,) if lower_end is None else (least, lower_end)
        upper = most if upper_end is None else [*most, upper_end]
        return Range(lower=lower, upper=tuple(upper))

    def queries(lower_end: Term | None, upper_end: Term | None) -> Range:
        return Range(
            lower=() if lower_end is None else (lower_end,),
            upper=() if upper_end is None else (upper_end,),
        )

    return Bounds(
        keys=keys(
            None if b is None else Term("first", 1 - b),
            None if a is None else Term("last", 1 - a),
        ),
        full_keys=keys(
            None if b is None else Term("last", 1 - b),
            None if a is None else Term("first", 1 - a),
        ),
        queries=queries(
            None if a is None else Term("first", a), None if b is None else Term("last", b)
        ),
        full_queries=queries(
            None if a is None else Term("last", a), None if b is None else Term("first", b)
        ),
    )
