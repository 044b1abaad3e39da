"""Patterns of blocks mean what their definitions say, and what FlexAttention makes of a mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask
from torch.nn.functional import scaled_dot_product_attention

import attncomp

BATCH, HEADS, KV_HEADS = 2, 4, 2
SIZES = (1, 3, 16, 64)


def wide(table: Tensor, size: int, n: int) -> Tensor:
    """A table of blocks [..., T, T] as one of pairs [..., n, n]."""
    return table.repeat_interleave(size, -2).repeat_interleave(size, -1)[..., :n, :n]


def best(scores: Tensor, k: int) -> Tensor:
    """The k best of each row up to the diagonal, [..., T, T], one after the other."""
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    left = scores.double().nan_to_num(nan=-1e9).masked_fill(torch.ones_like(chosen).triu(1), -1e18)
    for _ in range(min(k, scores.shape[-1])):
        place = left.argmax(-1, keepdim=True)  # the first of equal ones
        one = torch.zeros_like(chosen).scatter_(-1, place, left.gather(-1, place) > -1e18)
        chosen, left = chosen | one, left.masked_fill(one, -1e18)
    return chosen


def tables(size: int, n: int, groups: int, generator: torch.Generator) -> dict[str, Tensor]:
    n_blocks = -(-n // size)
    scores = torch.randint(-9, 10, (BATCH, groups, n_blocks, n_blocks), generator=generator)
    mask = torch.rand(1, groups, n_blocks, n_blocks, generator=generator) < 0.3
    return {
        "block_mask": mask,
        "block_scores": scores.float().masked_fill(scores == 9, torch.nan),
    }


CASES = {
    "blocks({s})": lambda t, s, n: wide(t["block_mask"], s, n),
    "block_sparse({s})": lambda t, s, n: wide(t["block_mask"], s, n).tril(),
    "topk_blocks(2, {s})": lambda t, s, n: wide(best(t["block_scores"], 2), s, n),
    "nsa_selection(3, {s})": lambda t, s, n: wide(best(t["block_scores"], 3), s, n).tril(),
    "quest(1, {s})": lambda t, s, n: wide(best(t["block_scores"], 1), s, n).tril(),
    "moba(1, {s})": lambda t, s, n: wide(
        best(t["block_scores"], 1) | torch.eye(-(-n // s), dtype=torch.bool), s, n
    ).tril(),
    "~blocks({s})": lambda t, s, n: wide(~t["block_mask"], s, n),
    "blocks({s}) | topk_blocks(1, {s})": lambda t, s, n: wide(
        t["block_mask"] | best(t["block_scores"], 1), s, n
    ),
}


def case(pattern: str, size: int, n: int, groups: int, generator: torch.Generator) -> Any:
    """The call of a pattern, its tensors and the pairs [B, H, n, n] that it attends."""
    given = tables(size, n, groups, generator)
    pairs = CASES[pattern](given, size, n).repeat_interleave(HEADS // groups, 1)
    attend = attncomp.compile(pattern.format(s=size), backend="torch")
    return attend, {name: given[name] for name in attend.tensors}, pairs.expand(BATCH, -1, -1, -1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", CASES)
def test_masks(pattern: str, size: int, generator: torch.Generator) -> None:
    n = int(torch.randint(1, 90, (), generator=generator))
    attend, given, pairs = case(pattern, size, n, HEADS, generator)
    assert torch.equal(attend.mask(n, heads=HEADS, batch=BATCH, **given).bool(), pairs)


@pytest.mark.parametrize("groups", [1, KV_HEADS, HEADS])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", CASES)
def test_attention_and_gradients(
    pattern: str, size: int, groups: int, generator: torch.Generator
) -> None:
    """The torch backend against dense attention, for fewer, as many and more queries than keys."""
    n = int(torch.randint(2, 140, (), generator=generator))
    attend, given, pairs = case(pattern, size, n, groups, generator)
    for n_queries in (n, max(1, n - 37)):
        inputs = [
            torch.randn(BATCH, heads, length, 16, generator=generator, dtype=torch.float64)
            for heads, length in ((HEADS, n_queries), (KV_HEADS, n), (KV_HEADS, n))
        ]
        q, k, v = (tensor.requires_grad_() for tensor in inputs)
        found = attend(q, k, v, **given)
        mask = pairs[:, :, n - n_queries :]
        dense = scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        dense = dense.masked_fill(~mask.any(-1, keepdim=True), 0)
        dout = torch.randn(found.shape, generator=generator, dtype=torch.float64)
        for actual, wanted in zip(
            (found, *torch.autograd.grad(found, (q, k, v), dout)),
            (dense, *torch.autograd.grad(dense, (q, k, v), dout)),
            strict=True,
        ):
            torch.testing.assert_close(actual, wanted, atol=1e-10, rtol=1e-8)


def test_queries_before_the_first_key_attend_to_nothing(generator: torch.Generator) -> None:
    q, k = (torch.randn(1, 1, n, 16, generator=generator) for n in (50, 40))
    full = torch.ones(1, 1, 3, 3)
    for pattern, given in (
        ("blocks(16)", {"block_mask": full.int()}),
        ("topk_blocks(9, 16)", {"block_scores": full}),
        ("random_blocks(9, 16)", {}),
    ):
        attend = attncomp.compile(pattern, backend="torch")
        _, lse = attend(q, k, k, return_lse=True, **given)
        assert (lse.squeeze() == -torch.inf).tolist() == [True] * 10 + [False] * 40
        gates = attend.mask(50, 40, **given)
        assert torch.equal(gates.any(-1).squeeze(), lse.squeeze() > -torch.inf)


@pytest.mark.parametrize("size", [16, 64])
def test_masks_are_those_of_flex_attention(size: int, generator: torch.Generator) -> None:
    n = int(torch.randint(1, 200, (), generator=generator))
    mask = tables(size, n, HEADS, generator)["block_mask"]
    flex = create_mask(
        lambda b, h, q, k: mask[0, h, q // size, k // size], BATCH, HEADS, n, n, "cpu"
    )
    found = attncomp.compile(f"blocks({size})").mask(n, heads=HEADS, batch=BATCH, block_mask=mask)
    assert torch.equal(found.bool().expand(BATCH, -1, -1, -1), flex)


def test_a_mask_of_zeros_attends_to_nothing(generator: torch.Generator) -> None:
    q, k, v = torch.randn(3, 1, 2, 70, 16, generator=generator, requires_grad=True)
    attend = attncomp.compile("blocks(16)", backend="torch")
    out, lse = attend(
        q, k, v, return_lse=True, block_mask=torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    )
    assert not out.any() and (lse == -torch.inf).all()
    assert not any(grad.any() for grad in torch.autograd.grad(out.sum(), (q, k, v)))


def test_bigbird(generator: torch.Generator) -> None:
    """Its window, its global keys and one draw a block of queries that does not depend on heads."""
    gates = attncomp.compile("bigbird(w=8, g=4, random=2, size=16)").mask(256, heads=2)[0, 0]
    distance = torch.arange(256)[:, None] - torch.arange(256)
    near = (distance >= 0) & ((distance < 8) | (torch.arange(256) < 4))
    assert gates[near].all() and not gates[distance < 0].any()
    drawn = gates.masked_fill(near, 0).unfold(0, 16, 16).unfold(1, 16, 16).amax((2, 3))
    assert (drawn.sum(1) <= 2 + 1).all()  # keys of the own block, of the window before it
    other = attncomp.compile("bigbird(w=8, g=4, random=2, size=16, seed=1)").mask(256)[0, 0]
    assert not torch.equal(gates, other)


def test_draws_are_even() -> None:
    """Each block of keys is drawn about equally often."""
    gates = attncomp.compile("random_blocks(count=8, size=1)").mask(256)[0, 0]
    count = gates.sum(0)
    assert 256 * 8 * 0.95 < count.sum() <= 256 * 8
    assert ((count - 8).square().mean() < 16) and count.max() < 30


def test_shapes() -> None:
    """The names and shapes that the docs give."""
    mask = {"block_mask": "[B or 1, H dividing Hq, Nk / 64, Nk / 64]"}
    assert attncomp.compile("block_sparse").shapes == mask
    scores = {"block_scores": "[B or 1, H dividing Hq, Nk / 512, Nk / 512]"}
    assert attncomp.compile("moba").shapes == scores
    assert attncomp.compile("moba").integer_tensors == ()


@pytest.mark.parametrize(
    ("call", "keys", "time"),
    [
        (
            "bigbird",
            "at most 192 + 128 + 192 = 512 a query, in one softmax",
            "O(N), forward and backward",
        ),
        (
            "nsa_selection",
            "at most 1024 a query, in one softmax",
            "O(N), forward and backward; the table of (N / 64)^2 blocks is read once a call",
        ),
        (
            "moba",
            "at most 1536 + 512 = 2048 a query, in one softmax",
            "O(N), forward and backward; the table of (N / 512)^2 blocks is read once a call",
        ),
        (
            "block_sparse",
            "those of the listed blocks",
            "O(pairs of the listed blocks), forward and backward; "
            "the table of (N / 64)^2 blocks is read once a call",
        ),
    ],
)
def test_cost(call: str, keys: str, time: str) -> None:
    lines = attncomp.compile(call).explain().splitlines()
    assert f"keys         {keys}" in lines
    assert f"time         {time}" in lines
