"""What comes before the kernels at a million positions: memory, and operations to wait for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from memory_support import Started, peak_bytes
from schedule_support import MIB, call_of, plan_of

from attncomp.runtime.tables import BlockParts, block_state
from attncomp.runtime.words import transposed_words


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
    """Under 48 MiB here leaves room for a sort on a GPU, which takes 20 MiB more of its own."""
    plan = plan_of(spec, "cpu")
    parts, call = BlockParts.of(plan), call_of(plan, generator, "cpu")
    assert plan.extents
    assert peak_bytes(lambda: block_state(parts, call), tmp_path) < 48 * MIB
    with Started() as started:
        block_state(parts, call)
    assert started.count <= operations


def test_lists_of_a_table(generator: torch.Generator, tmp_path: Path) -> None:
    """16,384 x 16,384 blocks; and the same by blocks of keys, which the backward makes."""
    plan = plan_of("block_sparse", "cpu")
    parts, call = BlockParts.of(plan), call_of(plan, generator, "cpu")
    assert peak_bytes(lambda: block_state(parts, call), tmp_path) < 56 * MIB
    with Started() as started:
        state = block_state(parts, call)
    assert started.count <= 2000
    assert peak_bytes(lambda: transposed_words(*state), tmp_path) < 60 * MIB
