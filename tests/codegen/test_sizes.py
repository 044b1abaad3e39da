"""Which kernel parameters Triton may not specialise: all integers, and never a pointer."""

from __future__ import annotations

import ast

import pytest

from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.triton_view import size_names
from attncomp.ir.schedule import Problem

PROBLEM = Problem(
    backend="triton", target="sm_90", dtype="bfloat16", head_dim=64, value_dim=64, unit_heads=2
)
PATTERNS = [
    "sparsek(k=8, lag=4) | window(4)",
    "sparsek(k=8) & window(32) | sparsek(k=2)",
    'sparsek(k=8, gate="hard") | first(2)',
    "causal",
]
TENSORS = ("q", "k", "v", "out", "lse", "dout", "dlse", "dq", "dk", "dv", "evict", "keys", "times")
TENSOR_PREFIXES = ("score_", "theta_", "delta_", "keys_", "evict_", "count_", "dk_", "dv_")
INTEGER_PREFIXES = ("n_", "groups", "capacity", "heads_per", "blocks", "first_time", "span")


def kernel_parameters(plan: KernelPlan) -> set[str]:
    """Names of the parameters of all kernels of the plan that are no constants."""
    kernels = [
        node
        for node in ast.parse(render(plan)).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
    ]
    return {a.arg for kernel in kernels for a in kernel.args.args if a.annotation is None}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pointers_keep_their_alignment(pattern: str) -> None:
    """A pointer among the sizes would lose every vector load of its tensor."""
    plan = lower(pattern, PROBLEM)
    for name in kernel_parameters(plan) & set(size_names(plan)):
        assert name not in TENSORS
        assert not name.startswith(TENSOR_PREFIXES), name


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_integer_is_a_size(pattern: str) -> None:
    """A length, stride or count that is specialised would compile kernels anew."""
    plan = lower(pattern, PROBLEM)
    for name in kernel_parameters(plan):
        if name.startswith(INTEGER_PREFIXES) or name.endswith(("_batch", "_head", "_row")):
            assert name in size_names(plan)
