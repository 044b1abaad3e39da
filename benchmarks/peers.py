"""What is timed: attncomp's patterns and its peers, all with one interface.

A case is prepared once for a length and gives closures for selection, forward and backward; a case
that cannot run raises, and the benchmark records the reason as its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attncomp
from attncomp.runtime.program import problem_text, program


@dataclass(frozen=True)
class Shape:
    """Batch, query heads, KV heads, score groups, head dim."""

    batch: int = 1
    heads: int = 32
    kv_heads: int = 8
    groups: int = 8
    head_dim: int = 128


@dataclass(frozen=True)
class Inputs:
    """Random bf16 q, k, v, dout and fp32 scores of one length."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Steps:
    """Closures to time. select is None where nothing is selected and no mask is built."""

    select: Callable[[], object] | None
    forward: Callable[[], Tensor]
    backward: Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row of the benchmark. keys: attended keys a query, at most; None for causal (N / 2)."""

    name: str
    keys: int | None
    prepare: Callable[[Inputs], Steps]


def make_inputs(length: int, shape: Shape, seed: int) -> Inputs:
    """Fresh inputs on the GPU; never zeros, which run faster than real data."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def draw(heads: int) -> Tensor:
        size = (shape.batch, heads, length, shape.head_dim)
        return torch.randn(size, device="cuda", generator=generator).bfloat16()

    scores = torch.randn((shape.batch, shape.groups, length), device="cuda", generator=generator)
    return Inputs(
        q=draw(shape.heads),
        k=draw(shape.kv_heads),
        v=draw(shape.kv_heads),
        dout=draw(shape.heads),
        scores=scores,
    )


def pattern_case(pattern: str, keys: int | None) -> Case:
    """A compiled pattern, its kernels called as `attncomp.compile(pattern)` calls them."""

    def prepare(given: Inputs) -> Steps:
        q, k, v, dout = given.q, given.k, given.v, given.dout
        attention = attncomp.compile(pattern)
        scores = (given.scores,) if attention.tensors else ()
        problem = problem_text("triton", q, k, v, scores)
        kernels = program(str(attention), problem, q.device)
        scale = q.shape[-1] ** -0.5
        state = kernels.select(scores, q.shape[2])
        out, lse = kernels.forward(q, k, v, state, scale)
        return Steps(
            select=(lambda: kernels.select(scores, q.shape[2])) if scores else None,
            forward=lambda: kernels.forward(q, k, v, state, scale)[0],
            backward=lambda: kernels.backward(dout, None, q, k, v, out, lse, state, scale),
        )

    return Case(f"attncomp {pattern}", keys, prepare)


def _autograd_steps(
    given: Inputs,
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    select: Callable[[], object] | None = None,
) -> Steps:
    q, k, v = (tensor.detach().requires_grad_() for tensor in (given.q, given.k, given.v))
    out = attend(q, k, v)

    def forward() -> Tensor:
        with torch.no_grad():
            return attend(q, k, v)

    return Steps(
        select=select,
        forward=forward,
        backward=lambda: torch.autograd.grad(out, (q, k, v), given.dout, retain_graph=True),
    )


def cudnn_causal() -> Case:
    """Dense causal attention by cuDNN, through scaled_dot_product_attention."""

    def prepare(given: Inputs) -> Steps:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        return _autograd_steps(given, attend)

    return Case("cuDNN SDPA causal", None, prepare)


def flex_window(size: int) -> Case:
    """FlexAttention with a sliding window, attention and block mask both compiled."""

    def inside(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < size)

    def prepare(given: Inputs) -> Steps:
        length = given.q.shape[2]
        build = torch.compile(create_block_mask)
        mask = build(inside, None, None, length, length, device="cuda")
        compiled = torch.compile(flex_attention)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return compiled(q, k, v, block_mask=mask, enable_gqa=True)

        return _autograd_steps(
            given, attend, lambda: build(inside, None, None, length, length, device="cuda")
        )

    return Case(f"FlexAttention window({size})", size, prepare)


def all_cases() -> list[Case]:
    """The reference pattern with and without lag, plain patterns, and the peers beside them."""
    return [
        pattern_case("sparsek(k=512, lag=256) | window(256)", 768),
        pattern_case("sparsek(k=512) | window(256)", 768),
        pattern_case("window(256)", 256),
        pattern_case("window(1024)", 1024),
        pattern_case("causal", None),
        cudnn_causal(),
        flex_window(256),
        flex_window(1024),
    ]
