"""The pass `simplify`: shorter patterns of the same meaning, rule by rule, bottom-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, TypeAlias

from attncomp.errors import Span
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import ALL, Box, Complement, Intersection, Interval, Op, SparseK, Union
from attncomp.ir.passes.sharing import SharingGraph
from attncomp.ir.printer import formula

EMPTY: Final = Box(distance=Interval(0, 0))
FULL: Final = Box()

Rule: TypeAlias = Callable[[Graph, list[NodeId]], list[NodeId]]
"""A rule takes the members of a union or intersection and returns fewer or simpler ones."""


@dataclass(frozen=True)
class Simplify:
    """Applies `UNION_RULES`, `INTERSECTION_RULES` and `negate` to every node, operands first."""

    name: ClassVar[str] = "simplify"

    def __call__(self, graph: Graph) -> Graph:
        return graph.rewrite(_simplify, into=SharingGraph)


def simplified(text: str) -> str:
    """The formula of a pattern after this pass.

    >>> simplified("window(256) | window(512)")
    'window(512)'
    """
    return formula(Simplify()(build(parse(text))))


def _simplify(graph: Graph, op: Op, operands: tuple[NodeId, ...]) -> NodeId:
    match op:
        case Box():
            return graph.add(replace(_canonical(op), span=op.span))
        case Union():
            return join(graph, operands, op.span)
        case Intersection():
            return meet(graph, operands, op.span)
        case Complement():
            return negate(graph, operands[0], op.span)
        case _:
            return graph.add(op, operands)


def _canonical(box: Box) -> Box:
    """Equal boxes alike: empty ones as EMPTY, and no lower limit where it limits no key."""
    if box.empty:
        return EMPTY
    if (box.keys.lower or 0) <= 0:
        keys = ALL if box.keys.upper is None else Interval(0, box.keys.upper)
        return replace(box, keys=keys)
    return box


def join(graph: Graph, members: Sequence[NodeId], span: Span | None) -> NodeId:
    """The simplified union of simplified members."""
    return _combine(graph, members, UNION_RULES, Union(span=span), EMPTY)


def meet(graph: Graph, members: Sequence[NodeId], span: Span | None) -> NodeId:
    """The simplified intersection of simplified members."""
    return _combine(graph, members, INTERSECTION_RULES, Intersection(span=span), FULL)


def _combine(
    graph: Graph, members: Sequence[NodeId], rules: Sequence[Rule], op: Op, neutral: Box
) -> NodeId:
    nodes = list(members)
    for rule in rules:
        nodes = rule(graph, nodes)
    if not nodes:
        return graph.add(replace(neutral, span=op.span))
    return nodes[0] if len(nodes) == 1 else graph.add(op, nodes)


def negate(graph: Graph, node: NodeId, span: Span | None) -> NodeId:
    """Complements move inwards, by De Morgan, until they vanish in boxes or rest on selections.

    >>> simplified("~~causal")
    'causal'
    >>> simplified("causal - window(8)")
    '{q - k >= 8}'
    >>> simplified('~(sparsek(k=4, gate="hard") | ~causal)')
    '~sparsek(k=4) & causal'
    """
    op, operands = graph.op(node), graph.operands(node)
    match op:
        case Complement():
            return operands[0]
        case Union():
            return meet(graph, [negate(graph, operand, span) for operand in operands], span)
        case Intersection():
            return join(graph, [negate(graph, operand, span) for operand in operands], span)
        case Box():
            outside = [graph.add(replace(_canonical(b), span=span)) for b in _outside(op)]
            return join(graph, outside, span)
        case _:
            return graph.add(Complement(span=span), [node])


def _outside(box: Box) -> list[Box]:
    """Up to four boxes that together are all pairs outside of a box."""
    if box.empty:
        return [FULL]
    pieces = [Box(distance=part) for part in _beside(box.distance)]
    return pieces + [Box(distance=box.distance, keys=part) for part in _beside(box.keys)]


def _beside(interval: Interval) -> list[Interval]:
    below = [] if interval.lower is None else [Interval(None, interval.lower)]
    return below + ([] if interval.upper is None else [Interval(interval.upper, None)])


def flatten(kind: type[Op]) -> Rule:
    """Unions in unions, and intersections in intersections, become one.

    >>> simplified("window(8) | (first(4) | sparsek(k=4))")
    'window(8) | first(4) | sparsek(k=4)'
    """

    def rule(graph: Graph, members: list[NodeId]) -> list[NodeId]:
        return [
            part
            for member in members
            for part in (
                graph.operands(member) if isinstance(graph.op(member), kind) else (member,)
            )
        ]

    return rule


def drop_repeats(graph: Graph, members: list[NodeId]) -> list[NodeId]:
    """Idempotence; equal members are one node of a sharing graph.

    >>> simplified("sparsek(k=4) | sparsek(k=4)")
    'sparsek(k=4)'
    """
    return list(dict.fromkeys(members))


def absorb(inner: type[Op]) -> Rule:
    """Absorption, in unions and intersections alike: `A | A & B` and `A & (A | B)` are A.

    >>> simplified("window(8) & sparsek(k=4) | sparsek(k=4)")
    'sparsek(k=4)'
    >>> simplified("(window(8) | sparsek(k=4)) & sparsek(k=4)")
    'sparsek(k=4)'
    """

    def rule(graph: Graph, members: list[NodeId]) -> list[NodeId]:
        parts = [
            set(graph.operands(member)) if isinstance(graph.op(member), inner) else {member}
            for member in members
        ]
        return [
            member
            for member, own in zip(members, parts, strict=True)
            if not any(other < own for other in parts)
        ]

    return rule


def decide(result: Box) -> Rule:
    """A selection and its own complement together: nothing in intersections, all in unions.

    >>> simplified('sparsek(k=4, gate="hard") - sparsek(k=4, gate="hard")')
    '{none}'
    >>> simplified('sparsek(k=4, gate="hard") | ~sparsek(k=4, gate="hard")')
    'full'
    """

    def rule(graph: Graph, members: list[NodeId]) -> list[NodeId]:
        negated = {
            graph.operands(member)[0]
            for member in members
            if isinstance(graph.op(member), Complement)
        }
        return [graph.add(result)] if negated.intersection(members) else members

    return rule


def nest(pick: Callable[[SparseK, SparseK], bool]) -> Rule:
    """Of selections that share lag and scores a union keeps the largest k, a meet the smallest.

    Both the selected set and the gates grow with k, so the smaller one lies inside the larger.

    >>> simplified("sparsek(k=4) | sparsek(k=8) | sparsek(k=8, lag=2)")
    'sparsek(k=8) | sparsek(k=8, lag=2)'
    >>> simplified("sparsek(k=4) & sparsek(k=8)")
    'sparsek(k=4)'
    """

    def rule(graph: Graph, members: list[NodeId]) -> list[NodeId]:
        best: dict[tuple[int, str, str], tuple[SparseK, NodeId]] = {}
        for member in members:
            op = graph.op(member)
            if isinstance(op, SparseK):
                key = (op.lag, op.scores, op.gate)
                if key not in best or pick(op, best[key][0]):
                    best[key] = (op, member)
        kept = {member for _, member in best.values()}
        return [m for m in members if m in kept or not isinstance(graph.op(m), SparseK)]

    return rule


def unite_boxes(graph: Graph, members: list[NodeId]) -> list[NodeId]:
    """Boxes inside others go, boxes that share a side merge; all pairs are all there is.

    >>> simplified("window(8) | causal | first(4)")
    'causal'
    >>> simplified("(causal - window(8)) | window(12) | first(4)")
    'causal'
    >>> simplified("window(8) | full - causal | sparsek(k=4)")
    '{q - k < 8} | sparsek(k=4)'
    >>> simplified("full | sparsek(k=4)")
    'full'
    """
    boxes: list[Box] = []
    for member in members:
        op = graph.op(member)
        if isinstance(op, Box) and not op.empty:
            boxes = _include(boxes, op)
    if FULL in boxes:
        return [graph.add(next(box for box in boxes if box == FULL))]
    images = [graph.add(_canonical(box)) for box in boxes]
    return _replace_boxes(graph, members, images)


def _include(boxes: list[Box], new: Box) -> list[Box]:
    """The boxes and a new one, of which no two make one box."""
    place = 0
    while place < len(boxes):
        merged = _merged(boxes[place], new)
        if merged is None:
            place += 1
        else:
            # What has grown may now merge with boxes that were passed by.
            boxes, new, place = boxes[:place] + boxes[place + 1 :], merged, 0
    return [*boxes, new]


def _merged(a: Box, b: Box) -> Box | None:
    """The union of two boxes where it is a box; it keeps the span of the larger, or the first."""
    if a.keys == b.keys:
        distance = _hull(a.distance, b.distance)
        larger = b if distance == b.distance != a.distance else a
        return None if distance is None else replace(larger, distance=distance)
    if a.distance == b.distance:
        keys = _hull(a.keys, b.keys)
        larger = b if keys == b.keys else a
        return None if keys is None else _canonical(replace(larger, keys=keys))
    if a.distance.covers(b.distance) and a.keys.covers(b.keys):
        return a
    if b.distance.covers(a.distance) and b.keys.covers(a.keys):
        return b
    return None


def _hull(a: Interval, b: Interval) -> Interval | None:
    """The union of two intervals that overlap or touch."""
    if a.upper is not None and b.lower is not None and a.upper < b.lower:
        return None
    if b.upper is not None and a.lower is not None and b.upper < a.lower:
        return None
    return Interval(
        None if a.lower is None or b.lower is None else min(a.lower, b.lower),
        None if a.upper is None or b.upper is None else max(a.upper, b.upper),
    )


def intersect_boxes(graph: Graph, members: list[NodeId]) -> list[NodeId]:
    """The intersection of boxes is one box; nothing meets an empty one.

    >>> simplified("causal & window(256) & first(4)")
    '{0 <= q - k < 256, k < 4}'
    >>> simplified("window(8) & sparsek(k=4) - window(8)")
    '{none}'
    """
    boxes = [op for op in map(graph.op, members) if isinstance(op, Box)]
    if not boxes:
        return members
    meet_of_all = boxes[0]
    for box in boxes[1:]:
        meet_of_all = meet_of_all.intersect(box)
    result = _canonical(meet_of_all)
    if result.empty:
        return [graph.add(result)]
    return _replace_boxes(graph, members, [] if result == FULL else [graph.add(result)])


def clip_unions(graph: Graph, members: list[NodeId]) -> list[NodeId]:
    """In a union that a box limits, what the box keeps out goes; a union that holds it goes too.

    >>> simplified("window(8) & (sparsek(k=4) | causal - window(8))")
    'window(8) & sparsek(k=4)'
    >>> simplified("window(8) & (sparsek(k=4) | causal)")
    'window(8)'
    """
    limits = [op for op in map(graph.op, members) if isinstance(op, Box)]
    if not limits:
        return members
    limit, *_ = limits  # the rule before left one
    kept: list[NodeId] = []
    for member in members:
        union = graph.op(member)
        if not isinstance(union, Union):
            kept.append(member)
            continue
        parts = graph.operands(member)
        clipped = [op.intersect(limit) for op in map(graph.op, parts) if isinstance(op, Box)]
        if limit in map(_canonical, clipped):
            continue
        reached = [part for part in parts if not _apart(graph.op(part), limit)]
        kept.append(join(graph, reached, union.span))
    return kept


def _apart(op: Op, limit: Box) -> bool:
    return isinstance(op, Box) and op.intersect(limit).empty


def meet_support(graph: Graph, members: list[NodeId]) -> list[NodeId]:
    """A box against a selection's support: no part of it is nothing, all of it is no limit.

    >>> simplified("sparsek(k=4, lag=8) & window(8)")
    '{none}'
    >>> simplified("sparsek(k=4, lag=8) & causal")
    'sparsek(k=4, lag=8)'
    """
    ops = [graph.op(member) for member in members]
    supports = [Box(distance=op.support) for op in ops if isinstance(op, SparseK)]
    boxes = [op for op in ops if isinstance(op, Box)]
    if any(box.intersect(support).empty for box in boxes for support in supports):
        return [graph.add(EMPTY)]
    idle = [b for b in boxes if any(_merged(b, support) == b for support in supports)]
    return [m for m in members if graph.op(m) not in idle]


def _replace_boxes(graph: Graph, members: list[NodeId], images: list[NodeId]) -> list[NodeId]:
    """The members with all their boxes replaced, at the place of the first box."""
    rest: list[NodeId] = []
    for member in members:
        if not isinstance(graph.op(member), Box):
            rest.append(member)
        elif images:
            rest += images
            images = []
    return rest


UNION_RULES: Final[tuple[Rule, ...]] = (
    flatten(Union),
    drop_repeats,
    unite_boxes,
    nest(lambda a, b: a.k > b.k),
    decide(FULL),
    absorb(Intersection),
)
INTERSECTION_RULES: Final[tuple[Rule, ...]] = (
    flatten(Intersection),
    drop_repeats,
    intersect_boxes,
    clip_unions,
    flatten(Intersection),
    drop_repeats,
    intersect_boxes,  # those that clipping has left of unions
    nest(lambda a, b: a.k < b.k),
    decide(EMPTY),
    meet_support,
    absorb(Union),
)
