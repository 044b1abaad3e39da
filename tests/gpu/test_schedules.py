"""What comes before the kernels at a million positions on a GPU: under 50 ms and 64 MiB."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from schedule_support import MIB, call_of, plan_of

from attncomp.runtime.tables import BlockParts, block_state

pytestmark = pytest.mark.gpu

SPECS = [
    "apb",
    "bigbird",
    "block_sparse",
    "documents_causal",
    "documents_full",
    "nats",
    "prefix_language_model",
    "tree",
]


@contextmanager
def no_waits() -> Iterator[None]:
    """Operations that wait for the device raise; torch warns that it may not know all of them."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("spec", SPECS)
def test_schedules(spec: str, generator: torch.Generator) -> None:
    """Nor does the host wait for the device."""
    plan = plan_of(spec, "cuda")
    parts, call = BlockParts.of(plan), call_of(plan, generator, "cuda")
    block_state(parts, call)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    with no_waits():
        state = block_state(parts, call)
    torch.cuda.synchronize()
    assert (torch.cuda.max_memory_allocated() - held) / MIB < 64
    del state
    times = []
    for _ in range(5):
        start = time.perf_counter()
        block_state(parts, call)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.05, times
