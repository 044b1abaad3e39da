"""A graph that never holds the same node twice."""

from __future__ import annotations

from collections.abc import Sequence

from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Intersection, Op, Union


class SharingGraph(Graph):
    """A graph whose `add` returns the node that is there already, if an equal one is.

    Spans take no part; unions and intersections are equal in any order of their operands.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[Op, tuple[NodeId, ...]], NodeId] = {}

    def add(self, op: Op, operands: Sequence[NodeId] = ()) -> NodeId:
        commutes = isinstance(op, Union | Intersection)
        key = (op, tuple(sorted(operands) if commutes else operands))
        if key not in self._known:
            self._known[key] = super().add(op, operands)
        return self._known[key]
