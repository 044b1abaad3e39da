"""What benchmarks/attention.py computes, where it looks, and at which settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from benchmark_support import small

import attncomp


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """The modules that benchmarks/attention.py imports, by name; four heads over two."""
    small(monkeypatch)
    return importlib.import_module


@pytest.mark.parametrize("gate", ["causal", "window(1024)", "longformer", "bigbird",
                                  "documents & causal", "topk_blocks(16, 64) & causal",
                                  "window(256)"])  # fmt: skip
def test_masks_are_those_of_the_patterns(
    modules: Callable[[str], ModuleType], gate: str, seed: int
) -> None:
    """The definitions in benchmarks/workloads.py mean what attncomp.mask says."""
    workloads = modules("workloads")
    setting = replace(modules("matrix").Setting(1300), batch=2)
    (workload,) = [w for w in workloads.all_workloads() if w.pattern == gate]
    given = workload.inputs(workloads.make_inputs(setting, seed, "cpu"), seed)
    attend = attncomp.compile(gate)
    tensors = {name: given.tensors[name] for name in attend.tensors}
    expected = attend.mask(1300, heads=4, batch=2, **tensors).expand(2, 4, -1, -1)
    rows = modules("exactness").sample_of(given, seed).rows
    for batch, head in ((0, 1), (1, 0)):
        found = workload.gates(given, rows, batch, head)
        assert torch.equal(found, expected[batch, 2 * head, rows].bool())


@pytest.mark.parametrize("lag", [0, 5])
def test_gates_are_those_of_the_selection(
    modules: Callable[[str], ModuleType], lag: int, seed: int
) -> None:
    workloads = modules("workloads")
    given = workloads.make_inputs(modules("matrix").Setting(90), seed, "cpu")
    scores = torch.randn(1, 2, 90, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    given = replace(given, tensors={"scores": scores})  # with ties
    workload = workloads.Workload("", workloads.WINDOWS[256].mask, workloads.Selection(7, lag=lag))
    workload = replace(workload, mask=lambda given: lambda b, h, q, k: (q >= k) & (q - k < 4))
    expected = attncomp.compile(f"sparsek(k=7, lag={lag}) | window(4)").mask(90, scores=scores)
    rows = torch.arange(90)
    for head in range(2):
        found = workload.gates(given, rows, 0, head)
        torch.testing.assert_close(found.float(), expected[0, head], rtol=0, atol=1e-6)


def test_samples_are_spread(modules: Callable[[str], ModuleType], seed: int) -> None:
    setting = replace(modules("matrix").Setting(1000), batch=3, layout="mqa")
    given = modules("workloads").make_inputs(setting, seed, "cpu")
    sample = modules("exactness").sample_of(given, seed)
    assert sample.heads == ((0, 0), (2, 0))
    assert sample.rows.shape == (64,) and sample.rows[-1] == 999
    assert ((sample.rows * 64 + 63) // 1000 - torch.arange(64)).abs().max() <= 1
    assert sample.rows.diff().min() > 0


def test_matrices(modules: Callable[[str], ModuleType]) -> None:
    matrix = modules("matrix")
    counts = {
        name: sum(map(len, matrix.distinct(parts))) for name, parts in matrix.MATRICES.items()
    }
    assert counts == {"quick": 3, "axes": 15, "full": 11 * 2 * 3 * 2}
    (settings, again) = matrix.distinct([matrix.Axes((64, 32)), matrix.Axes((32,), (64, 128))])
    assert [setting.length for setting in settings] == [32, 64]
    assert again == [matrix.Setting(32, 64)]
