"""The dense oracle against evaluators that work pair by pair in exact rational arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from dense import Shape, assert_close, make_graph, mask_tensors
from hypothesis import given
from hypothesis import strategies as st
from pair_gates import READING, Entries, Pair, block_gate
from strategies import SCORE_KINDS, patterns, score_tensor, scores, shapes
from torch import Tensor

from attncomp.errors import MissingTensorError, TensorShapeError, VerificationError
from attncomp.frontend import ast
from attncomp.frontend.predicate import condition_text
from attncomp.ir.build import build
from attncomp.ir.ops import (
    GATE_MODES,
    Box,
    Complement,
    GateMode,
    Intersection,
    Interval,
    Partition,
    SparseK,
    Sweep,
    Union,
)
from attncomp.ir.oracle import gate_matrix, gate_mode, projection

FULL, CAUSAL = Box(), Box(distance=Interval(0, None))


def window(size: int) -> Box:
    return Box(distance=Interval(0, size))


@cache
def prefix_gates(u: tuple[float, ...], k: int) -> tuple[float, ...]:
    """SPARSEK of one prefix by bisection over exact rationals."""
    if len(u) <= k:
        return (1.0,) * len(u)
    exact = [Fraction(max(x, torch.finfo(torch.float64).min)) for x in u]
    theta = sorted(exact, reverse=True)[k - 1]

    def clipped(tau: Fraction) -> list[Fraction]:
        return [min(max(x - tau, Fraction(0)), Fraction(1)) for x in exact]

    low, high = theta - 1, theta
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(clipped(middle)) >= k else (low, middle)
    return tuple(map(float, clipped(low)))


def selected_keys(u: list[float], k: int) -> set[int]:
    """The k best by a stable sort: of equal scores the earlier key comes first."""
    return set(sorted(range(len(u)), key=lambda j: -max(u[j], -1e308))[:k])


def pair_gate(expr: ast.Expr, pair: Pair, u: list[float], given: dict[str, Any]) -> float:
    """The gate of a pattern for a pair, from the definitions."""
    match expr:
        case ast.Where(condition):
            return float(eval(condition_text(condition), {}, {**given, **pair._asdict()}))
        case ast.Union(members=members):
            return max(pair_gate(member, pair, u, given) for member in members)
        case ast.Intersection(members=members):
            return min(pair_gate(member, pair, u, given) for member in members)
        case ast.Difference(left=left, right=right):
            return min(pair_gate(left, pair, u, given), 1 - pair_gate(right, pair, u, given))
        case ast.Complement(operand=operand):
            return 1 - pair_gate(operand, pair, u, given)
        case ast.HeadGroups(groups=groups):
            ((_, member),) = (g for g in groups if pair.h in range(64)[g[0].start : g[0].stop])
            return pair_gate(member, pair, u, given)
    if "blocks" in expr.name:
        return block_gate(expr, pair, given)
    if expr.name in READING:
        return float(READING[expr.name](pair, given))
    return call_gate(expr, pair.q, pair.k, u)


def call_gate(call: ast.Call, q: int, key: int, u: list[float]) -> float:
    arguments: dict[str, Any] = dict(call.arguments)
    if call.name != "sparsek":
        return float(CRISP[call.name](q, key, **arguments))
    prefix = u[: max(0, q - arguments["lag"] + 1)]
    if key not in selected_keys(prefix, arguments["k"]):
        return 0.0
    if arguments["gate"] == "hard":
        return 1.0
    return prefix_gates(tuple(prefix), arguments["k"])[key]


def in_window(q: int, key: int, size: int = 1, before: int = 0, after: int = 0) -> bool:
    return key in range(q - max(size - 1, before), q + after + 1)


CRISP: dict[str, Callable[..., bool]] = {
    "full": lambda q, key: True,
    "causal": lambda q, key: key <= q,
    "window": in_window,
    "first": lambda q, key, count: key <= q and key < count,
    "chunk": lambda q, key, size: q // size == key // size,
    "dilated": lambda q, key, size, step: key in range(q, q - size * step, -step),
    "strided": lambda q, key, step: key in range(q, -1, -step),
}


# unsigned arithmetic overflows on purpose
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@given(st.data())
def test_every_pattern_means_what_its_definition_says(data: st.DataObject) -> None:
    expr = data.draw(patterns(), label="pattern")
    shape = data.draw(shapes(max_length=10), label="shape")
    u = data.draw(scores(shape), label="scores")
    graph = build(expr)
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    given = mask_tensors(shape, torch.Generator().manual_seed(seed))
    entries = {name: Entries(tensor) for name, tensor in given.items()}
    gate = gate_matrix(
        graph, shape.n_queries, shape.n_keys, {**given, "scores": u}, shape.query_heads, shape.batch
    ).expand(shape.batch, shape.query_heads, -1, -1)
    expected = torch.empty_like(gate)
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, gate.shape)).reshape(-1, 4).tolist():
        row = u[b, h * shape.groups // shape.query_heads].tolist()
        pair = Pair(i + shape.n_keys - shape.n_queries, j, h, b, shape.n_keys)
        expected[b, h, i, j] = pair_gate(expr, pair, row, entries)
    if gate_mode(graph) == "straight_through":
        expected = (expected > 0).double()
    assert_close(gate, expected, name="gate", atol=1e-12)


@pytest.mark.parametrize("kind", SCORE_KINDS)
@pytest.mark.parametrize("k", [1, 2, 5, 23, 24, 99])
def test_projection(kind: str, k: int, generator: torch.Generator) -> None:
    u = score_tensor(kind, (2, 24), generator)
    prefix = torch.ones(24, 24, dtype=torch.bool).tril()
    gate = projection(u[:, None, :], prefix, k)
    expected = torch.zeros_like(gate)
    for row, length in ((r, n) for r in range(2) for n in range(1, 25)):
        gates = prefix_gates(tuple(u[row, :length].tolist()), k)
        expected[row, length - 1, :length] = torch.tensor(gates, dtype=torch.float64)
    assert_close(gate, expected, name="m", atol=1e-13)


def test_projection_on_a_known_prefix() -> None:
    u = torch.tensor([[0.5, 0.25, -0.75, 2.0]], dtype=torch.float64)
    gate = projection(u, torch.ones(1, 4, dtype=torch.bool), 2)
    # tau = -1/8: 5/8 + 3/8 + 0 + 1 = 2
    assert gate.tolist() == [[0.625, 0.375, 0.0, 1.0]]


def test_earlier_of_equal_scores_is_selected_and_the_rest_still_lower_the_gate() -> None:
    u = torch.zeros(1, 1, 4, dtype=torch.float64)
    gate = gate_matrix(make_graph(SparseK(k=2)), 4, 4, {"scores": u})
    assert gate[0, 0].tolist() == [
        [1.0, 0.0, 0.0, 0.0],
        [1.0, 1.0, 0.0, 0.0],
        [2 / 3, 2 / 3, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0],
    ]


@given(st.data())
def test_selected_keys_live_for_an_interval_and_no_gate_grows_with_the_prefix(
    data: st.DataObject,
) -> None:
    u = data.draw(scores(Shape(n_queries=40, n_keys=40)), label="scores")
    k = data.draw(st.integers(1, 12), label="k")
    lag = data.draw(st.integers(0, 12), label="lag")
    gate = gate_matrix(make_graph(SparseK(k=k, lag=lag)), 40, 40, {"scores": u})[0, 0]
    for key in range(40):
        lifetime = gate[:, key].nonzero().flatten().tolist()
        assert lifetime == list(range(key + lag, key + lag + len(lifetime)))
        alive = gate[key + lag :, key]
        assert (alive[1:] <= alive[:-1] + 1e-12).all()
    attended = (gate > 0).sum(-1).tolist()
    assert attended == [min(k, max(0, query - lag + 1)) for query in range(40)]


@pytest.mark.parametrize("kind", SCORE_KINDS)
def test_gradient_through_the_threshold(kind: str, generator: torch.Generator) -> None:
    u = score_tensor(kind, (1, 1, 20), generator).requires_grad_()
    k = 4
    upstream = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    gate = gate_matrix(make_graph(SparseK(k=k)), 20, 20, {"scores": u})[0, 0]
    (actual,) = torch.autograd.grad(gate, u, upstream)
    expected = torch.zeros(20, dtype=torch.float64)
    row = u.detach()[0, 0].tolist()
    for query in range(20):
        m = projection(u.detach()[0], torch.arange(20)[None, :] <= query, k)[0]
        fractional = [j for j in range(query + 1) if 0 < m[j] < 1]
        chosen = selected_keys(row[: query + 1], k)
        taken = {j: upstream[query, j].item() if j in chosen else 0.0 for j in fractional}
        for j in fractional:
            expected[j] += taken[j] - math.fsum(taken.values()) / len(fractional)
    assert_close(actual[0, 0], expected, name="du", atol=1e-12)


def test_first_of_equal_gates_takes_the_gradient(generator: torch.Generator) -> None:
    u = 0.1 * torch.randn(1, 1, 6, generator=generator, dtype=torch.float64)
    for op in (Union(), Intersection()):
        first, second = u.clone().requires_grad_(), u.clone().requires_grad_()
        tree = (op, SparseK(k=2, scores="first"), SparseK(k=2, scores="second"))
        gate = gate_matrix(make_graph(tree), 6, 6, {"first": first, "second": second})
        weight = torch.arange(36, dtype=torch.float64).reshape(6, 6)
        taken, left = torch.autograd.grad((gate * weight).sum(), (first, second))
        assert taken.abs().max() > 0.1
        assert not left.any()


@pytest.mark.parametrize("op", [Union(), Intersection()], ids=["union", "intersection"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_straight_through_has_the_gradient_of_key_value(
    mirrored: bool, op: Union | Intersection, generator: torch.Generator
) -> None:
    upstream = torch.randn(1, 1, 12, 12, generator=generator, dtype=torch.float64)
    # Close together, so that most gates are fractional.
    u = 0.2 * torch.randn(1, 1, 12, generator=generator, dtype=torch.float64)
    u.requires_grad_()
    gates, gradients = [], []
    for mode in ("straight_through", "key_value"):
        members = (SparseK(k=3, gate=mode), window(3))
        graph = make_graph((op, *(members[::-1] if mirrored else members)))
        gate = gate_matrix(graph, 12, 12, {"scores": u})
        gates.append(gate.detach())
        gradients.append(torch.autograd.grad(gate, u, upstream)[0])
    assert_close(gates[0], (gates[1] > 0).double(), name="gate")
    assert_close(gradients[0], gradients[1], name="du")
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("mode", GATE_MODES)
def test_infinite_scores_count_as_the_largest_finite_ones(mode: GateMode) -> None:
    limits = torch.finfo(torch.float32)
    infinite = torch.tensor([[[-math.inf, 0.0, math.inf, -math.inf, 0.5, math.inf]]])
    finite = infinite.clamp(limits.min, limits.max)
    graph = make_graph(SparseK(k=2, gate=mode))
    expected = gate_matrix(graph, 6, 6, {"scores": finite})
    assert_close(gate_matrix(graph, 6, 6, {"scores": infinite}), expected, name="gate")
    assert expected.dtype == torch.float32
    assert (expected[0, 0] > 0).sum(-1).tolist() == [1, 2, 2, 2, 2, 2]


def test_nan_shows_in_every_prefix_that_holds_it_and_in_no_other() -> None:
    u = torch.tensor([[[0.0, 0.3, 0.1, math.nan, 0.2]]], dtype=torch.float64)
    gate = gate_matrix(make_graph((Union(), SparseK(k=2), window(1))), 5, 5, {"scores": u})[0, 0]
    assert gate.isnan().any(-1).tolist() == [False, False, False, True, True]


def test_several_scores_and_groups_are_spread_over_the_heads(generator: torch.Generator) -> None:
    drawn = {
        name: torch.randn(2, groups, 9, generator=generator, dtype=torch.float64)
        for name, groups in (("one", 1), ("two", 2))
    }
    tree = (Union(), SparseK(k=2, scores="one"), SparseK(k=3, scores="two"))
    gate = gate_matrix(make_graph(tree), 9, 9, drawn, heads=4)
    assert gate.shape == (2, 4, 9, 9)
    for head in range(4):
        group = head // 2
        alone = {"one": drawn["one"], "two": drawn["two"][:, group : group + 1]}
        expected = gate_matrix(make_graph(tree), 9, 9, alone)
        assert_close(gate[:, head : head + 1], expected, name=f"gate of head {head}")


def test_partition_means_what_the_union_means(generator: torch.Generator) -> None:
    soft, near = SparseK(k=3, lag=1), window(4)
    beyond = (Box(distance=Interval(None, 0)), Box(distance=Interval(4, None)))
    sweeps = (
        (Sweep(boxes=(near,), gathered=False), FULL),
        (Sweep(boxes=beyond, gathered=True), soft, soft),
    )
    u = torch.randn(1, 2, 15, generator=generator, dtype=torch.float64)
    expected = gate_matrix(make_graph((Union(), soft, near)), 12, 15, {"scores": u}, heads=2)
    for tree in ((Partition(), *sweeps), (Partition(), *sweeps[::-1])):
        actual = gate_matrix(make_graph(tree), 12, 15, {"scores": u}, heads=2)
        assert_close(actual, expected, name="gate")


def test_sweep_leaves_out_what_absent_selections_attend(generator: torch.Generator) -> None:
    hard, other = SparseK(k=3, gate="hard"), SparseK(k=5, gate="hard", scores="others")
    tree = (
        Partition(),
        (Sweep(boxes=(CAUSAL,), gathered=True), FULL, hard),
        (Sweep(boxes=(CAUSAL,), gathered=True), FULL, other, hard),
        (Sweep(boxes=(window(2),), gathered=False), FULL, hard, other),
    )
    u = {
        name: torch.randn(1, 1, 15, generator=generator, dtype=torch.float64)
        for name in ("scores", "others")
    }
    expected = gate_matrix(make_graph((Union(), hard, other, window(2))), 15, 15, u)
    assert_close(gate_matrix(make_graph(tree), 15, 15, u), expected, name="gate")


def test_empty_partition_attends_nothing() -> None:
    assert not gate_matrix(make_graph(Partition()), 3, 4, {}).any()
    assert gate_matrix(make_graph(Partition()), 3, 4, {}).shape == (1, 1, 3, 4)


def test_pair_visited_by_two_sweeps_is_an_error() -> None:
    sweeps = [(Sweep(boxes=(window(w),), gathered=False), FULL) for w in (2, 3)]
    with pytest.raises(VerificationError) as caught:
        gate_matrix(make_graph((Partition(), *sweeps)), 2, 4, {})
    assert str(caught.value) == (
        "pass 'oracle' left an invalid graph at %3: "
        "two sweeps of a partition visit key 1 for query 0"
    )


def test_pair_inside_two_boxes_of_a_sweep_is_an_error() -> None:
    tree = (Sweep(boxes=(window(2), Box(keys=Interval(0, 1))), gathered=False), FULL)
    with pytest.raises(VerificationError, match=r"two boxes of a sweep visit key 0 for query 0$"):
        gate_matrix(make_graph(tree), 4, 4, {})


def test_two_gate_modes_are_an_error() -> None:
    graph = make_graph((Union(), SparseK(k=2), SparseK(k=2, gate="value")))
    with pytest.raises(VerificationError, match=r"at %1: gate mode value beside key_value$"):
        gate_mode(graph)


def test_scores_that_are_missing_or_do_not_fit() -> None:
    graph = make_graph(SparseK(k=2, scores="ranks"))
    with pytest.raises(MissingTensorError) as missing:
        gate_matrix(graph, 4, 4, {"scores": torch.zeros(1, 1, 4)})
    assert str(missing.value) == "ranks: expected tensor [B, G, Nk], found scores"
    for ill in (torch.zeros(1, 3, 4), torch.zeros(1, 1, 5), torch.zeros(4), torch.zeros(1, 0, 4)):
        with pytest.raises(TensorShapeError) as shape:
            gate_matrix(graph, 4, 4, {"ranks": ill}, heads=4)
        assert str(shape.value) == (
            f"ranks: expected shape [B, G, 4] with G dividing 4 heads, found {list(ill.shape)}"
        )


@pytest.mark.parametrize("tree", [Box(), SparseK(k=2), (Complement(), Box())])
def test_no_keys_and_no_queries(tree: object) -> None:
    for n_queries, n_keys in ((0, 3), (3, 0), (0, 0)):
        u: Tensor = torch.zeros(1, 1, n_keys)
        gate = gate_matrix(make_graph(tree), n_queries, n_keys, {"scores": u})
        assert gate.shape == (1, 1, n_queries, n_keys)
