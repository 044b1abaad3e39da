"""The passes of the compiler, their order, and what runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

from attncomp.ir.graph import Graph
from attncomp.ir.passes.bound import Bound
from attncomp.ir.passes.make_disjoint import MakeDisjoint
from attncomp.ir.passes.schedule import ScheduleTiles
from attncomp.ir.passes.share import Share
from attncomp.ir.passes.simplify import Simplify
from attncomp.ir.passes.stride import Stride
from attncomp.ir.schedule import Problem, Schedule
from attncomp.ir.verify import verify


class Pass(Protocol):
    """A pure function from graph to graph with a kebab-case name."""

    @property
    def name(self) -> str: ...

    def __call__(self, graph: Graph) -> Graph: ...


Callback: TypeAlias = Callable[[Pass, Graph, float], None]
"""Called after each pass with the pass, its verified result and its seconds."""


def pipeline(
    problem: Problem,
    *,
    classes: bool = True,
    schedule: Schedule | None = None,
    pair_tables: int = 0,
) -> tuple[Pass, ...]:
    """All passes in order, for one problem; classes: whether sweeps may go by classes.

    schedule: one to take in place of the device table's. pair_tables: as `ScheduleTiles` has it.
    """
    strides = (Stride(),) if classes else ()
    return (
        Share(),
        Simplify(),
        MakeDisjoint(),
        Bound(),
        *strides,
        ScheduleTiles(problem, schedule, pair_tables),
    )


def run(graph: Graph, passes: Iterable[Pass], callback: Callback | None = None) -> Graph:
    """The graph after all passes, each verified.

    Raises VerificationError, with the name of the pass, where a pass leaves an invalid graph.
    """
    verify(graph, after="build")
    for step in passes:
        start = time.perf_counter()
        graph = step(graph)
        seconds = time.perf_counter() - start
        verify(graph, after=step.name)
        if callback is not None:
            callback(step, graph, seconds)
    return graph
