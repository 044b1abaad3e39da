"""The dense reference against torch's own attention, finite differences and the closed formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from dense import (
    Inputs,
    Result,
    Shape,
    assert_close,
    assert_same_results,
    make_graph,
    random_inputs,
    run_with_gradients,
)
from hypothesis import given
from hypothesis import strategies as st
from strategies import patterns, problems
from torch import Tensor

from attncomp.errors import TensorShapeError
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.graph import Graph
from attncomp.ir.ops import (
    GATE_MODES,
    Box,
    Complement,
    GateMode,
    Intersection,
    Interval,
    SparseK,
    Union,
)
from attncomp.ir.oracle import gate_matrix, projection
from attncomp.ir.reference import reference_attention

SOFT_MODES = tuple(mode for mode in GATE_MODES if mode not in ("hard", "straight_through"))
GROUPED = Shape(batch=2, query_heads=4, kv_heads=2, groups=2, n_queries=7, n_keys=9, value_dim=3)
MORE_QUERIES = Shape(query_heads=2, groups=2, n_queries=9, n_keys=6)


def window(size: int) -> Box:
    return Box(distance=Interval(0, size))


def attend(
    graph: Graph, scale: float | None = None, given: Inputs | None = None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    tensors = {} if given is None else given.given
    return lambda q, k, v, scores: reference_attention(
        graph, q, k, v, {**tensors, "scores": scores}, scale
    )


def gates_of(graph: Graph, shape: Shape, inputs: Inputs, scale: float | None = None) -> Tensor:
    scale = shape.head_dim**-0.5 if scale is None else scale
    keys = inputs.k.repeat_interleave(shape.query_heads // shape.kv_heads, 1)
    tensors = {**inputs.given, "scores": inputs.scores, "logits": scale * inputs.q @ keys.mT}
    sizes = (shape.n_queries, shape.n_keys)
    return gate_matrix(graph, *sizes, tensors, shape.query_heads, shape.batch)


def leaves(inputs: Inputs) -> list[Tensor]:
    tensors = (inputs.q, inputs.k, inputs.v, inputs.scores)
    return [tensor.clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("shape", [GROUPED, MORE_QUERIES], ids=["grouped", "more queries"])
@pytest.mark.parametrize("mode", SOFT_MODES)
def test_gradients_are_those_of_finite_differences(
    mode: GateMode, shape: Shape, generator: torch.Generator
) -> None:
    graph = make_graph((Union(), SparseK(k=3, lag=1, gate=mode), window(1)))

    def finite(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = attend(graph)(*tensors)
        return out, torch.where(lse.isinf(), 0.0, lse)

    # Well apart, so that no perturbation moves a score over another or over a breakpoint.
    size = (shape.batch, shape.groups, shape.n_keys)
    ranks = torch.rand(size, generator=generator, dtype=torch.float64).argsort(-1)
    u = 0.23 * ranks + 0.01 * torch.rand(size, generator=generator, dtype=torch.float64)
    inputs = leaves(random_inputs(shape, generator, scores=u))
    assert torch.autograd.gradcheck(finite, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(finite, inputs, fast_mode=True)


def closed_formulas(inputs: Inputs, k: int, near: int, mode: GateMode) -> Result:
    """`sparsek(k, gate=mode) | window(near)` for one batch entry, a group a head and Nq = Nk."""
    heads, n, head_dim = inputs.q.shape[1:]
    scale = 1 / math.sqrt(head_dim)
    shared = heads // inputs.k.shape[1]
    position = torch.arange(n)
    distance = position[:, None] - position[None, :]
    is_near = (distance >= 0) & (distance < near)
    out, dq, dscores = (torch.zeros_like(t) for t in (inputs.dout, inputs.q, inputs.scores))
    dk, dv = torch.zeros_like(inputs.k), torch.zeros_like(inputs.v)
    lse = torch.zeros_like(inputs.dlse)
    for h in range(heads):
        q, key, value = inputs.q[0, h], inputs.k[0, h // shared], inputs.v[0, h // shared]
        u, dout = inputs.scores[:, h], inputs.dout[0, h]
        m = projection(u, distance >= 0, k)
        graph = make_graph(SparseK(k=k, gate="hard"))
        selected = gate_matrix(graph, n, n, {"scores": u[None]})[0, 0] > 0
        attended = selected | is_near
        g = torch.where(is_near, 1.0, m) if mode not in ("hard", "straight_through") else 1.0
        g = torch.where(attended, g, 0.0)
        a = g if mode == "key_value" else torch.ones_like(g)
        b = g if mode in ("key_value", "value") else torch.ones_like(g)
        s = scale * q @ key.T
        x = a * s + (g.log() if mode == "logit" else 0.0)
        x = x.masked_fill(~attended, -torch.inf)
        lse[0, h] = x.logsumexp(-1)
        p = x.softmax(-1)
        out[0, h] = (p * b) @ value
        delta = (dout * out[0, h]).sum(-1) - inputs.dlse[0, h]
        dx = p * (b * (dout @ value.T) - delta[:, None])
        dq[0, h] = scale * (a * dx) @ key
        dk[0, h // shared] += scale * (a * dx).T @ q
        dv[0, h // shared] += (p * b).T @ dout
        first = p * (dout @ value.T)
        gate_gradient = {
            "key_value": first + dx * s,
            "straight_through": first + dx * s,
            "value": first,
            "logit": dx / g,
            "hard": torch.zeros_like(p),
        }[mode]
        gate_gradient = torch.where(selected & ~is_near, gate_gradient, 0.0)
        fractional = (m > 0) & (m < 1)
        c = torch.where(fractional, gate_gradient, 0.0).sum(-1, keepdim=True)
        share = c / fractional.sum(-1, keepdim=True)
        dscores[0, h] = torch.where(fractional, gate_gradient - share, 0.0).sum(0)
    return Result(out=out, lse=lse, dq=dq, dk=dk, dv=dv, dscores=dscores)


@pytest.mark.parametrize("kind", ["normal", "ties"])
@pytest.mark.parametrize("mode", GATE_MODES)
def test_gradients_are_those_of_the_closed_formulas(
    mode: GateMode, kind: str, generator: torch.Generator
) -> None:
    shape = Shape(query_heads=4, kv_heads=2, groups=4, n_queries=24, n_keys=24, head_dim=8)
    inputs = random_inputs(shape, generator)
    if kind == "ties":
        inputs.scores.round_()
    for k, near in ((3, 2), (6, 4), (30, 1)):
        graph = make_graph((Union(), SparseK(k=k, gate=mode), window(near)))
        actual = run_with_gradients(attend(graph), inputs)
        expected = closed_formulas(inputs, k, near, mode)
        assert_same_results(actual, expected, atol=1e-11)
        assert bool(expected.dscores.any()) == (mode != "hard" and k < 24)


@given(st.data())
def test_crisp_patterns_are_masked_attention(data: st.DataObject) -> None:
    graph = build(data.draw(patterns(soft=False), label="pattern"))
    shape, u, seed = data.draw(problems(max_length=20), label="problem")
    inputs = random_inputs(shape, torch.Generator().manual_seed(seed), scores=u)
    mask = gates_of(graph, shape, inputs, 0.3) > 0

    def masked(q: Tensor, k: Tensor, v: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, enable_gqa=True, scale=0.3
        )
        shared = shape.query_heads // shape.kv_heads
        x = 0.3 * q @ k.repeat_interleave(shared, 1).mT
        empty = ~mask.any(-1)
        # Where a row has no key, torch's gradients of logsumexp are NaN.
        x = x.masked_fill(~mask & ~empty[..., None], -torch.inf)
        return out, x.logsumexp(-1).masked_fill(empty, -torch.inf)

    actual = run_with_gradients(attend(graph, 0.3, inputs), inputs)
    assert_same_results(actual, run_with_gradients(masked, inputs), atol=1e-10)


@given(st.data())
def test_every_pattern_is_finite_and_its_empty_rows_are_zero(data: st.DataObject) -> None:
    graph = build(data.draw(patterns(), label="pattern"))
    shape, u, seed = data.draw(problems(max_length=20), label="problem")
    inputs = random_inputs(shape, torch.Generator().manual_seed(seed), scores=u)
    result = run_with_gradients(attend(graph, given=inputs), inputs)
    gate = gates_of(graph, shape, inputs)
    empty = (gate == 0).all(-1).expand(result.lse.shape)
    assert torch.equal(result.lse == -torch.inf, empty)
    assert result.lse[~empty].isfinite().all()
    assert not result.out[empty].any()
    assert not result.dq[empty].any()
    for name in ("out", "dq", "dk", "dv", "dscores"):
        assert getattr(result, name).isfinite().all(), name
    never = (gate == 0).all(-2).expand(shape.batch, shape.query_heads, -1)
    shared = (shape.batch, shape.kv_heads, -1, shape.n_keys)
    assert not result.dv[never.reshape(shared).all(2)].any()


@pytest.mark.parametrize("mode", GATE_MODES)
def test_second_derivatives_of_empty_rows_are_zero(
    mode: GateMode, generator: torch.Generator
) -> None:
    shape = Shape(n_queries=8, n_keys=5)
    inputs = leaves(random_inputs(shape, generator))
    q, k, v, u = inputs
    out, lse = attend(make_graph(SparseK(k=2, lag=2, gate=mode)))(q, k, v, u)
    assert (lse[0, 0] == -torch.inf).tolist() == [True] * 5 + [False] * 3
    first = torch.autograd.grad(
        (out.sum(), lse[..., 5:].sum()), inputs, create_graph=True, materialize_grads=True
    )
    squares = torch.stack([(gradient**2).sum() for gradient in first]).sum()
    second = torch.autograd.grad(squares, inputs, materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in (*first, *second))
    assert not first[0][:, :, :5].any()
    assert not second[0][:, :, :5].any()
    assert second[0][:, :, 5:].any()


@pytest.mark.parametrize("mode", GATE_MODES)
def test_heads_read_the_kv_head_and_score_group_of_their_block(
    mode: GateMode, generator: torch.Generator
) -> None:
    graph = make_graph((Union(), SparseK(k=2, gate=mode), window(2)))
    shape = Shape(query_heads=6, kv_heads=3, groups=2, n_queries=8, n_keys=8)
    inputs = random_inputs(shape, generator)
    out, lse = attend(graph)(inputs.q, inputs.k, inputs.v, inputs.scores)
    for h in range(6):
        kv, group = slice(h // 2, h // 2 + 1), slice(h // 3, h // 3 + 1)
        one, one_lse = attend(graph)(
            inputs.q[:, h : h + 1], inputs.k[:, kv], inputs.v[:, kv], inputs.scores[:, group]
        )
        assert_close(out[:, h : h + 1], one, name=f"out of head {h}", atol=1e-14)
        assert_close(lse[:, h : h + 1], one_lse, name=f"lse of head {h}", atol=1e-14)


def test_queries_stand_at_the_end_of_the_keys(generator: torch.Generator) -> None:
    graph = make_graph(
        (Intersection(), (Union(), SparseK(k=4, lag=1), window(3)), (Complement(), window(1)))
    )
    inputs = random_inputs(Shape(n_queries=12, n_keys=12), generator)
    out, lse = attend(graph)(inputs.q, inputs.k, inputs.v, inputs.scores)
    last, last_lse = attend(graph)(inputs.q[:, :, -5:], inputs.k, inputs.v, inputs.scores)
    assert_close(last, out[:, :, -5:], name="out", atol=1e-14)
    assert_close(last_lse, lse[:, :, -5:], name="lse", atol=1e-14)


@pytest.mark.parametrize("mode", GATE_MODES)
def test_saturated_gates_leave_plain_attention(mode: GateMode, generator: torch.Generator) -> None:
    # Scores two apart: the k best keys all have a gate of 1.
    shape = Shape(n_queries=16, n_keys=16)
    ranks = torch.rand(1, 1, 16, generator=generator, dtype=torch.float64).argsort(-1)
    inputs = random_inputs(shape, generator, scores=2.0 * ranks)
    soft, crisp = (make_graph(SparseK(k=4, gate=gate)) for gate in (mode, "hard"))
    assert_same_results(
        run_with_gradients(attend(soft), inputs), run_with_gradients(attend(crisp), inputs)
    )


def test_small_gates_count(generator: torch.Generator) -> None:
    # Of equal scores the first key alone is selected, with a gate of 1 / n.
    shape = Shape(n_queries=200, n_keys=200)
    inputs = random_inputs(shape, generator, scores=torch.zeros(1, 1, 200))
    graph = make_graph(SparseK(k=1, gate="logit"))
    out, lse = attend(graph, 1.0)(inputs.q, inputs.k, inputs.v, inputs.scores)
    n = torch.arange(1, 201, dtype=torch.float64)
    assert_close(out, inputs.v[:, :, :1].expand_as(out), name="out")
    assert_close(lse, inputs.q @ inputs.k[0, 0, 0] - n.log(), name="lse", atol=1e-13)


def test_nan_score_shows_in_the_queries_that_see_it(generator: torch.Generator) -> None:
    inputs = random_inputs(Shape(n_queries=6, n_keys=6), generator)
    inputs.scores[0, 0, 3] = math.nan
    graph = make_graph((Union(), SparseK(k=2), window(1)))
    out, lse = attend(graph)(inputs.q, inputs.k, inputs.v, inputs.scores)
    assert out.isnan().any(-1)[0, 0].tolist() == [False] * 3 + [True] * 3
    assert lse.isnan()[0, 0].tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_inputs_keep_their_dtype(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    graph = make_graph((Union(), SparseK(k=3), window(2)))
    inputs = random_inputs(Shape(n_queries=12, n_keys=12), generator, dtype=dtype)
    truth = inputs.to(torch.float64)
    actual = run_with_gradients(attend(graph), inputs)
    expected = run_with_gradients(attend(graph), truth)
    assert {t.dtype for t in (actual.out, actual.lse, actual.dq, actual.dscores)} == {dtype}
    assert_same_results(actual, expected, atol=40 * torch.finfo(dtype).eps, rtol=0.1)


def test_inputs_without_keys_or_queries() -> None:
    graph = make_graph((Union(), SparseK(k=3), window(2)))
    for n_queries, n_keys in ((3, 0), (0, 3), (0, 0)):
        shape = Shape(n_queries=n_queries, n_keys=n_keys)
        result = run_with_gradients(attend(graph), random_inputs(shape, torch.Generator()))
        assert not result.out.any()
        assert (result.lse == -torch.inf).all()


def test_shapes_that_do_not_fit() -> None:
    q, k, v = torch.zeros(2, 4, 5, 8), torch.zeros(2, 2, 6, 8), torch.zeros(2, 2, 6, 3)
    graph = make_graph(Box())
    cases = [
        ((q[0], k, v), "q: expected shape of 4 dimensions, found [4, 5, 8]"),
        (
            (q[:, :3], k, v),
            "k: expected shape [2, Hk, Nk, 8] with Hk dividing 3 heads, found [2, 2, 6, 8]",
        ),
        (
            (q, k[..., :4], v),
            "k: expected shape [2, Hk, Nk, 8] with Hk dividing 4 heads, found [2, 2, 6, 4]",
        ),
        ((q, k, v[:, :, 1:]), "v: expected shape [2, 2, 6, Dv], found [2, 2, 5, 3]"),
    ]
    for tensors, message in cases:
        with pytest.raises(TensorShapeError) as caught:
            reference_attention(graph, *tensors, {})
        assert str(caught.value) == message
    with pytest.raises(TensorShapeError) as caught:
        reference_attention(make_graph(SparseK(k=1)), q, k, v, {"scores": torch.zeros(3, 1, 6)})
    assert str(caught.value) == "batch of the scores: expected shape [2], found [3]"


@pytest.mark.parametrize(
    ("pattern", "respelled"),
    [
        ("sparsek(k=5, lag=7) | sparsek(k=8, lag=1)", "sparsek(k=8, lag=1) | sparsek(k=5, lag=7)"),
        ("sparsek(k=3, lag=2) & sparsek(k=9)", "sparsek(k=9) & sparsek(k=3, lag=2)"),
        (
            "sparsek(k=4, lag=2) | sparsek(k=6) & sparsek(k=9, lag=1)",
            "sparsek(k=9, lag=1) & sparsek(k=6) | sparsek(k=4, lag=2)",
        ),
    ],
)
def test_equal_gates_give_one_gradient_in_every_spelling(
    pattern: str, respelled: str, generator: torch.Generator
) -> None:
    """Of equal gates the selection of smaller lag, then larger k, takes the gradient."""
    q, k, v = (torch.randn(1, 1, 30, 4, dtype=torch.float64, generator=generator) for _ in "qkv")
    # Quarters, so that gates are often equal and fractional at once.
    scores = (torch.randn(1, 1, 30, dtype=torch.float64, generator=generator) * 4).round() / 4

    def gradient(text: str) -> Tensor:
        u = scores.clone().requires_grad_()
        out, _ = reference_attention(build(parse(text)), q, k, v, {"scores": u})
        return torch.autograd.grad(out.square().sum(), u)[0]

    assert_close(gradient(respelled), gradient(pattern), name="dscores", atol=1e-12)
