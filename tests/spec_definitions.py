"""What shipped definitions and primitives of integer tensors mean, written down once more.

Each as a matrix from the paper, row by row or block by block, and as a predicate of FlexAttention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

BATCH = 2
Tensors: TypeAlias = dict[str, Tensor]
MaskMod: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(b, h, q, k) -> whether the pair is attended; 0-dim tensors, q and k positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One shipped definition, once more.

    values: arguments to test it with.
    draw: (n_keys, generator, arguments) -> the integer tensors of a call of BATCH rows.
    dense: (n, tensors, arguments) -> bool [B or 1, n, n].
    flex: (n, tensors, arguments) -> the predicate of FlexAttention.
    """

    values: tuple[dict[str, int], ...]
    draw: Callable[[int, torch.Generator, dict[str, int]], Tensors]
    dense: Callable[..., Tensor]
    flex: Callable[..., MaskMod]


def drawn(high: int, generator: torch.Generator, *size: int) -> Tensor:
    return torch.randint(0, high, size, generator=generator, dtype=torch.int32)


def nothing(n: int, generator: torch.Generator, arguments: dict[str, int]) -> Tensors:
    return {}


def matrix(rows: list[set[int]]) -> Tensor:
    """bool [1, n, n] from the keys of each query; those outside of the row are dropped."""
    n = len(rows)
    return torch.tensor([[[k in keys for k in range(n)] for keys in rows]])


# Dense definitions


def dense_chunked(n: int, *, size: int) -> Tensor:
    """Causal squares along the diagonal."""
    square = torch.ones(size, size, dtype=torch.bool).tril()
    return torch.block_diag(*[square] * -(-n // size))[None, :n, :n].bool()


def dense_documents(n: int, documents: Tensor) -> Tensor:
    """The members of each document attend one another."""
    found = torch.zeros(len(documents), n, n, dtype=torch.bool)
    for row, ids in zip(found, documents, strict=True):
        for document in ids.unique():
            members = (ids == document).nonzero().squeeze(1)
            row[members[:, None], members] = True
    return found


def dense_dilated(n: int, *, size: int, step: int) -> Tensor:
    return matrix([{q - step * i for i in range(min(size, n))} for q in range(n)])


def dense_lifetime(n: int, evict: Tensor) -> Tensor:
    """Each key's column: alive from its own position on until it is evicted."""
    found = torch.zeros(len(evict), n, n, dtype=torch.bool)
    for row, lives in enumerate(evict[:, 0].tolist()):
        for key, death in enumerate(lives):
            found[row, key:death, key] = True
    return found


def dense_apb(n: int, passed: Tensor, *, block: int, anchor: int) -> Tensor:
    """Host by host: the anchor, what earlier hosts passed on, the host's own block."""
    found = torch.zeros(len(passed), n, n, dtype=torch.bool)
    for start in range(0, n, block):
        found[:, start : start + block, :start] = passed[:, :, :start] != 0
        found[:, start : start + block, start : start + block] = True
    found[:, :, :anchor] = True
    return found.tril()


def dense_prefix_lm(n: int, prefix_lengths: Tensor) -> Tensor:
    """A causal triangle whose first columns are filled."""
    found = torch.ones(len(prefix_lengths), n, n, dtype=torch.bool).tril()
    for row, length in zip(found, prefix_lengths.tolist(), strict=True):
        row[:, :length] = True
    return found


def dense_neighborhood(n: int, *, size: int) -> Tensor:
    """The window of `size` keys around the query, moved until it lies within the row."""
    rows = []
    for query in range(n):
        window = list(range(query - size // 2, query - size // 2 + size))
        while window[-1] >= n:
            window = [key - 1 for key in window]
        while window[0] < 0:
            window = [key + 1 for key in window]
        rows.append(set(window))
    return matrix(rows)


def dense_block_diffusion(n: int, *, size: int) -> Tensor:
    """A triangle of blocks."""
    blocks = -(-n // size)
    triangle = torch.ones(blocks, blocks, dtype=torch.bool).tril()
    wide = triangle.repeat_interleave(size, 0).repeat_interleave(size, 1)
    return wide[None, :n, :n]


def dense_tree(n: int, committed: Tensor, parents: Tensor, *, drafts: int) -> Tensor:
    """Walk from each drafted token to the root; before them a causal row, cut behind `committed`.

    parents: [B, drafts], the parent of each drafted token, -1 for a root.
    """
    found = torch.zeros(len(parents), n, n, dtype=torch.bool)
    start = n - drafts
    for row, count, tree in zip(found, committed.tolist(), parents.tolist(), strict=True):
        for query in range(n):
            row[query, : min(count, start, query + 1)] = True
            draft = query - start
            while draft >= 0:
                row[query, start + draft] = True
                draft = tree[draft]
    return found


def dense_strided(n: int, *, stride: int) -> Tensor:
    """Section 4.3: A1 = {t, ..., i} with t = max(0, i - l), A2 = {j : (i - j) mod l = 0}."""
    near = [set(range(max(0, i - stride), i + 1)) for i in range(n)]
    far = [set(range(i, -1, -stride)) for i in range(n)]
    return matrix([a | b for a, b in zip(near, far, strict=True)])


def dense_fixed(n: int, *, stride: int, c: int) -> Tensor:
    """Section 4.3: A1 = {j : j // l = i // l}, A2 = {j : j mod l in {l - c, ..., l}}."""
    near = [set(range(i // stride * stride, i + 1)) for i in range(n)]
    summary = {j for j in range(n) if j % stride in range(stride - c, stride + 1)}
    far = [{j for j in summary if j <= i} for i in range(n)]
    return matrix([a | b for a, b in zip(near, far, strict=True)])


# Predicates of FlexAttention


def flex_neighborhood(n: int, *, size: int) -> MaskMod:
    """As NATTEN is written in the examples of FlexAttention: a clamped centre."""
    before, after = size // 2, (size - 1) // 2

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        centre = q.clamp(max=n - 1 - after).clamp(min=before)
        return (centre - k <= before) & (k - centre <= after)

    return mask


def flex_tree(n: int, committed: Tensor, ancestors: Tensor, *, drafts: int) -> MaskMod:
    start = n - drafts

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        past = (k < committed[b]) & (k < start) & (k <= q)
        both = (q >= start) & (k >= start)
        seen = ancestors[b, (q - start).clamp(min=0), (k - start).clamp(min=0)] != 0
        return past | both & seen

    return mask


def flex_of(predicate: Callable[..., Tensor]) -> Callable[..., MaskMod]:
    """A predicate of q, k, b and the tensors and arguments by name."""

    def make(n: int, **given: Any) -> MaskMod:
        return lambda b, h, q, k: predicate(q, k, b, **given)

    return make


def draw_tree(n: int, generator: torch.Generator, arguments: dict[str, int]) -> Tensors:
    """A random forest for each row; the ancestors by squaring the relation of parents."""
    drafts = arguments["drafts"]
    parents = torch.stack([drawn(draft + 1, generator, BATCH) - 1 for draft in range(drafts)], 1)
    reach = torch.eye(drafts).repeat(BATCH, 1, 1)
    for draft in range(drafts):
        for row in range(BATCH):
            if parents[row, draft] >= 0:
                reach[row, draft, parents[row, draft]] = 1
    for _ in range(drafts.bit_length()):
        reach = (reach @ reach).clamp(max=1)
    committed = 1 + drawn(n, generator, BATCH)
    return {"committed": committed, "parents": parents, "ancestors": reach.bool()}


DEFINITIONS = {
    "chunked": Definition(
        values=({"size": 1}, {"size": 4}, {"size": 7}, {}),
        draw=nothing,
        dense=lambda n, size=8192: dense_chunked(n, size=min(size, n)),
        flex=flex_of(lambda q, k, b, size=8192: (q // size == k // size) & (q >= k)),
    ),
    "documents_causal": Definition(
        values=({},),
        draw=lambda n, generator, _: {"documents": drawn(4, generator, BATCH, n)},
        dense=lambda n, documents: dense_documents(n, documents).tril(),
        flex=flex_of(lambda q, k, b, documents: (documents[b, q] == documents[b, k]) & (q >= k)),
    ),
    "documents_full": Definition(
        values=({},),
        draw=lambda n, generator, _: {"documents": drawn(4, generator, 1, n).sort(1).values},
        dense=dense_documents,
        flex=flex_of(lambda q, k, b, documents: documents[0, q] == documents[0, k]),
    ),
    "documents": Definition(
        values=({},),
        draw=lambda n, generator, _: {"documents": drawn(5, generator, BATCH, n)},
        dense=dense_documents,
        flex=flex_of(lambda q, k, b, documents: documents[b, q] == documents[b, k]),
    ),
    "dilated": Definition(
        values=({"size": 1, "step": 3}, {"size": 4, "step": 1}, {"size": 3, "step": 4}),
        draw=nothing,
        dense=dense_dilated,
        flex=flex_of(
            lambda q, k, b, size, step: (q >= k) & (q - k < size * step) & ((q - k) % step == 0)
        ),
    ),
    "dilated_window": Definition(
        values=({"size": 3, "step": 3, "local": 2}, {"size": 2, "step": 7, "local": 4}, {}),
        draw=nothing,
        dense=lambda n, size=256, step=4, local=64: (
            dense_dilated(n, size=size, step=step) | dense_dilated(n, size=local, step=1)
        ),
        flex=flex_of(
            lambda q, k, b, size=256, step=4, local=64: (
                ((q - k < local) | (q - k < size * step) & ((q - k) % step == 0)) & (q >= k)
            )
        ),
    ),
    "strided": Definition(
        values=({"step": 1}, {"step": 3}, {"step": 40}),
        draw=nothing,
        dense=lambda n, step: dense_dilated(n, size=n, step=step),
        flex=flex_of(lambda q, k, b, step: (q >= k) & ((q - k) % step == 0)),
    ),
    "lifetime": Definition(
        values=({},),
        draw=lambda n, generator, _: {"evict": drawn(n + 2, generator, BATCH, 1, n)},
        dense=dense_lifetime,
        flex=flex_of(lambda q, k, b, evict: (k <= q) & (q < evict[b, 0, k])),
    ),
    "nats": Definition(
        values=({"size": 1}, {"size": 5}),
        draw=lambda n, generator, _: {"evict": drawn(n + 2, generator, BATCH, 1, n)},
        dense=lambda n, evict, size: dense_lifetime(n, evict) | dense_dilated(n, size=size, step=1),
        flex=flex_of(
            lambda q, k, b, evict, size: (k <= q) & ((q < evict[b, 0, k]) | (q - k < size))
        ),
    ),
    "apb": Definition(
        values=({"block": 3, "anchor": 1}, {"block": 8, "anchor": 4}),
        draw=lambda n, generator, _: {"passed": drawn(2, generator, BATCH, 1, n)},
        dense=dense_apb,
        flex=flex_of(
            lambda q, k, b, passed, block, anchor: (
                ((k < anchor) | (q // block == k // block) | (passed[b, 0, k] != 0)) & (q >= k)
            )
        ),
    ),
    "prefix_lm": Definition(
        values=({},),
        draw=lambda n, generator, _: {"prefix_lengths": drawn(n + 2, generator, BATCH)},
        dense=dense_prefix_lm,
        flex=flex_of(lambda q, k, b, prefix_lengths: (q >= k) | (k < prefix_lengths[b])),
    ),
    "prefix_language_model": Definition(
        values=({},),
        draw=lambda n, generator, _: {"prefix_lengths": drawn(n + 2, generator, BATCH)},
        dense=dense_prefix_lm,
        flex=flex_of(lambda q, k, b, prefix_lengths: (q >= k) | (k < prefix_lengths[b])),
    ),
    "neighborhood": Definition(
        values=({"size": 1}, {"size": 2}, {"size": 3}, {"size": 6}, {}, {"size": 13}),
        draw=nothing,
        dense=lambda n, size=7: dense_neighborhood(n, size=min(size, n)),
        flex=lambda n, size=7: flex_neighborhood(n, size=min(size, n)),
    ),
    "block_diffusion": Definition(
        values=({"size": 1}, {"size": 4}, {"size": 5}, {}),
        draw=nothing,
        dense=lambda n, size=16: dense_block_diffusion(n, size=size),
        flex=flex_of(lambda q, k, b, size=16: q // size >= k // size),
    ),
    "tree": Definition(
        values=({"drafts": 1}, {"drafts": 4}, {"drafts": 5}),
        draw=draw_tree,
        dense=lambda n, ancestors, **given: dense_tree(n, **given),
        flex=lambda n, parents, **given: flex_tree(n, **given),
    ),
    "sparse_transformer_strided": Definition(
        values=({"stride": 1}, {"stride": 3}, {"stride": 8}, {}),
        draw=nothing,
        dense=lambda n, stride=128: dense_strided(n, stride=stride),
        flex=flex_of(
            lambda q, k, b, stride=128: ((q - k < stride) | ((q - k) % stride == 0)) & (q >= k)
        ),
    ),
    "sparse_transformer_fixed": Definition(
        values=({"stride": 1, "c": 1}, {"stride": 4, "c": 1}, {"stride": 6, "c": 4}, {}),
        draw=nothing,
        dense=lambda n, stride=128, c=8: dense_fixed(n, stride=stride, c=c),
        flex=flex_of(
            lambda q, k, b, stride=128, c=8: (
                ((q // stride == k // stride) | (k % stride >= stride - c)) & (q >= k)
            )
        ),
    ),
}


def cases(definitions: dict[str, Definition]) -> dict[str, tuple[str, dict[str, int]]]:
    """The calls to test, each with the name and the arguments."""
    return {
        f"{name}({', '.join(f'{key}={value}' for key, value in values.items())})": (name, values)
        for name, definition in definitions.items()
        for values in definition.values
    }
