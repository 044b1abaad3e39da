"""Generated torch modules take time and memory in proportion to the length."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dense import Shape, random_inputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_modules import make_plan, run_module


class Work(TorchDispatchMode):
    """Counts the elements that operations write, and the most that one tensor has."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            # A view that expands is counted too: nothing may even look like N x N.
            if isinstance(tensor, Tensor):
                self.total += 0 if func.is_view else tensor.numel()
                self.largest = max(self.largest, tensor.numel())
        return result


LONG_PATTERNS = (
    "window(64)",
    "sparsek(k=64) | window(64)",
    'window(64) - sparsek(k=9, gate="hard")',
)


def long_run(pattern: str, n: int, generator: torch.Generator) -> Callable[[], object]:
    shape = Shape(query_heads=4, kv_heads=2, n_queries=n, n_keys=n, head_dim=32, value_dim=32)
    plan = make_plan(pattern, shape, dtype="float32", tile=None)
    inputs = random_inputs(shape, generator, dtype=torch.float32)
    return lambda: run_module(plan, inputs, scale=0.2)


@pytest.mark.parametrize("pattern", LONG_PATTERNS)
def test_work_and_memory_grow_linearly(pattern: str, generator: torch.Generator) -> None:
    """Twice the length is twice the elements written, and no tensor is quadratic."""
    works = []
    for n in (2048, 4096):
        run_once = long_run(pattern, n, generator)
        with Work() as work:
            run_once()
        works.append(work)
    assert works[1].total <= 2.3 * works[0].total
    assert works[1].largest <= 2.1 * works[0].largest
    assert works[1].largest <= 4096 * 4 * 32 * 8  # a few times the size of q


def test_lags_beyond_the_length_take_no_memory(generator: torch.Generator) -> None:
    run_once = long_run(f"sparsek(k=4, lag={2**20})", 64, generator)
    with Work() as work:
        run_once()
    assert work.largest < 2**20


@pytest.mark.parametrize("pattern", LONG_PATTERNS[:2])
def test_time_grows_linearly(pattern: str, generator: torch.Generator) -> None:
    """CPU seconds of one thread, the best of several interleaved runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        runs = {n: long_run(pattern, n, generator) for n in (8192, 16384)}
        best = dict.fromkeys(runs, math.inf)
        for _ in range(6):
            for n, run_once in runs.items():
                start = time.process_time()
                run_once()
                best[n] = min(best[n], time.process_time() - start)
            if best[16384] <= 2.3 * best[8192]:
                break
    finally:
        torch.set_num_threads(threads)
    assert best[16384] <= 2.3 * best[8192]
