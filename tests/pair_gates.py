"""Gates of single pairs that read tensors, from the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from attncomp.frontend import ast


class Pair(NamedTuple):
    """The indices of a pair: query and key position, head, row of the batch, number of keys."""

    q: int
    k: int
    h: int
    b: int
    n: int


def block_gate(call: ast.Call, pair: Pair, given: dict[str, Any]) -> float:
    arguments: dict[str, Any] = dict(call.arguments)
    size = arguments["size"]
    query, key, n_blocks = pair.q // size, pair.k // size, -(-pair.n // size)
    if query < 0:
        return 0.0
    match call.name:
        case "blocks":
            return float(given["block_mask"][pair.b, pair.h, query, key] != 0)
        case "topk_blocks":
            row = given["block_scores"].tensor[pair.b, 0, query, : query + 1].tolist()
            worst_last = sorted(range(len(row)), key=lambda j: (math.isnan(row[j]), -row[j], j))
            return float(key in worst_last[: arguments["k"]])
        case _:
            seeded = mixed(mixed(np.uint32(arguments["seed"])) + np.uint32(query))
            draws = (mixed(seeded + np.uint32(i)) % n_blocks for i in range(arguments["count"]))
            return float(key in [int(draw) for draw in draws])


def mixed(x: np.uint32) -> np.uint32:
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


READING: dict[str, Callable[[Pair, dict[str, Any]], bool]] = {
    "documents": lambda p, t: t["documents"][p.b, p.q] == t["documents"][p.b, p.k],
    "prefix_lm": lambda p, t: p.k <= p.q or p.k < t["prefix_lengths"][p.b],
    "threshold": lambda p, t: bool(
        t["logits"].tensor[p.b, p.h, p.q - p.n, p.k] >= t["theta"].tensor[p.h]
    ),
    "lifetime": lambda p, t: p.k <= p.q < t["evict"][p.b, p.h, p.k],
}


class Entries:
    """An integer tensor whose entries are 0 outside of it; a dimension of size 1 serves all."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __getitem__(self, places: int | tuple[int, ...]) -> int:
        places = places if isinstance(places, tuple) else (places,)
        inside = all(
            0 <= place < size or (size == 1 and place >= 0)
            for place, size in zip(places, self.tensor.shape, strict=True)
        )
        sizes = zip(places, self.tensor.shape, strict=True)
        return (
            int(self.tensor[tuple(min(place, size - 1) for place, size in sizes)]) if inside else 0
        )
