"""Generated modules under modifiers against the reference: torch in float64, Triton interpreted."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from dense import Shape, apart, assert_close, random_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from modifier_support import dense_gradients, learned_tensors, module_gradients
from strategies import modified, patterns, problems
from torch import Tensor
from torch_modules import PATTERNS, kernels_of, make_plan
from triton_support import OVERFLOWS, error_norm, wide
from triton_support import kernels_of as interpreted_kernels
from triton_support import make_plan as make_triton_plan

from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.codegen.plan_text import plan_text
from attncomp.frontend.ast import Expr
from attncomp.ir.ops import GATE_MODES, GateMode
from attncomp.ir.schedule import Problem
from attncomp.runtime import launch

ALL = 'softcap(1.5), alibi(slopes="slopes"), bias(4), sink'
EACH = ("softcap(1.5)", "alibi", 'alibi(slopes="slopes")', "bias(5)", "sink", ALL)
SHAPE = Shape(
    batch=2,
    query_heads=4,
    kv_heads=2,
    groups=2,
    n_queries=31,
    n_keys=31,
    head_dim=16,
    value_dim=16,
)
MORE_KEYS = dataclasses.replace(SHAPE, n_queries=13)
MORE_QUERIES = dataclasses.replace(SHAPE, n_keys=13)
TOLERANCE = 1e-5


def check_torch(
    pattern: str | Expr,
    shape: Shape,
    generator: torch.Generator,
    *,
    scores: Tensor | None = None,
    with_lse: bool = True,
    tile: tuple[int, int] = (8, 4),
) -> None:
    inputs = random_inputs(shape, generator, scores=scores)
    plan = make_plan(pattern, shape, tile=tile)
    learned = learned_tensors(plan.modifiers, shape.query_heads, generator)
    options = {"scale": 0.4, "with_lse": with_lse}
    actual = module_gradients(kernels_of(plan), plan, inputs, learned, **options)
    expected = dense_gradients(pattern, inputs, learned, **options)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_close(actual[name], tensor, name=name, atol=1e-10, rtol=1e-9)


@given(
    pattern=modified(patterns()),
    problem=problems(),
    tile=st.sampled_from([(8, 4), (5, 16), (64, 64)]),
    with_lse=st.booleans(),
)
def test_any_pattern_matches_the_reference(
    pattern: Expr, problem: tuple[Shape, Tensor, int], tile: tuple[int, int], with_lse: bool
) -> None:
    shape, scores, seed = problem
    generator = torch.Generator().manual_seed(seed)
    check_torch(pattern, shape, generator, scores=scores, with_lse=with_lse, tile=tile)


@pytest.mark.parametrize("mode", GATE_MODES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_in_each_gate_mode(
    pattern: str, mode: GateMode, generator: torch.Generator
) -> None:
    check_torch(f"{pattern.format(mode=mode)} with {ALL}", SHAPE, generator)


@pytest.mark.parametrize("shape", [SHAPE, MORE_KEYS, MORE_QUERIES])
@pytest.mark.parametrize("modifiers", EACH)
def test_each_modifier(modifiers: str, shape: Shape, generator: torch.Generator) -> None:
    for pattern in ("causal", "sparsek(k=5, lag=2) | window(4)", "window(3) & ~causal"):
        check_torch(f"{pattern} with {modifiers}", shape, generator)


def check_triton(
    pattern: str | Expr,
    shape: Shape,
    generator: torch.Generator,
    *,
    scores: Tensor | None = None,
    with_lse: bool = True,
) -> None:
    inputs = random_inputs(shape, generator, scores=scores, dtype=torch.float32)
    inputs = apart(inputs, 0.3)
    plan = make_triton_plan(pattern, shape)
    learned = learned_tensors(plan.modifiers, shape.query_heads, generator, torch.float32)
    exact = {name: tensor.double() for name, tensor in learned.items()}
    options = {"scale": 0.3, "with_lse": with_lse}
    actual = module_gradients(interpreted_kernels(plan), plan, inputs, learned, **options)
    expected = dense_gradients(pattern, wide(inputs), exact, **options)
    errors = {name: error_norm(actual[name], expected[name]) for name in expected}
    # The gradient of a slope is a sum of numbers as large as distances.
    sizes = {"slopes": max(shape.n_queries, shape.n_keys)}
    wrong = {name: e for name, e in errors.items() if not e <= TOLERANCE * sizes.get(name, 1)}
    assert not wrong, wrong


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@settings(max_examples=8)
@given(
    pattern=modified(patterns(max_leaves=3)),
    # Softcap cuts sums of huge scores nowhere but in the tails; normal ones bend everywhere.
    problem=problems(),
    with_lse=st.booleans(),
)
def test_any_pattern_in_the_interpreter(
    pattern: Expr, problem: tuple[Shape, Tensor, int], with_lse: bool
) -> None:
    shape, scores, seed = problem
    generator = torch.Generator().manual_seed(seed)
    check_triton(pattern, shape, generator, scores=scores, with_lse=with_lse)


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("mode", GATE_MODES)
def test_gate_modes_in_the_interpreter(mode: GateMode, generator: torch.Generator) -> None:
    pattern = f'sparsek(k=6, lag=2, gate="{mode}") | window(4) with {ALL}'
    check_triton(pattern, SHAPE, generator)


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("modifiers", EACH)
def test_each_modifier_in_the_interpreter(modifiers: str, generator: torch.Generator) -> None:
    check_triton(f"causal with {modifiers}", MORE_QUERIES, generator)
    check_triton(f"window(9) | first(2) with {modifiers}", MORE_KEYS, generator)


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("size", [1, 2, 60])
def test_tables_of_all_widths(size: int, generator: torch.Generator) -> None:
    check_torch(f"full with bias({size})", SHAPE, generator)
    check_triton(f"full with bias({size})", SHAPE, generator)


@OVERFLOWS
@pytest.mark.usefixtures("interpreted")
def test_a_pattern_of_no_pairs_has_its_sinks(generator: torch.Generator) -> None:
    check_torch(f"window(3) & ~causal with {ALL}", MORE_KEYS, generator)
    check_triton(f"window(3) & ~causal with {ALL}", MORE_KEYS, generator)


def test_plans_hold_what_kernels_depend_on() -> None:
    problem = Problem(
        backend="torch", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
    )

    def text(pattern: str) -> str:
        return plan_text(lower(pattern, problem))

    assert "modifier" not in text("causal")
    assert text("causal with scale(3)") == text("causal")
    assert "modifier softcap 30.0\nmodifier sink sink\n" in text("causal with softcap(30), sink")
    texts = {text(f"causal with {m}") for m in (*EACH, "softcap(2)", "bias(6)", "bias(5, 't')")}
    assert len(texts) == len(EACH) + 3
    assert render(lower("causal with sink, softcap(2)", problem)) == render(
        lower("causal with softcap(2.0), sink('sink')", problem)
    )


def test_the_gradient_of_a_table_is_the_same_in_every_order(generator: torch.Generator) -> None:
    """The sum of a table's quanta in integers is exact to far below float32."""
    dout, v = torch.randn(1, 2, 50, 8, generator=generator), torch.randn(1, 2, 50, 8)
    lse = torch.zeros(1, 2, 50)
    quanta = launch.quanta_a_unit(dout, None, v, lse)
    parts = torch.randn(2, 5, 1000, generator=generator)
    counts = (parts * quanta).to(torch.int64)
    shuffled = counts[..., torch.randperm(1000, generator=generator)]
    rows = torch.zeros(1, 2, 50)
    found = [launch.table_gradient(c.sum(-1), quanta, rows, rows) for c in (counts, shuffled)]
    assert torch.equal(*found)
    exact = parts.double().sum(-1)
    exact[:, [0, -1]] = 0
    torch.testing.assert_close(found[0].double(), exact, atol=1e-5, rtol=1e-6)
    for broken in (dout * torch.nan, dout * torch.inf):
        nan = launch.quanta_a_unit(broken, None, v, lse)
        gradient = launch.table_gradient(counts.sum(-1), nan, rows, rows)
        assert not gradient[:, 1:-1].isfinite().any()
    assert launch.quanta_a_unit(dout, None, v, lse * torch.nan).isnan().all()
    assert launch.quanta_a_unit(0 * dout, lse + 1, v, lse - torch.inf).isfinite().all()
