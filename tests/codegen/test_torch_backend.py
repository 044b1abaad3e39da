"""The generated torch modules against dense attention, in float64 and all its gradients."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from dense import Inputs, Result, Shape, assert_same_results, random_inputs, run_with_gradients
from hypothesis import given
from hypothesis import strategies as st
from strategies import patterns, problems
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attncomp.codegen.emit import render
from attncomp.codegen.lower import plan_of
from attncomp.codegen.plan import KernelPlan
from attncomp.frontend.ast import Expr, to_text
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.graph import Graph
from attncomp.ir.ops import GATE_MODES, GateMode, SparseK, Union
from attncomp.ir.passes import pipeline, run
from attncomp.ir.reference import reference_attention
from attncomp.ir.schedule import DtypeName, Problem, Tile

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())["cases"]
EXACT = {"atol": 1e-11, "rtol": 1e-9}


@functools.cache
def module_of(plan: KernelPlan) -> ModuleType:
    module = ModuleType("generated")
    exec(compile(render(plan), "<generated>", "exec"), module.__dict__)
    return module


def make_plan(
    pattern: str | Expr | Graph,
    shape: Shape,
    *,
    dtype: DtypeName = "float64",
    tile: tuple[int, int] | None = (8, 4),
    full_tiles: bool = True,
) -> KernelPlan:
    """The plan of a pattern, by default with tiles so small that short inputs have many."""
    unit_heads = math.gcd(shape.query_heads // shape.kv_heads, shape.query_heads // shape.groups)
    problem = Problem(
        backend="torch",
        target="cpu",
        dtype=dtype,
        head_dim=shape.head_dim,
        value_dim=shape.value_dim,
        unit_heads=unit_heads,
    )
    graph = graph_of(pattern)
    plan = plan_of(run(graph, pipeline(problem)), problem, str(pattern))
    if tile is None:
        return plan
    queries, keys = tile
    return dataclasses.replace(
        plan,
        schedule=dataclasses.replace(
            plan.schedule, forward=Tile(queries=queries, keys=keys), segment=2 * queries
        ),
        sweeps=tuple(
            dataclasses.replace(sweep, full_tiles=sweep.source is None and full_tiles)
            for sweep in plan.sweeps
        ),
    )


def graph_of(pattern: str | Expr | Graph) -> Graph:
    if isinstance(pattern, Graph):
        return pattern
    return build(parse(pattern) if isinstance(pattern, str) else pattern)


def run_module(
    plan: KernelPlan,
    inputs: Inputs,
    *,
    scale: float,
    with_lse: bool = True,
    scores: tuple[Tensor, ...] | None = None,
) -> tuple[Result, tuple[Tensor, ...]]:
    """Outputs and gradients of the plan's module; the gradients of all scores apart."""
    module = module_of(plan)
    if scores is None:
        scores = (inputs.scores,) * len(plan.scores)
    state = module.select(scores, inputs.q.shape[2])
    out, lse = module.forward(inputs.q, inputs.k, inputs.v, state, scale)
    dq, dk, dv, *dscores = module.backward(
        inputs.dout,
        inputs.dlse if with_lse else None,
        inputs.q,
        inputs.k,
        inputs.v,
        out,
        lse,
        state,
        scale,
    )
    assert len(dscores) == (len(plan.scores) if plan.differentiable_scores else 0)
    total = sum(dscores, torch.zeros_like(inputs.scores))
    return Result(out=out, lse=lse, dq=dq, dk=dk, dv=dv, dscores=total), tuple(dscores)


def dense(
    pattern: str | Expr | Graph, inputs: Inputs, *, scale: float, with_lse: bool = True
) -> Result:
    """The same from dense attention; every soft member ranks by `inputs.scores`."""
    graph = graph_of(pattern)

    def attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return reference_attention(graph, q, k, v, {"scores": scores}, scale)

    return run_with_gradients(attend, inputs, with_lse=with_lse)


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
    expected = dense(pattern, inputs, scale=0.4, with_lse=with_lse)
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
