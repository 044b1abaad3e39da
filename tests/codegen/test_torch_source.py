"""Generated torch modules as text: labels, layout, and nothing that a pattern lacks."""

from __future__ import annotations

import ast
import dataclasses

import pytest
from dense import Shape
from torch_modules import PATTERNS, make_plan

from attncomp.codegen.emit import render
from attncomp.ir.schedule import DtypeName


@pytest.mark.parametrize("pattern", [pattern.format(mode="key_value") for pattern in PATTERNS])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_source_reads_as_python_of_a_hand(pattern: str, dtype: DtypeName) -> None:
    shape = Shape(query_heads=4, kv_heads=2, n_queries=8, n_keys=8)
    plan = make_plan(pattern, shape, dtype=dtype, tile=None)
    source = render(plan)
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree)
    assert docstring is not None
    assert pattern in " ".join(docstring.split())
    assert [line for line in source.splitlines() if line != line.rstrip()] == []
    assert "\n\n\n\n" not in source
    assert source.endswith("\n") and not source.endswith("\n\n")
    for index, sweep in enumerate(plan.sweeps):
        heading = f"# Sweep {index}: `{sweep.label}`, {sweep.origin}\n"
        assert source.count(heading) == 2  # forward and backward
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"select", "forward", "backward"} <= functions
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert ast.get_docstring(node) is not None, node.name


def test_what_a_pattern_lacks_is_not_in_its_source() -> None:
    shape = Shape(query_heads=4, kv_heads=2, n_queries=8, n_keys=8)
    window = render(make_plan("window(256)", shape, tile=None))
    for word in ("gate", "evict", "theta", "index_select", "score_gradient", "Selection"):
        assert word not in window
    hard = render(make_plan('sparsek(k=8, gate="hard")', shape, tile=None))
    for word in ("theta", "score_gradient", "dgate", "gates_0"):
        assert word not in hard
    full = render(make_plan("full", shape, tile=None))
    assert "mask" not in full.replace("masked_fill", "")
    assert "torch.arange" not in full
    assert ".float()" not in full
    assert ".float()" in render(make_plan("full", shape, dtype="bfloat16", tile=None))


def test_a_strange_spec_name_cannot_break_out_of_its_comment() -> None:
    shape = Shape(query_heads=4, kv_heads=2, n_queries=8, n_keys=8)
    plan = make_plan("window(3)", shape)
    (sweep,) = plan.sweeps
    origin = 'a"""\nraise SystemExit\\.attn:1:1'
    strange = dataclasses.replace(plan, sweeps=(dataclasses.replace(sweep, origin=origin),))
    source = render(strange)
    assert ast.dump(ast.parse(source)).count("SystemExit") == 1  # in a docstring
    assert source.count(f"# Sweep 0: `{sweep.label}`, a????raise SystemExit?.attn:1:1\n") == 2
