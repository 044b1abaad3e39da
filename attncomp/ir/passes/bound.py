"""The pass `bound`: where a contiguous sweep goes, as functions of a tile's ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from attncomp.ir.affine import IndexName, constant, index
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import (
    ALWAYS,
    Bounds,
    Box,
    Condition,
    Interval,
    Op,
    Range,
    Sweep,
)
from attncomp.ir.passes.extent import bounded_by_ends, extent_of
from attncomp.ir.passes.reach import key_reach, meet, query_reach
from attncomp.ir.walk import walk_of


@dataclass(frozen=True)
class Bound:
    """Sets the bounds of each contiguous sweep from its box and tests, by interval arithmetic.

    >>> from attncomp.frontend.parser import parse
    >>> from attncomp.ir.build import build
    >>> from attncomp.ir.passes.make_disjoint import MakeDisjoint
    >>> graph = Bound()(MakeDisjoint()(build(parse("window(256)"))))
    >>> bounds = graph.op(graph.operands(graph.root)[0]).bounds
    >>> print(bounds.keys, bounds.full_keys)
    [max(0, first - 255), min(n_keys, last + 1)) [max(0, last - 255), min(n_keys, first + 1))
    >>> print(bounds.queries, bounds.full_queries)
    [first, last + 256) [last, first + 256)
    >>> chunks = Bound()(MakeDisjoint()(build(parse("chunk(64)"))))
    >>> print(chunks.op(chunks.operands(chunks.root)[0]).bounds.keys)
    [max(0, first // 64 * 64), min(n_keys, last // 64 * 64 + 64))
    """

    name: ClassVar[str] = "bound"

    def __call__(self, graph: Graph) -> Graph:
        return graph.rewrite(_bound)


def _bound(graph: Graph, op: Op, operands: tuple[NodeId, ...]) -> NodeId:
    if isinstance(op, Sweep) and not op.gathered:
        bounds = bounds_of(op.boxes[0], op.condition)
        if walk_of(op) is not None:  # which visits what a table lists of the range
            bounds = replace(bounds, extent=())
        op = replace(op, bounds=bounds)
    return graph.add(op, operands)


def bounds_of(box: Box, condition: Condition = ALWAYS) -> Bounds:
    """The bounds of the pairs in a box that meet a condition; see `Bounds` for what they bound.

    A pair at distance d in [a, b) has key q - d in [q - b + 1, q - a + 1), and a key k is at such
    a distance from queries [k + a, k + b). A tile's hull takes the outer ends over its positions,
    its full part the inner ones. Limits that a box has not are left out; queries outside of the
    call are for the template to cut off. What every alternative of the condition requires narrows
    the hull as far as its reach is known; what tensors of the call limit is its extent.
    """
    least, most = constant(max(0, box.keys.lower or 0)), [index("n_keys")]
    if box.keys.upper is not None:
        most.append(constant(box.keys.upper))
    required = [set(alternative) for alternative in condition]
    common = [part for part in condition[0] if all(part in other for other in required)]
    keys = [reach for reach in map(key_reach, common) if reach is not None]
    queries = [reach for reach in map(query_reach, common) if reach is not None]
    extent = extent_of(condition)
    found_at_call = extent[0] if len(extent) == 1 else ()
    full = len(condition) == 1 and all(
        part in found_at_call or bounded_by_ends(part) for part in condition[0]
    )
    limits, distance = Range(lower=(least,), upper=tuple(most)), box.distance
    hull_of_keys = [limits, _keys_of(distance, "first", "last"), *(reach.any for reach in keys)]
    core_of_keys = [limits, _keys_of(distance, "last", "first"), *(reach.all for reach in keys)]
    hull = [_queries_of(distance, "first", "last"), *(reach.any for reach in queries)]
    core = [_queries_of(distance, "last", "first"), *(reach.all for reach in queries)]
    return Bounds(
        keys=meet(hull_of_keys),
        full_keys=meet(core_of_keys) if full else None,
        queries=meet(hull),
        full_queries=meet(core) if full else None,
        extent=extent,
    )


def _keys_of(distance: Interval, outer: IndexName, inner: IndexName) -> Range:
    """The keys at a distance from the query positions; each end from one end of the tile."""
    a, b = distance.lower, distance.upper
    return Range(
        lower=() if b is None else (index(outer, 1 - b),),
        upper=() if a is None else (index(inner, 1 - a),),
    )


def _queries_of(distance: Interval, outer: IndexName, inner: IndexName) -> Range:
    """The query positions at a distance from the keys; each end from one end of the tile."""
    a, b = distance.lower, distance.upper
    return Range(
        lower=() if a is None else (index(outer, a),),
        upper=() if b is None else (index(inner, b),),
    )
