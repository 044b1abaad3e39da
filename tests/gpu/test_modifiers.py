"""Compiled kernels under modifiers on a GPU, against the reference in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from dense import Inputs, Shape, modifiers_in, random_inputs
from modifier_support import Results, dense_gradients, learned_tensors
from triton_support import error_norm, relative_error, wide

import attncomp

pytestmark = pytest.mark.gpu

ALL = 'softcap(5), alibi(slopes="slopes"), bias(40), sink'
SHAPE = Shape(
    batch=2,
    query_heads=8,
    kv_heads=2,
    groups=2,
    n_queries=1000,
    n_keys=1000,
    head_dim=64,
    value_dim=64,
)
# Relative errors in bfloat16, whose results are rounded by 2^-9 each. The rounding of out moves
# delta = dout . out, and with it all of a row's dx, which distances weigh by hundreds.
BOUND, SLOPES_BOUND = 2.0**-6, 2.0**-4


def run_pattern(pattern: str, inputs: Inputs, learned: dict[str, torch.Tensor]) -> Results:
    """Outputs and gradients of the compiled pattern, through autograd."""
    compiled = attncomp.compile(pattern)
    known = {"scores": inputs.scores, **learned}
    leaves = {"q": inputs.q, "k": inputs.k, "v": inputs.v}
    leaves |= {name: known[name] for name in compiled.tensors}
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in leaves.items()}
    out, lse = compiled(**leaves, return_lse=True)
    gradients = torch.autograd.grad((out, lse), list(leaves.values()), (inputs.dout, inputs.dlse))
    return {
        "out": out.detach(),
        "lse": lse.detach(),
        **dict(zip(leaves, gradients, strict=True)),
    }


def cuda_inputs(
    pattern: str, shape: Shape, generator: torch.Generator, dtype: torch.dtype
) -> tuple[Inputs, dict[str, torch.Tensor]]:
    """Inputs and learned tensors on the GPU; scores, dlse and learned tensors in float32."""
    inputs = random_inputs(shape, generator, dtype=torch.float32, device="cuda")
    names = ("q", "k", "v", "dout")
    inputs = dataclasses.replace(inputs, **{n: getattr(inputs, n).to(dtype) for n in names})
    learned = learned_tensors(modifiers_in(pattern), shape.query_heads, generator, torch.float32)
    return inputs, {name: tensor.cuda() for name, tensor in learned.items()}


def expected_of(pattern: str, inputs: Inputs, learned: dict[str, torch.Tensor]) -> Results:
    exact = {name: tensor.double() for name, tensor in learned.items()}
    scale = inputs.q.shape[3] ** -0.5
    return dense_gradients(pattern, wide(inputs), exact, scale=scale)


@pytest.mark.parametrize("sizes", [(1000, 1000), (300, 700), (500, 130)])
@pytest.mark.parametrize(
    "pattern",
    [
        f"causal with {ALL}",
        f"window(100) | first(4) with {ALL}",
        f"sparsek(k=32, lag=16) | window(16) with {ALL}",
        f'sparsek(k=32, gate="logit") | window(16) with {ALL}',
        "sparsek(k=32) | window(16) with softcap(5), alibi, sink",
    ],
)
def test_float32_is_exact(pattern: str, sizes: tuple[int, int], generator: torch.Generator) -> None:
    """With the gradient of lse, and rows that have the sink alone."""
    shape = dataclasses.replace(SHAPE, n_queries=sizes[0], n_keys=sizes[1])
    inputs, learned = cuda_inputs(pattern, shape, generator, torch.float32)
    actual, expected = run_pattern(pattern, inputs, learned), expected_of(pattern, inputs, learned)
    errors = {name: error_norm(actual[name], expected[name]) for name in actual}
    # Slopes of size 1 make logits of 1000, whose last bit is 6e-5 of a weight.
    bounds = dict.fromkeys(errors, 2e-4) | {"lse": 1e-6}
    assert all(error <= bounds[name] for name, error in errors.items()), errors


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "pattern",
    [f"causal with {ALL}", "window(100) with sink", f"sparsek(k=64) | window(48) with {ALL}"],
)
def test_bfloat16_is_as_close_as_its_rounding(
    pattern: str, head_dim: int, generator: torch.Generator
) -> None:
    shape = dataclasses.replace(SHAPE, head_dim=head_dim, value_dim=head_dim)
    inputs, learned = cuda_inputs(pattern, shape, generator, torch.bfloat16)
    actual, expected = run_pattern(pattern, inputs, learned), expected_of(pattern, inputs, learned)
    errors = {name: relative_error(actual[name], expected[name]) for name in actual}
    bounds = dict.fromkeys(errors, BOUND) | {"slopes": SLOPES_BOUND}
    assert all(error <= bounds[name] for name, error in errors.items()), errors


def test_runs_are_equal_to_the_bit(generator: torch.Generator) -> None:
    """The table's gradient comes from atomics, which add integers."""
    shape = dataclasses.replace(SHAPE, n_queries=4096, n_keys=4096)
    pattern = f"causal with {ALL}"
    inputs, learned = cuda_inputs(pattern, shape, generator, torch.bfloat16)
    first, *others = (run_pattern(pattern, inputs, learned) for _ in range(4))
    for other in others:
        for name, tensor in first.items():
            assert torch.equal(other[name], tensor), name
