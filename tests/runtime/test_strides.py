"""Plans with strided parts against dense attention: outputs, lse and all gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from dense import Shape, dense_result, random_inputs
from torch_modules import make_plan, run_module
from triton_support import assert_near, interpreter, run_plan, wide
from triton_support import make_plan as triton_plan

import attncomp
from attncomp.ir.passes import stride
from attncomp.runtime.strides import Classes, merged

SCALE = 0.3
PATTERNS = (
    "strided(4)",
    "strided(3) | window(3)",
    "dilated(5, 3)",
    "dilated(4, 3) - first(5) | window(2)",
    "dilated(6, 2) | sparsek(k=4, lag=12)",
    "strided(4) - window(1) - first(6) | dilated(9, 3)",
    "strided(3) & where(k % 2 == 1) | first(2)",
    "dilated(3, 16) | strided(64)",
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small patterns go by classes too."""
    monkeypatch.setattr(stride, "MIN_SPAN", 0)
    yield


@pytest.mark.parametrize("size", [(1, 1), (33, 33), (7, 40), (40, 37), (64, 64)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_torch(pattern: str, size: tuple[int, int], generator: torch.Generator) -> None:
    shape = Shape(
        batch=2,
        query_heads=4,
        kv_heads=2,
        groups=2,
        n_queries=size[0],
        n_keys=size[1],
        head_dim=16,
        value_dim=24,
    )
    inputs = random_inputs(shape, generator)
    plan = make_plan(pattern, shape)
    assert plan.strided
    found, _ = run_module(plan, inputs, scale=SCALE)
    assert_near(found, dense_result(pattern, inputs, scale=SCALE), 1e-9)


@pytest.mark.parametrize(("batch", "n_queries", "n_keys"), [(2, 37, 43), (1, 48, 48)])
@pytest.mark.parametrize("pattern", PATTERNS[:5])
def test_triton(
    pattern: str, batch: int, n_queries: int, n_keys: int, generator: torch.Generator
) -> None:
    """In one row of the batch, classes that need no filling are views."""
    shape = Shape(
        batch=batch,
        query_heads=2,
        kv_heads=1,
        groups=1,
        n_queries=n_queries,
        n_keys=n_keys,
        head_dim=16,
        value_dim=16,
    )
    inputs = random_inputs(shape, generator, dtype=torch.float32)
    with interpreter():
        found = run_plan(triton_plan(pattern, shape), inputs, SCALE)
    assert_near(found, dense_result(pattern, wide(inputs), scale=SCALE), 1e-5)


def test_a_call(generator: torch.Generator) -> None:
    """Through the operators, under torch.compile as well."""
    q, k, v = (torch.randn(1, 2, 50, 16, generator=generator) for _ in range(3))
    q.requires_grad_()
    attend = attncomp.compile("strided(5) | window(4)")
    expected = attncomp.compile("strided(5) | window(4)", backend="reference")(q, k, v)
    torch.testing.assert_close(attend(q, k, v), expected)
    traced = torch.compile(lambda *x: attend(*x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(q, k, v), expected)
    (dq,) = torch.autograd.grad(traced(q, k, v).square().sum(), q)
    torch.testing.assert_close(dq, torch.autograd.grad(expected.square().sum(), q)[0])


def test_source_and_report() -> None:
    """All modules of a plan are there."""
    attend = attncomp.compile("strided(5) | window(4)", backend="torch")
    assert attend.source.count("def forward(") == len(attend.plan.modules) == 2
    lines = attend.explain().splitlines()
    assert any("in classes modulo 5; one in 5 of the keys there" in line for line in lines)


@pytest.mark.parametrize("size", [(12, 12), (5, 12), (12, 5), (1, 7), (3, 4)])
@pytest.mark.parametrize("step", [1, 2, 5, 16])
def test_classes(step: int, size: tuple[int, int], generator: torch.Generator) -> None:
    n_queries, n_keys = size
    by = Classes(step, n_queries, n_keys)
    keys = torch.randn(2, 3, n_keys, 4, generator=generator)
    rows = torch.randn(2, 3, n_queries, generator=generator)
    assert by.whole_keys(by.keys(keys)).equal(keys)
    assert by.whole_queries(by.queries(rows, -1.0)).equal(rows)
    found = by.keys(keys).unflatten(0, (2, step))
    asked = by.queries(rows).unflatten(0, (2, step))
    assert found.shape[3] == math.ceil(n_keys / step)
    shift = found.shape[3] - asked.shape[3]
    for key in range(n_keys):
        assert found[:, key % step, :, key // step].equal(keys[:, :, key])
    for query in range(n_queries):
        position = query + n_keys - n_queries
        assert asked[:, position % step, :, position // step - shift].equal(rows[:, :, query])


def test_merging(generator: torch.Generator) -> None:
    """A softmax over two sets of keys is that over both; a set may be empty."""
    logits = torch.randn(2, 1, 6, 9, generator=generator, dtype=torch.float64)
    values = torch.randn(2, 1, 9, 3, generator=generator, dtype=torch.float64)
    logits[0, 0, 2, :4] = logits[0, 0, 3, 4:] = -math.inf
    logits[1, 0, 5] = -math.inf
    parts = []
    for keys in (slice(0, 4), slice(4, 9)):
        lse = logits[..., keys].logsumexp(-1)
        parts.append((logits[..., keys].softmax(-1).nan_to_num() @ values[:, :, keys], lse))
    out, lse = merged(parts)
    assert out.allclose(logits.softmax(-1).nan_to_num() @ values)
    assert lse.allclose(logits.logsumexp(-1))
    assert lse[1, 0, 5] == -math.inf and not out[1, 0, 5].any()
