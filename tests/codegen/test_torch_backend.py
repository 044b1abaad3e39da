"""The generated torch modules against dense attention, in float64 and all its gradients."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import Inputs, Result, Shape, assert_same_results, dense_result, random_inputs
from hypothesis import given
from hypothesis import strategies as st
from strategies import conditions, patterns, problems
from torch import Tensor
from torch_modules import PATTERNS, make_plan, module_of, run_module

from attncomp.frontend.ast import Expr, Intersection, Where
from attncomp.frontend.ast import Union as UnionOf
from attncomp.frontend.predicate import Condition
from attncomp.ir.graph import Graph
from attncomp.ir.ops import GATE_MODES, GateMode, SparseK, Union
from attncomp.ir.reference import reference_attention
from attncomp.ir.schedule import DtypeName

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())["cases"]
EXACT = {"atol": 1e-11, "rtol": 1e-9}


def check(
    pattern: str | Expr,
    shape: Shape,
    generator: torch.Generator,
    *,
    scores: Tensor | None = None,
    with_lse: bool = True,
    **options: Any,
) -> None:
    inputs = random_inputs(shape, generator, scores=scores)
    actual, _ = run_module(
        make_plan(pattern, shape, **options), inputs, scale=0.4, with_lse=with_lse
    )
    expected = dense_result(pattern, inputs, scale=0.4, with_lse=with_lse)
    assert_same_results(actual, expected, **EXACT)


@given(
    pattern=patterns(),
    problem=problems(),
    tile=st.sampled_from([(8, 4), (5, 16), (64, 64)]),
    full_tiles=st.booleans(),
    with_lse=st.booleans(),
)
def test_any_pattern_matches_dense_attention(
    pattern: Expr,
    problem: tuple[Shape, Tensor, int],
    tile: tuple[int, int],
    full_tiles: bool,
    with_lse: bool,
) -> None:
    shape, scores, seed = problem
    check(
        pattern,
        shape,
        torch.Generator().manual_seed(seed),
        scores=scores,
        tile=tile,
        full_tiles=full_tiles,
        with_lse=with_lse,
    )


@given(
    condition=conditions(),
    rest=patterns(max_leaves=2),
    problem=problems(),
    tile=st.sampled_from([(8, 4), (5, 16), (64, 64)]),
)
def test_any_predicate_matches_dense_attention(
    condition: Condition, rest: Expr, problem: tuple[Shape, Tensor, int], tile: tuple[int, int]
) -> None:
    shape, scores, seed = problem
    generator = torch.Generator().manual_seed(seed)
    check(UnionOf((Where(condition), rest)), shape, generator, scores=scores, tile=tile)
    check(Intersection((Where(condition), rest)), shape, generator, scores=scores, tile=tile)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["name"])
def test_reproduces_the_pinned_vectors(case: Mapping[str, Any]) -> None:
    def tensor(name: str) -> Tensor:
        return torch.tensor(_numbers(case[name]), dtype=torch.float64)

    q, k, v = tensor("q"), tensor("k"), tensor("v")
    scores = tensor("scores")
    shape = Shape(
        batch=q.shape[0],
        query_heads=q.shape[1],
        kv_heads=k.shape[1],
        groups=scores.shape[1],
        n_queries=q.shape[2],
        n_keys=k.shape[2],
        head_dim=q.shape[3],
        value_dim=v.shape[3],
    )
    inputs = Inputs(
        q=q, k=k, v=v, scores=scores, dout=tensor("dout"), dlse=torch.zeros(q.shape[:3]).double()
    )
    plan = make_plan(case["spec"], shape, tile=(4, 4))
    actual, _ = run_module(plan, inputs, scale=q.shape[3] ** -0.5, with_lse=False)
    no_gradient = case["dscores"] is None
    expected = Result(
        **{name: tensor(name) for name in ("out", "lse", "dq", "dk", "dv")},
        dscores=torch.zeros_like(scores) if no_gradient else tensor("dscores"),
    )
    assert_same_results(actual, expected, atol=1e-12, rtol=1e-9)


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return -math.inf if value == -1e308 else float(value)


@pytest.mark.parametrize("mode", GATE_MODES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_in_each_gate_mode(
    pattern: str, mode: GateMode, generator: torch.Generator
) -> None:
    shape = Shape(
        batch=2, query_heads=4, kv_heads=2, n_queries=37, n_keys=37, head_dim=16, value_dim=8
    )
    check(pattern.format(mode=mode), shape, generator)


@pytest.mark.parametrize(
    "pattern",
    [
        'window(20) - sparsek(k=6, gate="hard")',
        'causal & ~sparsek(k=6, lag=3, gate="hard") | first(2)',
        'sparsek(k=9, gate="hard") - sparsek(k=4, gate="hard")',
        'window(9) | sparsek(k=9, lag=2, gate="hard") - sparsek(k=4, lag=5, gate="hard")',
    ],
)
def test_complements_of_hard_selections(pattern: str, generator: torch.Generator) -> None:
    shape = Shape(batch=2, query_heads=4, kv_heads=2, groups=2, n_queries=31, n_keys=31)
    check(pattern, shape, generator)


@pytest.mark.parametrize(
    ("query_heads", "kv_heads", "groups"),
    [(1, 1, 1), (6, 6, 1), (6, 1, 1), (6, 2, 1), (6, 2, 6), (6, 3, 2), (6, 1, 3), (12, 2, 3)],
)
@pytest.mark.parametrize(("n_queries", "n_keys"), [(33, 33), (9, 33), (1, 33), (40, 21)])
def test_heads_groups_and_lengths(
    query_heads: int,
    kv_heads: int,
    groups: int,
    n_queries: int,
    n_keys: int,
    generator: torch.Generator,
) -> None:
    shape = Shape(
        batch=2,
        query_heads=query_heads,
        kv_heads=kv_heads,
        groups=groups,
        n_queries=n_queries,
        n_keys=n_keys,
        head_dim=16,
        value_dim=24,
    )
    check("sparsek(k=5, lag=2) | window(4)", shape, generator)


def test_selections_by_two_score_tensors_with_their_own_groups(
    generator: torch.Generator,
) -> None:
    graph = Graph()
    members = [
        graph.add(SparseK(k=4, scores="here")),
        graph.add(SparseK(k=6, lag=3, scores="there")),
        graph.add(SparseK(k=2, lag=5, scores="here")),
    ]
    graph.set_root(graph.add(Union(), members))
    shape = Shape(query_heads=4, kv_heads=2, groups=4, n_queries=29, n_keys=29)
    inputs = random_inputs(shape, generator)
    tensors = {
        "here": inputs.scores.clone().requires_grad_(),
        "there": torch.randn(1, 2, 29, generator=generator).double().requires_grad_(),
    }
    out, _ = reference_attention(graph, inputs.q, inputs.k, inputs.v, tensors, 0.4)
    expected = torch.autograd.grad(out, list(tensors.values()), inputs.dout)

    plan = make_plan(graph, shape)
    scores = tuple(tensors[name].detach() for name in plan.scores)
    actual, dscores = run_module(plan, inputs, scale=0.4, with_lse=False, scores=scores)
    torch.testing.assert_close(actual.out, out.detach(), atol=1e-11, rtol=1e-9)
    found = dict(zip(plan.scores, dscores, strict=True))
    for name, gradient in zip(tensors, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, atol=1e-11, rtol=1e-9)


def test_strided_inputs(generator: torch.Generator) -> None:
    """Layouts [B, N, H, D] and views with gaps give what contiguous inputs give."""
    pattern = "sparsek(k=5) | window(4)"
    shape = Shape(batch=2, query_heads=4, kv_heads=2, n_queries=33, n_keys=33)
    plain = random_inputs(shape, generator)
    strided = Inputs(
        q=plain.q.transpose(1, 2).contiguous().transpose(1, 2),
        k=torch.cat([plain.k, plain.k], 3)[..., : shape.head_dim],
        v=plain.v.transpose(0, 2).contiguous().transpose(0, 2),
        scores=plain.scores.repeat_interleave(2, dim=2)[..., ::2],
        dout=plain.dout.transpose(1, 2).contiguous().transpose(1, 2),
        dlse=plain.dlse.transpose(1, 2).contiguous().transpose(1, 2),
    )
    plan = make_plan(pattern, shape)
    expected, _ = run_module(plan, plain, scale=0.4)
    actual, _ = run_module(plan, strided, scale=0.4)
    assert_same_results(actual, expected, **EXACT)
    for tensor in (actual.out, actual.lse, actual.dq, actual.dk, actual.dv, actual.dscores):
        assert tensor.is_contiguous()


def test_an_empty_pattern_gives_zeros_and_no_state(generator: torch.Generator) -> None:
    shape = Shape(batch=2, query_heads=4, kv_heads=2, n_queries=7, n_keys=9, value_dim=6)
    inputs = random_inputs(shape, generator)
    plan = make_plan("window(3) & ~causal", shape)
    assert plan.sweeps == ()
    assert module_of(plan).select((), 7) == ()
    actual, _ = run_module(plan, inputs, scale=0.4)
    assert actual.out.shape == (2, 4, 7, 6)
    assert (actual.lse == -torch.inf).all()
    for tensor in (actual.out, actual.dq, actual.dk, actual.dv):
        assert (tensor == 0).all()


@pytest.mark.parametrize("mode", GATE_MODES)
def test_empty_rows_are_zero_even_with_gradients_of_lse(
    mode: GateMode, generator: torch.Generator
) -> None:
    shape = Shape(query_heads=2, kv_heads=1, n_queries=20, n_keys=14)
    inputs = random_inputs(shape, generator)
    empty = 20 - 14 + 4
    inputs.dlse[:, :, :empty] = torch.nan  # what exp(lse - lse) would send back
    plan = make_plan(f'sparsek(k=3, lag=4, gate="{mode}")', shape)
    actual, _ = run_module(plan, inputs, scale=0.4)
    assert (actual.out[:, :, :empty] == 0).all()
    assert (actual.lse[:, :, :empty] == -torch.inf).all()
    assert (actual.dq[:, :, :empty] == 0).all()
    assert actual.lse[:, :, empty:].isfinite().all()
    for tensor in (actual.dq, actual.dk, actual.dv, actual.dscores):
        assert tensor.isfinite().all()


@pytest.mark.parametrize(
    ("batch", "n_queries", "n_keys"), [(0, 9, 9), (2, 0, 9), (2, 9, 0), (0, 0, 0)]
)
@pytest.mark.parametrize("pattern", ["window(3)", "sparsek(k=4) | window(3)"])
def test_inputs_of_size_zero(
    pattern: str, batch: int, n_queries: int, n_keys: int, generator: torch.Generator
) -> None:
    shape = Shape(batch=batch, query_heads=4, kv_heads=2, n_queries=n_queries, n_keys=n_keys)
    check(pattern, shape, generator)


@pytest.mark.parametrize("pattern", ["window(5)", "sparsek(k=4) | window(5)"])
def test_nan_in_a_query_or_key_reaches_what_attends_it(
    pattern: str, generator: torch.Generator
) -> None:
    shape = Shape(query_heads=2, kv_heads=1, n_queries=24, n_keys=24)
    inputs = random_inputs(shape, generator)
    inputs.q[0, 0, 5] = torch.nan
    inputs.k[0, 0, 20] = torch.nan
    actual, _ = run_module(make_plan(pattern, shape), inputs, scale=0.4)
    assert actual.out[0, 0, 5].isnan().all()
    assert actual.out[0, :, 20:].isnan().all()
    assert actual.out[0, 1, :20].isfinite().all()
    assert actual.dq[0, 0, 5].isnan().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 3e-3)])
@pytest.mark.parametrize("mode", ["key_value", "logit", "hard"])
def test_low_precision_is_computed_in_fp32(
    dtype: DtypeName, tolerance: float, mode: GateMode, generator: torch.Generator
) -> None:
    """Only inputs and outputs are rounded: errors are of one rounding, however many the keys."""
    shape = Shape(query_heads=4, kv_heads=2, n_queries=130, n_keys=130, head_dim=16, value_dim=16)
    torch_dtype = getattr(torch, dtype)
    inputs = random_inputs(shape, generator, dtype=torch_dtype)
    inputs = dataclasses.replace(inputs, scores=inputs.scores.float(), dlse=inputs.dlse.float())
    pattern = f'sparsek(k=60, gate="{mode}") | window(20)'
    actual, _ = run_module(make_plan(pattern, shape, dtype=dtype), inputs, scale=0.25)
    exact = inputs.to(torch.float64)
    expected = dense_result(pattern, exact, scale=0.25)
    assert {actual.out.dtype, actual.dq.dtype, actual.dk.dtype, actual.dv.dtype} == {torch_dtype}
    assert actual.lse.dtype == actual.dscores.dtype == torch.float32
    for name in ("out", "lse", "dq", "dk", "dv", "dscores"):
        wanted = getattr(expected, name)
        error = (getattr(actual, name).double() - wanted).abs().amax()
        assert error <= tolerance * wanted.abs().amax().clamp(min=1), name


def test_float32_scores_with_float64_inputs_and_the_other_way(generator: torch.Generator) -> None:
    shape = Shape(query_heads=2, kv_heads=1, n_queries=25, n_keys=25)
    inputs = random_inputs(shape, generator)
    single = inputs.scores.float()
    pattern = "sparsek(k=5) | window(3)"
    plan = make_plan(pattern, shape)
    exact = dataclasses.replace(inputs, scores=single.double())
    expected = dense_result(pattern, exact, scale=0.4)
    actual, _ = run_module(plan, dataclasses.replace(inputs, scores=single), scale=0.4)
    assert_same_results(actual, expected, atol=1e-5, rtol=1e-4)

    low = exact.to(torch.float32)
    low = dataclasses.replace(low, scores=exact.scores)
    actual, _ = run_module(make_plan(pattern, shape, dtype="float32"), low, scale=0.4)
    assert actual.dscores.dtype == torch.float64
    assert_same_results(actual, expected, atol=1e-4, rtol=1e-3)


def test_two_runs_are_equal_bit_for_bit(generator: torch.Generator) -> None:
    shape = Shape(batch=2, query_heads=4, kv_heads=2, n_queries=300, n_keys=300, head_dim=16)
    plan = make_plan("sparsek(k=40) | window(30)", shape, dtype="float32", tile=(32, 32))
    inputs = random_inputs(shape, generator, dtype=torch.float32)
    first, _ = run_module(plan, inputs, scale=0.25)
    second, _ = run_module(plan, inputs, scale=0.25)
    assert_same_results(first, second)
