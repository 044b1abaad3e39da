"""Which sweeps are visited in classes, and that classes hold the pairs of the sweep."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from attncomp.codegen.lower import lower
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.ops import Sweep
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.passes import pipeline, run
from attncomp.ir.passes.stride import MIN_SPAN, Stride, class_graph
from attncomp.ir.schedule import Problem

PROBLEM = Problem(
    backend="torch", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
)


def sweeps_of(text: str) -> list[Sweep]:
    graph = run(build(parse(text)), pipeline(PROBLEM))
    return [cast(Sweep, graph.op(node)) for node in graph.operands(graph.root)]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("strided(128)", [128]),
        ("strided(1)", [1]),
        ("strided(128) | window(128)", [1, 128]),
        ("strided(4096)", [4096]),
        ("strided(4097)", [1]),
        (f"dilated({MIN_SPAN // 4}, 4)", [4]),
        (f"dilated({MIN_SPAN // 4 - 1}, 4)", [1]),
        ("strided(4) & first(100)", [4]),
        ("where((q - k) % 4 == 0)", [1]),  # keys ahead
        ("where((q - k) % 4 != 0) & causal", [1]),
        ("where((q - k) % 4 == 1) & causal", [1]),
        ("where((q + k) % 4 == 0) & causal", [1]),
        ("strided(4) & where(k % 3 == 0)", [4]),
        ("strided(4) & where(k < n - 3)", [1]),
        ("strided(4) & where(h % 2 == 0)", [1]),
        ("strided(4) & where(kept[k])", [1]),
        ("strided(4) & strided(6)", [1]),
        ("sparsek(k=8) | strided(4)", [1, 4]),
        ("strided(2)", [2]),
        ("sparsek(k=8) & strided(4)", [1]),
    ],
)
def test_steps(text: str, steps: list[int]) -> None:
    assert sorted(sweep.step for sweep in sweeps_of(text)) == steps


def test_the_pass_sets_steps_alone() -> None:
    graph = run(build(parse("strided(8) | window(3)")), pipeline(PROBLEM)[:-2])
    assert Stride()(graph) != graph
    gates = [gate_matrix(g, 30, 33, {}) for g in (graph, Stride()(graph))]
    assert torch.equal(*gates)


@given(
    st.integers(2, 9),
    st.integers(0, 20),
    st.one_of(st.none(), st.integers(1, 40)),
    st.sampled_from(["", " & where(k % 3 == 0)", " & where(q // 4 != k // 5 or k > 7)"]),
    st.integers(1, 40),
)
def test_classes_hold_the_pairs(
    step: int, first: int, last: int | None, rest: str, size: int
) -> None:
    keys = f"k >= {first}" + ("" if last is None else f" and k < {last}")
    text = f"strided({step}) & where({keys}){rest}"
    sweeps = sweeps_of(text)
    assume(sweeps)  # no key is in an empty range
    assert {sweep.step for sweep in sweeps} == {step}
    found = gate_matrix(class_graph(sweeps, step), size, size, {}, batch=step)[:, 0]
    n = step * size
    whole = torch.zeros(n, n, dtype=torch.float64)
    for c in range(step):
        whole[c::step, c::step] = found[min(c, len(found) - 1)]
    assert torch.equal(whole, gate_matrix(build(parse(text)), n, n, {})[0, 0])


def test_plans() -> None:
    """A class is a window, whose plan it has."""
    plan = lower("dilated(512, 8)", PROBLEM)
    assert not plan.sweeps
    assert [part.step for part in plan.strided] == [8]
    assert plan.strided[0].plan == lower("window(512)", PROBLEM)
    assert plan.modules == (plan.strided[0].plan,)
    both = lower("dilated(512, 8) | full & first(3)", PROBLEM)
    assert [sweep.step for sweep in both.all_sweeps] == [1, 8]
    assert len(both.modules) == 2 and not both.modules[0].strided
