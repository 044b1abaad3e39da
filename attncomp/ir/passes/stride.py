"""The pass `stride`: sweeps whose pairs are a multiple of `step` apart are visited class by class.

Positions that leave the same remainder modulo `step` are a class, and a pair at a distance that
`step` divides is a pair within a class. Taken by itself, a class is a shorter sequence of
neighbours, in which the sweep is a plain window: its tiles hold no key in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from attncomp.ir.affine import Affine, IndexName, Remainder, constant, index
from attncomp.ir.conditions import add_test
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Box, Intersection, Interval, Op, Requirement, Sweep, Union

# Classes cost a copy of q, k, v and out each way, which a narrow sweep does not earn back.
MIN_SPAN: Final = 1024
# Each class is padded to the same length: up to step - 1 positions that are not there.
MAX_STEP: Final = 4096


@dataclass(frozen=True)
class Stride:
    """Sets the step of each contiguous sweep that a class alone can serve.

    >>> from attncomp.frontend.parser import parse
    >>> from attncomp.ir.build import build
    >>> from attncomp.ir.passes.make_disjoint import MakeDisjoint
    >>> graph = Stride()(MakeDisjoint()(build(parse("dilated(512, 8) | window(64)"))))
    >>> [graph.op(node).step for node in graph.operands(graph.root)]
    [1, 8]
    """

    name: ClassVar[str] = "stride"

    def __call__(self, graph: Graph) -> Graph:
        return graph.rewrite(_set_step)


def _set_step(graph: Graph, op: Op, operands: tuple[NodeId, ...]) -> NodeId:
    if isinstance(op, Sweep) and not op.gathered and len(operands) == 1:
        op = replace(op, step=_step(op))
    return graph.add(op, operands)


def _step(sweep: Sweep) -> int:
    """The step of a sweep, 1 where its classes would not do or not pay."""
    distance = sweep.boxes[0].distance
    if len(sweep.condition) != 1 or distance.lower is None or distance.lower < 0:
        return 1  # a class is padded with keys at its end, which no query may see
    if distance.upper is not None and distance.upper - distance.lower < MIN_SPAN:
        return 1
    steps = [step for step in map(_modulus, sweep.condition[0]) if step is not None]
    others = [part for part in sweep.condition[0] if _modulus(part) is None]
    plain = all(part.test.value.indices <= {"q", "k"} for part in others)
    read = any(part.test.value.entries for part in others)
    return steps[0] if len(steps) == 1 and plain and not read and steps[0] <= MAX_STEP else 1


def _modulus(part: Requirement) -> int | None:
    """The step of a requirement `(q - k) % step == 0`, None for any other."""
    value, apart = part.test.value, index("q") - index("k")
    if not part.holds or part.test.relation != "==" or len(value.terms) != 1 or value.constant:
        return None
    term = value.terms[0][0]
    if not isinstance(term, Remainder):
        return None
    rests = [(term.value - other).remainder(term.divisor) for other in (apart, -apart)]
    return term.divisor if constant(0) in rests else None


def class_graph(sweeps: Sequence[Sweep], step: int) -> Graph:
    """The pairs of sweeps of one step as a pattern over the members of a class.

    Its position p is step * p + c of the whole, and c is b % step: classes are rows of the batch.
    """
    graph = Graph()
    nodes = [_within_class(graph, sweep, step) for sweep in sweeps]
    graph.set_root(nodes[0] if len(nodes) == 1 else graph.add(Union(), nodes))
    return graph


def _within_class(graph: Graph, sweep: Sweep, step: int) -> NodeId:
    distance, keys = sweep.boxes[0].distance, sweep.boxes[0].keys
    lower, upper = keys.lower or 0, keys.upper
    box = Box(
        distance=Interval(_rounded_up(distance.lower, step), _rounded_up(distance.upper, step)),
        keys=Interval(lower // step, _rounded_up(upper, step)),
        span=sweep.span,
    )
    place = index("b").remainder(step)
    whole: dict[IndexName, Affine] = {
        "q": index("q").scaled(step) + place,
        "k": index("k").scaled(step) + place,
    }
    nodes = [graph.add(box)]
    if lower % step:
        value = whole["k"] - constant(lower)
        nodes.append(add_test(graph, ">=", value, True, sweep.span))
    if upper is not None and upper % step:
        value = constant(upper - 1) - whole["k"]
        nodes.append(add_test(graph, ">=", value, True, sweep.span))
    for part in sweep.condition[0]:
        if _modulus(part) is None:
            value = part.test.value.substitute(whole)
            nodes.append(add_test(graph, part.test.relation, value, part.holds, sweep.span))
    return nodes[0] if len(nodes) == 1 else graph.add(Intersection(span=sweep.span), nodes)


def _rounded_up(value: int | None, step: int) -> int | None:
    return None if value is None else -(-value // step)
