"""Integer tensors made up for pictures of patterns whose own are the user's to give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attncomp.ir.affine import Entry, index
from attncomp.ir.graph import Graph
from attncomp.ir.ops import Where
from attncomp.ir.oracle import tensor_entries
from attncomp.runtime.block_rows import positions_a_size
from attncomp.runtime.inputs import integer_names


def made_up(graph: Graph, n: int, seed: int = 0) -> dict[str, Tensor]:
    """For each integer tensor that a pattern reads one with a few plausible entries, for n keys.

    Tables of pairs, or of blocks, are 0 and 1. What is compared with positions by size is a third
    of them, or for each position a later one. All others, such as documents, come in three runs.
    """
    generator = torch.Generator().manual_seed(seed)
    entries, ordered = tensor_entries(graph), _ordered(graph)
    return {
        name: _made_up(entries[name], n, name in ordered, generator)
        for name in integer_names(entries)
    }


def _ordered(graph: Graph) -> set[str]:
    """The tensors whose entries a test compares by size."""
    tests = [op for op in map(graph.op, graph.walk()) if isinstance(op, Where)]
    values = [test.value for test in tests if test.relation == ">="]
    return {entry.tensor for value in values for entry in value.entries}


def _made_up(entries: Sequence[Entry], n: int, ordered: bool, generator: torch.Generator) -> Tensor:
    subscripts = entries[0].indices
    sizes = [
        1 if subscript in (index("b"), index("h")) else -(-n // (positions_a_size(subscript) or 1))
        for subscript in subscripts
    ]
    wide = [size for size in sizes if size > 1]
    if len(wide) > 1:
        return (torch.rand(sizes, generator=generator) < 0.4).int()
    if not wide:
        return torch.full(sizes, n // 3)
    place = torch.arange(wide[0])
    if ordered:
        lives = torch.randint(1, max(2, n // 2), place.shape, generator=generator)
        return ((place + lives) * (n // wide[0])).reshape(sizes)
    return (place * 3 // wide[0]).reshape(sizes)
