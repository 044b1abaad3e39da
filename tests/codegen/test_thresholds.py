"""Thresholds on logits in generated modules of both backends, against dense attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
import triton_support
from dense import Inputs, Shape, apart, assert_same_results, dense_result, random_inputs
from modifier_support import dense_gradients, learned_tensors, module_gradients
from torch_modules import kernels_of, make_plan, run_module
from triton_support import assert_near, error_norm, interpreter, run_plan, wide

from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.codegen.plan_text import plan_text
from attncomp.ir.schedule import Problem

# Several packed heads, heads that are not packed, several units.
SHAPES = {
    "grouped": Shape(query_heads=8, kv_heads=2, groups=2, n_queries=40, n_keys=40),
    "three heads a unit": Shape(query_heads=6, kv_heads=2, n_queries=21, n_keys=37),
    "two rows": Shape(batch=2, query_heads=4, kv_heads=2, groups=4, n_queries=37, n_keys=21),
}
SHAPES = {
    name: dataclasses.replace(shape, head_dim=16, value_dim=24) for name, shape in SHAPES.items()
}
PATTERNS = (
    "threshold",
    "causal & threshold",
    "causal - threshold",
    "~threshold & causal",
    "window(6) | (causal & threshold)",
    "causal & (threshold | where(h % 3 == 1))",
    "first(2) | causal & (threshold & where(b == 0) | where((q - k) % 5 == 3) - threshold)",
    "causal & threshold & sparsek(k=8)",
    "causal & threshold | sparsek(k=6) - threshold",
    'sparsek(k=7, gate="logit") - threshold',
    'sparsek(k=7, gate="value") & threshold | window(3)',
    'threshold | sparsek(k=5, gate="straight_through")',
    'window(20) & threshold - sparsek(k=5, gate="hard")',
    "sparsek(k=9) & threshold & sparsek(k=6, lag=4) | window(3)",
    "strided(4) & threshold",
    "strided(4) | threshold & causal",
    "blocks(16) & threshold",
    "where(documents[b, q] == documents[b, k]) & causal & threshold",
    "(where(k < lengths[b]) | causal) - threshold",
    "topk_blocks(2, 5) & causal - threshold | first(3)",
    "threshold & ~threshold",
    "threshold | ~threshold",
)
MODIFIED = (
    "causal & threshold with softcap(2), alibi, sink",
    "sparsek(k=6) & (threshold | window(4)) with softcap(1.5), alibi('slopes'), bias(4)",
    "blocks(16) - threshold with bias(3), sink",
)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_torch_modules(pattern: str, shape: Shape, generator: torch.Generator) -> None:
    inputs = random_inputs(shape, generator)
    for tile in ((8, 4), (16, 64)):
        actual, _ = run_module(make_plan(pattern, shape, tile=tile), inputs, scale=0.4)
        expected = dense_result(pattern, inputs, scale=0.4)
        assert_same_results(actual, expected, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("pattern", MODIFIED)
def test_modifiers_on_torch(pattern: str, generator: torch.Generator) -> None:
    """Thresholds ask for the logit before all that changes it."""
    shape = SHAPES["grouped"]
    inputs, plan = random_inputs(shape, generator), make_plan(pattern, shape)
    learned = learned_tensors(plan.modifiers, shape.query_heads, generator)
    actual = module_gradients(kernels_of(plan), plan, inputs, learned, scale=0.4)
    expected = dense_gradients(pattern, inputs, learned, scale=0.4)
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, atol=1e-10, rtol=1e-9)


@pytest.fixture(scope="module")
def interpreted() -> Iterator[None]:
    with interpreter():
        yield


interpreting = [
    pytest.mark.usefixtures("interpreted"),
    # Numbers that are not attended may overflow before the mask drops them.
    pytest.mark.filterwarnings(
        "ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning"
    ),
]


class TestTriton:
    """The kernels, interpreted."""

    pytestmark = interpreting

    def inputs(self, shape: Shape, generator: torch.Generator) -> Inputs:
        return apart(random_inputs(shape, generator, dtype=torch.float32), 0.3)

    @pytest.mark.parametrize("pattern", PATTERNS)
    def test_patterns(self, pattern: str, generator: torch.Generator) -> None:
        shape = SHAPES["grouped"]
        inputs = self.inputs(shape, generator)
        actual = run_plan(triton_support.make_plan(pattern, shape), inputs, 0.3)
        assert_near(actual, dense_result(pattern, wide(inputs), scale=0.3), 1e-5)

    @pytest.mark.parametrize("pattern", ["causal & threshold", "sparsek(k=8) - threshold"])
    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    def test_shapes(self, pattern: str, shape: Shape, generator: torch.Generator) -> None:
        inputs = self.inputs(shape, generator)
        actual = run_plan(triton_support.make_plan(pattern, shape), inputs, 0.3)
        assert_near(actual, dense_result(pattern, wide(inputs), scale=0.3), 1e-5)

    @pytest.mark.parametrize("pattern", MODIFIED)
    def test_modifiers(self, pattern: str, generator: torch.Generator) -> None:
        shape = SHAPES["grouped"]
        inputs = self.inputs(shape, generator)
        plan = triton_support.make_plan(pattern, shape)
        learned = learned_tensors(plan.modifiers, shape.query_heads, generator, torch.float32)
        exact = {name: tensor.double() for name, tensor in learned.items()}
        kernels = triton_support.kernels_of(plan)
        actual = module_gradients(kernels, plan, inputs, learned, scale=0.3)
        expected = dense_gradients(pattern, wide(inputs), exact, scale=0.3)
        for name, tensor in expected.items():
            assert error_norm(actual[name], tensor) <= 1e-5, name

    @pytest.mark.parametrize("scale", [0.25, -0.5])
    def test_logits_at_a_threshold_reach_it(self, scale: float, generator: torch.Generator) -> None:
        """Products of small integers are exact, and a power of two keeps them so."""
        on_grid(torch.float32, scale, generator)


def on_grid(dtype: torch.dtype, scale: float, generator: torch.Generator) -> None:
    """Both backends decide pairs whose logits are the threshold itself as the definition does."""
    shape = SHAPES["grouped"]
    inputs = random_inputs(shape, generator, dtype=dtype)
    inputs = dataclasses.replace(
        inputs,
        q=torch.randint(-2, 3, inputs.q.shape, generator=generator).to(dtype),
        k=torch.randint(-2, 3, inputs.k.shape, generator=generator).to(dtype),
        given={**inputs.given, "theta": torch.arange(-4, 4).double() * abs(scale)},
    )
    logits = scale * inputs.q @ inputs.k.repeat_interleave(4, 1).mT
    assert (logits == inputs.given["theta"][:, None, None]).any((0, 2, 3)).all()
    for pattern in ("causal & threshold", "causal - threshold"):
        expected = dense_result(pattern, wide(inputs), scale=scale)
        on_torch = make_plan(pattern, shape, dtype="float32")
        on_triton = triton_support.make_plan(pattern, shape)
        assert_near(run_module(on_torch, inputs, scale=scale)[0], expected, 1e-5)
        assert_near(run_plan(on_triton, inputs, scale), expected, 1e-5)


@pytest.mark.parametrize("where", ["query", "key", "theta"])
def test_nan_reaches_nothing(where: str, generator: torch.Generator) -> None:
    """A pair of NaN is in the complement, where it shows."""
    shape = SHAPES["grouped"]
    inputs = random_inputs(shape, generator)
    if where == "theta":
        inputs.given["theta"][3] = torch.nan
    else:
        (inputs.q if where == "query" else inputs.k)[0, 1, 7] = torch.nan
    passing, _ = run_module(make_plan("causal & threshold", shape), inputs, scale=0.4)
    failing, _ = run_module(make_plan("causal - threshold", shape), inputs, scale=0.4)
    assert passing.out.isfinite().all() and passing.lse.isnan().logical_not().all()
    if where == "query":
        assert (passing.lse[0, 1, 7] == -torch.inf) and failing.out[0, 1, 7].isnan().all()
    elif where == "key":  # of KV head 1
        assert failing.out[0, 4:, 7:].isnan().all() and failing.out[0, :4].isfinite().all()
    else:
        assert (passing.lse[0, 3] == -torch.inf).all()
        whole, _ = run_module(make_plan("causal", shape), inputs, scale=0.4)
        torch.testing.assert_close(failing.out[0, 3], whole.out[0, 3])


PROBLEM = Problem(
    backend="triton", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=4
)


def test_plans() -> None:
    """Tests of logits bound and list nothing, leave no tile full and have no classes."""
    for pattern in ("causal & threshold", "strided(4) - threshold", "blocks(16) & threshold"):
        for sweep in lower(pattern, PROBLEM).all_sweeps:
            assert not sweep.full_tiles and sweep.step == 1
            assert sweep.bounds is not None and sweep.bounds.full_keys is None
    (sweep,) = lower("blocks(16) & threshold", PROBLEM).sweeps
    assert sweep.walk is not None and sweep.walk.entry.tensor == "block_mask"
    plan = lower("causal & threshold", PROBLEM)
    assert plan.tensors == plan.inputs == ("theta",)
    assert "where logit >= theta[h]\n" in plan_text(plan)
    assert "where not logit >= theta[h]\n" in plan_text(lower("causal - threshold", PROBLEM))
    other = lower('causal & threshold("other")', PROBLEM)
    assert plan_text(other) != plan_text(plan)
    assert lower("(threshold | ~threshold) & causal", PROBLEM) == lower("causal", PROBLEM)


def test_kernels() -> None:
    """Every kernel compares the product times the scale, in float32, with a value a row."""
    source = render(lower("causal & threshold | sparsek(k=8) - threshold", PROBLEM))
    rows = "product * scale >= entry_0[:, None]"
    columns = "product * scale >= entry_0[None, :]"
    assert source.count(f"({rows})") == 4 and source.count(f"(~({rows}))") == 2
    assert source.count(f"({columns})") == 2 and source.count(f"(~({columns}))") == 1
