"""What comes before the kernels at a million positions: memory, and operations to wait for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memory_support import Started, peak_bytes
from torch import Tensor

import attncomp
from attncomp.codegen.plan import KernelPlan
from attncomp.runtime.extents import Call
from attncomp.runtime.program import usual_problem
from attncomp.runtime.tables import BlockParts, block_state
from attncomp.runtime.words import transposed_words

N = 1 << 20
MIB = 1 << 20


def drawn(name: str, generator: torch.Generator) -> Tensor:
    match name:
        case "documents":
            return torch.randint(0, 1024, (1, N), generator=generator).sort().values.int()
        case "evict":
            stay = torch.randint(0, 8192, (1, 1, N), generator=generator)
            return (torch.arange(N) + stay).int()
        case "passed":
            return torch.rand((1, 1, N), generator=generator) < 1 / 8
        case "ancestors":
            return torch.rand((1, 64, 64), generator=generator) < 0.5
        case "block_mask":
            size = (1, 1, N // 64, N // 64)
            return torch.rand(size, generator=generator, dtype=torch.float16) < 0.002
        case _:
            return torch.randint(0, N, (1,), generator=generator).int()


def call_of(plan: KernelPlan, generator: torch.Generator) -> Call:
    given = {name: drawn(name, generator) for name in plan.inputs}
    return Call(1, 32, 8, N, N, torch.device("cpu"), given)


def plan_of(spec: str) -> KernelPlan:
    return attncomp.compile(spec).plan_for(usual_problem("torch", on_gpu=False))


@pytest.mark.parametrize(
    ("spec", "operations"),
    [
        ("apb", 100),
        ("documents_causal", 40),
        ("documents_full", 40),
        ("nats", 50),
        ("prefix_language_model", 50),
        ("tree", 100),
    ],
)
def test_extents(spec: str, operations: int, generator: torch.Generator, tmp_path: Path) -> None:
    """Under 48 MiB here leaves sorts on a GPU, which take 20 bytes a key more, 64 MiB in all."""
    plan = plan_of(spec)
    parts, call = BlockParts.of(plan), call_of(plan, generator)
    assert plan.extents
    assert peak_bytes(lambda: block_state(parts, call), tmp_path) < 48 * MIB
    with Started() as started:
        block_state(parts, call)
    assert started.count <= operations


def test_lists_of_a_table(generator: torch.Generator, tmp_path: Path) -> None:
    """16,384 x 16,384 blocks; and the same by blocks of keys, which the backward makes."""
    plan = plan_of("block_sparse")
    parts, call = BlockParts.of(plan), call_of(plan, generator)
    assert peak_bytes(lambda: block_state(parts, call), tmp_path) < 56 * MIB
    with Started() as started:
        state = block_state(parts, call)
    assert started.count <= 2000
    assert peak_bytes(lambda: transposed_words(*state), tmp_path) < 60 * MIB
