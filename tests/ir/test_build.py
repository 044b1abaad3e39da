"""From syntax trees to graphs."""

from __future__ import annotations

import pytest
import torch

from attncomp.errors import (
    DivisorError,
    GateModeError,
    PatternError,
    PredicateRangeError,
    RankError,
    SoftComplementError,
    SubscriptError,
    TensorNameError,
)
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import PRIMITIVES
from attncomp.ir.build import EXCLUDED_OPS, PRIMITIVE_OPS, PRIMITIVE_PREDICATES, build
from attncomp.ir.graph import Graph
from attncomp.ir.ops import (
    ALL,
    Box,
    Complement,
    Intersection,
    Interval,
    Op,
    SparseK,
    Union,
    reaches,
)
from attncomp.ir.oracle import gate_matrix


def ops_of(graph: Graph) -> list[Op]:
    return [graph.op(node) for node in graph.walk()]


def test_every_primitive_has_an_op() -> None:
    known = [*PRIMITIVE_OPS, *PRIMITIVE_PREDICATES, *EXCLUDED_OPS]
    assert sorted(known) == sorted(PRIMITIVES)


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("full", Box(distance=ALL, keys=ALL)),
        ("causal", Box(distance=Interval(0, None))),
        ("window(256)", Box(distance=Interval(0, 256))),
        ("window(before=8)", Box(distance=Interval(0, 9))),
        ("window(after=3)", Box(distance=Interval(-3, 1))),
        ("window(before=2, after=3)", Box(distance=Interval(-3, 3))),
        ("first(4)", Box(distance=Interval(0, None), keys=Interval(0, 4))),
        ("sparsek(512)", SparseK(k=512)),
        (
            'sparsek(k=8, lag=3, gate="logit")',
            SparseK(k=8, lag=3, gate="logit"),
        ),
        ('threshold("t")', reaches("t")),
    ],
)
def test_primitives(text: str, op: Op) -> None:
    graph = build(parse(text))
    assert ops_of(graph) == [op]
    span = graph.op(graph.root).span
    assert span is not None and span.text == text


def test_operators_keep_the_order_of_operands() -> None:
    graph = build(parse("window(2) & causal | first(1)"))
    window, causal, both, first, either = graph.walk()
    assert graph.op(both) == Intersection() and graph.operands(both) == (window, causal)
    assert graph.op(either) == Union() and graph.operands(either) == (both, first)


def test_difference_is_an_intersection_with_a_complement() -> None:
    graph = build(parse("causal - window(8)"))
    causal, window, outside, both = graph.walk()
    assert graph.op(outside) == Complement() and graph.operands(outside) == (window,)
    assert graph.op(both) == Intersection() and graph.operands(both) == (causal, outside)
    spans = [graph.op(node).span for node in (outside, both)]
    assert [span.text for span in spans if span] == ["window(8)", "causal - window(8)"]


def test_meaning_of_a_small_pattern() -> None:
    gates = gate_matrix(build(parse("window(2) | first(1)")), 3, 4, {})
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 1, 1]], dtype=torch.float64)
    assert torch.equal(gates[0, 0], expected)


SOFT = "a soft pattern has no complement"


@pytest.mark.parametrize(
    ("text", "error", "message", "culprit"),
    [
        ("~sparsek(k=4)", SoftComplementError, SOFT, "sparsek(k=4)"),
        ("causal - sparsek(k=4)", SoftComplementError, SOFT, "sparsek(k=4)"),
        ("~(window(4) | sparsek(k=4, lag=2))", SoftComplementError, SOFT, "sparsek(k=4, lag=2)"),
        (
            'causal - sparsek(k=4, gate="straight_through")',
            SoftComplementError,
            SOFT,
            'sparsek(k=4, gate="straight_through")',
        ),
        ("~~sparsek(k=4)", SoftComplementError, SOFT, "sparsek(k=4)"),
        (
            'sparsek(k=4) | window(3) | sparsek(k=8, gate="logit")',
            GateModeError,
            "soft members must share one gate mode: expected 'key_value', found 'logit'",
            'sparsek(k=8, gate="logit")',
        ),
        (
            'sparsek(k=4, gate="value") & ~sparsek(k=8, gate="hard")',
            GateModeError,
            "soft members must share one gate mode: expected 'value', found 'hard'",
            'sparsek(k=8, gate="hard")',
        ),
        (
            "where(q // h == 0)",
            DivisorError,
            "a divisor must be a constant other than 0, found h",
            "h",
        ),
        (
            "where(q % (n - n) == 0)",
            DivisorError,
            "a divisor must be a constant other than 0, found 0",
            "n - n",
        ),
        (
            "where(a[b[q]] == 1)",
            SubscriptError,
            "a subscript must be made of q, k, h, b, n and numbers, found b[q]",
            "b[q]",
        ),
        (
            "where(q * q * q * k < 2)",
            PredicateRangeError,
            "the numbers here may grow beyond 64 bits",
            "q * q * q",
        ),
        (
            "where(a[q]) & where(a[q, k])",
            RankError,
            "tensor 'a' has 1 subscript elsewhere, found 2 subscripts",
            "a[q, k]",
        ),
        (
            "where(scores[q]) | sparsek(3)",
            TensorNameError,
            "a tensor cannot be called 'scores': that is a tensor of scores",
            "scores[q]",
        ),
        (
            "where(k[q] == 0)",
            TensorNameError,
            "a tensor cannot be called 'k': that is an argument of every call",
            "k[q] == 0",
        ),
    ],
)
def test_errors(text: str, error: type[PatternError], message: str, culprit: str) -> None:
    with pytest.raises(error) as caught:
        build(parse(text))
    assert caught.value.message == message
    assert caught.value.span is not None and caught.value.span.text == culprit


def test_hard_selections_have_complements() -> None:
    graph = build(parse('~sparsek(k=4, gate="hard")'))
    assert ops_of(graph) == [SparseK(k=4, gate="hard"), Complement()]
