"""The pass `share`: common subexpressions become one node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attncomp.ir.graph import Graph
from attncomp.ir.passes.sharing import SharingGraph


@dataclass(frozen=True)
class Share:
    """Merges equal subexpressions; the first one written keeps its span.

    >>> from attncomp.frontend.parser import parse
    >>> from attncomp.ir.build import build
    >>> graph = build(parse("(window(8) | first(4)) & ~(first(4) | window(8))"))
    >>> len(graph), len(Share()(graph))
    (8, 5)
    """

    name: ClassVar[str] = "share"

    def __call__(self, graph: Graph) -> Graph:
        return graph.rewrite(lambda new, op, operands: new.add(op, operands), into=SharingGraph)
