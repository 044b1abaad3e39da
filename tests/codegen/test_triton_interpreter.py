"""Generated Triton modules in Triton's interpreter, against dense attention in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from dense import Shape, apart, dense_result, random_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from select_support import check_select
from strategies import SCORE_KINDS, patterns, problems, score_tensor, sparse_ks
from torch import Tensor
from triton_support import OVERFLOWS, assert_near, make_plan, run_plan, wide

from attncomp.frontend.ast import Call, Expr
from attncomp.ir.ops import GateMode

TOLERANCE = 1e-5
SCALE = 0.3
pytestmark = [pytest.mark.usefixtures("interpreted"), OVERFLOWS]


def check(
    pattern: str | Expr,
    shape: Shape,
    generator: torch.Generator,
    *,
    scores: Tensor | None = None,
    with_lse: bool = True,
) -> None:
    inputs = random_inputs(shape, generator, scores=scores, dtype=torch.float32)
    inputs = apart(inputs, SCALE)
    actual = run_plan(make_plan(pattern, shape), inputs, SCALE, with_lse=with_lse)
    assert_near(
        actual, dense_result(pattern, wide(inputs), scale=SCALE, with_lse=with_lse), TOLERANCE
    )


@settings(max_examples=12)
@given(pattern=patterns(), problem=problems(), with_lse=st.booleans())
def test_any_pattern_matches_dense_attention(
    pattern: Expr, problem: tuple[Shape, Tensor, int], with_lse: bool
) -> None:
    shape, scores, seed = problem
    generator = torch.Generator().manual_seed(seed)
    check(pattern, shape, generator, scores=scores, with_lse=with_lse)


SQUARE = Shape(query_heads=2, groups=2, n_queries=70, n_keys=70, head_dim=16, value_dim=16)
CRISP = {
    "window(9)": SQUARE,
    "window(50)": SQUARE,
    "causal": SQUARE,
    "full": SQUARE,
    "first(3) | window(5)": SQUARE,
    "window(4) - full": SQUARE,
    "window(40) - first(20)": dataclasses.replace(SQUARE, n_queries=90, n_keys=60),
    "causal & ~window(7)": dataclasses.replace(SQUARE, n_queries=33, n_keys=75),
    # A mask that depends on keys alone, with several heads a tile.
    "where(2 <= k and k < n // 2)": dataclasses.replace(SQUARE, query_heads=4, kv_heads=2),
}


@pytest.mark.parametrize("pattern", CRISP)
def test_crisp_patterns(pattern: str, generator: torch.Generator) -> None:
    check(pattern, CRISP[pattern], generator)


@pytest.mark.parametrize("gate", ["key_value", "value", "hard", "straight_through", "logit"])
def test_gate_modes(gate: GateMode, generator: torch.Generator) -> None:
    shape = dataclasses.replace(SQUARE, query_heads=4, kv_heads=2)
    check(f"sparsek(k=7, gate='{gate}') | window(4)", shape, generator)


@pytest.mark.parametrize("kind", SCORE_KINDS)
def test_kinds_of_scores(kind: str, generator: torch.Generator) -> None:
    shape = dataclasses.replace(SQUARE, n_queries=50, n_keys=50)
    scores = score_tensor(kind, (1, 2, 50), generator)
    check("sparsek(k=6) | window(4)", shape, generator, scores=scores)


COMPOSITIONS = {
    "lag": "sparsek(k=5, lag=3) | window(3)",
    "lag beyond the keys": "sparsek(k=4, lag=80) | first(2)",
    "only sparsek": "sparsek(k=5)",
    "k beyond the keys": "first(3) | window(5) | sparsek(k=100)",
    "two of one lag": "sparsek(k=3) | sparsek(k=9) & window(20)",
    "two lags": "sparsek(k=3, lag=8) | sparsek(k=9) & window(20)",
    "intersection": "sparsek(k=12) & sparsek(k=7, lag=2) | window(3)",
    "hard complement": "window(12) - sparsek(k=3, gate='hard')",
    "hard difference": "sparsek(k=20, gate='hard') - sparsek(k=3, lag=1, gate='hard')",
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_compositions(name: str, generator: torch.Generator) -> None:
    check(COMPOSITIONS[name], SQUARE, generator)


# (query heads, KV heads, groups): how many heads share a tile follows from the three.
LAYOUTS = {
    "one group for all heads": (4, 4, 1),
    "a group a head": (2, 2, 2),
    "grouped queries, all packed": (8, 2, 2),
    "groups that cut KV heads": (4, 2, 4),
    "groups that span KV heads": (8, 4, 2),
    "one KV head": (4, 1, 1),
    "one KV head, two groups": (4, 1, 2),
    "three heads a unit": (6, 2, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_head_layouts(layout: str, generator: torch.Generator) -> None:
    query_heads, kv_heads, groups = LAYOUTS[layout]
    shape = Shape(
        batch=2 if query_heads <= 4 else 1,
        query_heads=query_heads,
        kv_heads=kv_heads,
        groups=groups,
        n_queries=40,
        n_keys=40,
        head_dim=16,
        value_dim=16,
    )
    check("sparsek(k=6, lag=2) | window(5)", shape, generator)


SHAPES = {
    "one position": (1, 1, 16, 16),
    "one query": (1, 50, 16, 16),
    "one key": (50, 1, 16, 16),
    "fewer queries": (37, 90, 16, 16),
    "keys from segments before": (37, 170, 16, 16),
    "more queries": (90, 37, 16, 16),
    "head dims that are no powers of two": (40, 40, 20, 24),
    "a wide value": (40, 40, 16, 48),
    "a wide head": (20, 20, 256, 16),
    "a segment's end": (64, 64, 16, 16),
    "segments and more": (130, 130, 16, 16),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("pattern", ["sparsek(k=6, lag=1) | window(3)", "first(2) | window(20)"])
def test_shapes(name: str, pattern: str, generator: torch.Generator) -> None:
    n_queries, n_keys, head_dim, value_dim = SHAPES[name]
    shape = Shape(
        n_queries=n_queries, n_keys=n_keys, head_dim=head_dim, value_dim=value_dim, query_heads=2
    )
    check(pattern, shape, generator)


def test_nothing_reads_unwritten_memory(poison: None, generator: torch.Generator) -> None:
    """Rows without keys, keys that are never selected and the ends of lists included."""
    shape = dataclasses.replace(SQUARE, n_queries=75, n_keys=60, head_dim=20)
    check("sparsek(k=5, lag=4)", shape, generator)
    check("window(9) | first(2)", shape, generator)


STRIDED = {
    "heads inside rows": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "every second row": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "odd rows": lambda x: torch.nn.functional.pad(x, (0, 1))[..., :-1],
    "an odd start": lambda x: torch.nn.functional.pad(x.flatten(), (1, 0))[1:].view(x.shape),
    "one row for all": lambda x: x[:, :, :1].expand_as(x),
}


@pytest.mark.parametrize("name", STRIDED)
def test_strided_inputs(name: str, generator: torch.Generator) -> None:
    pattern = "sparsek(k=5) | window(4)"
    shape = dataclasses.replace(SQUARE, batch=2, n_queries=40, n_keys=40)
    inputs = random_inputs(shape, generator, dtype=torch.float32)
    lay = STRIDED[name]
    inputs = dataclasses.replace(
        inputs,
        q=lay(inputs.q),
        k=lay(inputs.k),
        v=lay(inputs.v),
        dout=lay(inputs.dout),
        dlse=inputs.dlse.mT.contiguous().mT,
        scores=inputs.scores.mT.contiguous().mT,
    )
    assert_near(
        run_plan(make_plan(pattern, shape), inputs, SCALE),
        dense_result(pattern, wide(inputs), scale=SCALE),
        TOLERANCE,
    )


@pytest.mark.parametrize("gate", ["key_value", "value", "logit", "straight_through"])
def test_rows_past_the_end_add_nothing(gate: GateMode, generator: torch.Generator) -> None:
    """With a lag the clocks of a tile's unused rows still run; low scores have no gate there."""
    shape = dataclasses.replace(SQUARE, n_queries=17, n_keys=17)
    low = -2 - torch.rand(shape.batch, shape.groups, 17, generator=generator)
    check(f"sparsek(k=3, lag=9, gate={gate!r})", shape, generator, scores=low.double())


# A maximum over numbers that are all NaN: numpy warns, a GPU does not.
@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
@pytest.mark.parametrize("gate", ["key_value", "value", "logit"])
def test_nan_scores_show_in_the_rows_that_see_them(
    gate: GateMode, generator: torch.Generator
) -> None:
    """From the first query whose prefix holds the NaN on; other groups do not notice."""
    pattern, place, lag = f"sparsek(k=4, lag=3, gate='{gate}') | window(3)", 17, 3
    shape = dataclasses.replace(SQUARE, kv_heads=2)
    inputs = random_inputs(shape, generator, dtype=torch.float32)
    clean = run_plan(make_plan(pattern, shape), inputs, SCALE)
    inputs.scores[0, 0, place] = torch.nan
    found = run_plan(make_plan(pattern, shape), inputs, SCALE)
    assert found.out[:, 0, place + lag :].isnan().any(-1).all()
    assert torch.equal(found.out[:, 0, : place + lag], clean.out[:, 0, : place + lag])
    assert found.dq[:, 0, place + lag :].isnan().any(-1).all()
    assert torch.equal(found.dq[:, 0, : place + lag], clean.dq[:, 0, : place + lag])
    for name in ("out", "lse", "dq", "dk", "dv"):
        assert torch.equal(getattr(found, name)[:, 1:], getattr(clean, name)[:, 1:]), name
    assert torch.equal(found.dscores[:, 1], clean.dscores[:, 1])


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
@pytest.mark.parametrize("pattern", ["sparsek(k=4) | window(3)", "causal"])
def test_nan_queries_stay_in_their_rows(pattern: str, generator: torch.Generator) -> None:
    inputs = random_inputs(SQUARE, generator, dtype=torch.float32)
    clean = run_plan(make_plan(pattern, SQUARE), inputs, SCALE)
    inputs.q[0, 1, 20] = torch.nan
    found = run_plan(make_plan(pattern, SQUARE), inputs, SCALE)
    rows = torch.zeros(SQUARE.query_heads, SQUARE.n_queries, dtype=torch.bool)
    rows[1, 20] = True
    for name in ("out", "dq"):
        assert torch.equal(getattr(found, name)[0].isnan().any(-1), rows)
        assert torch.equal(getattr(found, name)[0][~rows], getattr(clean, name)[0][~rows])


@settings(max_examples=12)
@given(pattern=sparse_ks(), problem=problems(max_length=90))
def test_select_is_that_of_the_torch_backend(
    pattern: Call, problem: tuple[Shape, Tensor, int]
) -> None:
    shape, scores, _ = problem
    check_select(pattern, scores.float(), shape.n_queries)


@pytest.mark.parametrize("kind", ["normal", "ties", "ascending", "descending"])
def test_select_over_many_segments(kind: str, generator: torch.Generator) -> None:
    scores = score_tensor(kind, (1, 2, 700), generator).float()
    check_select("sparsek(k=40, lag=9)", scores, 600)


def test_select_of_several(generator: torch.Generator) -> None:
    scores = torch.randn(1, 2, 60, generator=generator)
    check_select("sparsek(k=9, lag=3) | sparsek(k=5) | window(2)", scores, 70)
