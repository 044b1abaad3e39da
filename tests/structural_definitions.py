"""What the patterns without tensors mean, written down once more, as `spec_definitions` does."""

from __future__ import annotations

import torch
from spec_definitions import Definition, dense_dilated, flex_of, matrix, nothing
from torch import Tensor


def first_and_near(n: int, *, count: int, size: int) -> Tensor:
    """The first keys and the last ones of each query's past."""
    rows = [list(range(query + 1)) for query in range(n)]
    return matrix([{*past[:count], *past[-size:]} for past in rows])


def flex_first_and_near(q: Tensor, k: Tensor, *, count: int, size: int) -> Tensor:
    return ((q - k < size) | (k < count)) & (q >= k)


STRUCTURAL = {
    "full": Definition(
        values=({},),
        draw=nothing,
        dense=lambda n: torch.ones(1, n, n, dtype=torch.bool),
        flex=flex_of(lambda q, k, b: k >= 0),
    ),
    "causal": Definition(
        values=({},),
        draw=nothing,
        dense=lambda n: matrix([set(range(q + 1)) for q in range(n)]),
        flex=flex_of(lambda q, k, b: q >= k),
    ),
    "window": Definition(
        values=({"size": 1}, {"size": 4}, {"size": 99}, {"before": 3, "after": 2}, {"after": 4}),
        draw=nothing,
        dense=lambda n, size=1, before=0, after=0: matrix(
            [set(range(q - max(size - 1, before), q + after + 1)) for q in range(n)]
        ),
        flex=flex_of(
            lambda q, k, b, size=1, before=0, after=0: (
                (q - k <= max(size - 1, before)) & (k - q <= after)
            )
        ),
    ),
    "sliding_window": Definition(
        values=({"size": 1}, {"size": 4}, {}),
        draw=nothing,
        dense=lambda n, size=1024: dense_dilated(n, size=size, step=1),
        flex=flex_of(lambda q, k, b, size=1024: (q >= k) & (q - k < size)),
    ),
    "first": Definition(
        values=({"count": 1}, {"count": 6}, {"count": 99}),
        draw=nothing,
        dense=lambda n, count: matrix([set(range(min(q + 1, count))) for q in range(n)]),
        flex=flex_of(lambda q, k, b, count: (q >= k) & (k < count)),
    ),
    "chunk": Definition(
        values=({"size": 1}, {"size": 4}, {"size": 7}, {"size": 99}),
        draw=nothing,
        dense=lambda n, size: matrix(
            [set(range(q - q % size, q - q % size + size)) for q in range(n)]
        ),
        flex=flex_of(lambda q, k, b, size: q // size == k // size),
    ),
    "longformer": Definition(
        values=({"w": 2, "g": 3}, {"w": 7, "g": 1}, {}),
        draw=nothing,
        dense=lambda n, w=512, g=64: first_and_near(n, count=g, size=w),
        flex=flex_of(lambda q, k, b, w=512, g=64: flex_first_and_near(q, k, count=g, size=w)),
    ),
    "streaming_llm": Definition(
        values=({"sinks": 2, "size": 3}, {"sinks": 6, "size": 1}, {}),
        draw=nothing,
        dense=lambda n, sinks=4, size=1024: first_and_near(n, count=sinks, size=size),
        flex=flex_of(
            lambda q, k, b, sinks=4, size=1024: flex_first_and_near(q, k, count=sinks, size=size)
        ),
    ),
}
