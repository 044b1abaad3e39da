"""Graphs, boxes and places as text."""

from __future__ import annotations

import pytest

from attncomp.errors import Source, Span
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.graph import Graph
from attncomp.ir.ops import Box, Interval, Sweep
from attncomp.ir.passes.make_disjoint import MakeDisjoint
from attncomp.ir.printer import box_condition, box_text, formula, place, print_graph


def test_listing() -> None:
    graph = build(parse("sparsek(k=512) | window(256) - first(4)"))
    assert print_graph(graph).splitlines() == [
        "%0 = sparsek k=512 lag=0 gate=key_value scores=scores    # 1:1-15",
        "%1 = box 0 <= q - k < 256                                # 1:18-29",
        "%2 = box q - k >= 0, k < 4                               # 1:32-40",
        "%3 = complement %2                                       # 1:32-40",
        "%4 = intersection %1, %3                                 # 1:18-40",
        "%5 = union %0, %4                                        # 1:1-40",
        "return %5",
    ]


def test_listing_without_spans_depends_on_structure_alone() -> None:
    spread = build(parse("window( 8 )  |  causal # all of it"))
    assert print_graph(spread, spans=False) == print_graph(
        build(parse("window(8) | causal")), spans=False
    )
    assert "#" not in print_graph(spread, spans=False)


def test_listing_of_sweeps() -> None:
    pattern = 'window(4) | sparsek(k=8, gate="hard") - sparsek(k=4, lag=2, gate="hard")'
    graph = MakeDisjoint()(build(parse(pattern)))
    assert print_graph(graph, spans=False).splitlines() == [
        "%0 = box any",
        "%1 = sweep contiguous, gate %0",
        "        box 0 <= q - k < 4",
        "%2 = sparsek k=8 lag=0 gate=hard scores=scores",
        "%3 = sparsek k=4 lag=2 gate=hard scores=scores",
        "%4 = sweep gathered of %2, gate %0, without %3",
        "        box q - k >= 4",
        "%5 = partition %1, %4",
        "return %5",
    ]


@pytest.mark.parametrize(
    ("box", "text", "condition"),
    [
        (Box(), "full", "any"),
        (Box(distance=Interval(0, None)), "causal", "q - k >= 0"),
        (Box(distance=Interval(0, 8)), "window(8)", "0 <= q - k < 8"),
        (Box(distance=Interval(1, 8)), "{1 <= q - k < 8}", "1 <= q - k < 8"),
        (Box(distance=Interval(None, 8)), "{q - k < 8}", "q - k < 8"),
        (Box(distance=Interval(0, None), keys=Interval(0, 4)), "first(4)", "q - k >= 0, k < 4"),
        (Box(keys=Interval(None, 4)), "{k < 4}", "k < 4"),
        (Box(keys=Interval(-3, None)), "full", "any"),
        (Box(keys=Interval(4, 9)), "{4 <= k < 9}", "4 <= k < 9"),
        (Box(distance=Interval(3, 3)), "{none}", "none"),
        (Box(keys=Interval(None, 0)), "{none}", "none"),
    ],
)
def test_boxes(box: Box, text: str, condition: str) -> None:
    assert box_text(box) == text
    assert box_condition(box) == condition


@pytest.mark.parametrize(
    ("text", "start", "end", "expected"),
    [
        ("window(8)", 0, 9, "1:1-10"),
        ("causal |\n window(8)", 10, 19, "2:2-11"),
        ("causal |\n window(8)", 0, 19, "1:1-2:11"),
        ("causal", 6, 6, "1:7-7"),
    ],
)
def test_places(text: str, start: int, end: int, expected: str) -> None:
    assert place(Span(Source("<spec>", text), start, end)) == expected


def test_formula_of_a_sweep_is_an_error() -> None:
    graph = Graph()
    gate = graph.add(Box())
    graph.set_root(graph.add(Sweep(boxes=(Box(),), gathered=False), [gate]))
    with pytest.raises(TypeError, match="expected a gate, found Sweep at node 1"):
        formula(graph)
