"""Any program, called as users do, against dense attention by the definition.

Programs nest operators and groups of heads, with modifiers of the whole and of groups.
"""

from __future__ import annotations

import pytest
import torch
from dense import Shape, apart, assert_close, random_inputs
from hypothesis import given, settings
from modifier_support import run
from strategies import problems, programs
from torch import Generator, Tensor
from triton_support import OVERFLOWS, interpreter

import attncomp
from attncomp.frontend.ast import Expr

Call = tuple[dict[str, Tensor], dict[str, Tensor]]


def call_inputs(program: Expr, problem: tuple[Shape, Tensor, int]) -> Call:
    """The inputs with gradients, float64 but representable in float32, and those without."""
    shape, scores, seed = problem
    generator = Generator().manual_seed(seed)
    inputs = random_inputs(shape, generator, scores=scores).to(torch.float32).to(torch.float64)
    inputs = apart(inputs, shape.head_dim**-0.5)
    tensors = {"q": inputs.q, "k": inputs.k, "v": inputs.v}
    pattern = attncomp.compile(program)
    known = {"scores": inputs.scores, "near": inputs.scores.flip(-1)}
    for name, text in pattern.shapes.items():
        if name in known:
            tensors[name] = known[name]
        elif name not in inputs.given and text.startswith("[Hq"):
            sizes = [int(size) for size in text[3:-1].split(",")[1:]]
            drawn = torch.randn([shape.query_heads, *sizes], generator=generator)
            tensors[name] = drawn.double()
    return tensors, {n: inputs.given[n] for n in pattern.tensors if n in inputs.given}


@pytest.mark.no_cover  # templates' loops over a plan, traced, take twice as long
@settings(max_examples=25)
@given(program=programs(), problem=problems(max_length=20))
def test_torch(program: Expr, problem: tuple[Shape, Tensor, int]) -> None:
    tensors, tables = call_inputs(program, problem)
    expected = run(program, "reference", tensors, tables)
    for name, actual in run(program, "torch", tensors, tables).items():
        assert_close(actual, expected[name], name=name, atol=1e-10, rtol=1e-9)


@OVERFLOWS
@settings(max_examples=4)
@given(program=programs(), problem=problems(max_length=12, kinds=("normal", "ties")))
def test_triton(program: Expr, problem: tuple[Shape, Tensor, int]) -> None:
    tensors, tables = call_inputs(program, problem)
    expected = run(program, "reference", tensors, tables)
    with interpreter():
        found = run(program, "triton", {n: t.float() for n, t in tensors.items()}, tables)
    for name, actual in found.items():
        assert_close(actual.double(), expected[name], name=name, atol=1e-4, rtol=1e-4)
