"""benchmarks/ as its programs import it, at sizes of a test, with peers that a CPU can run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def small(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/attention.py for four heads; dense peers by torch's own operators, in eager mode.

    FlexAttention has no backward on a CPU: dense attention stands in, under its block mask's
    predicate.
    """
    monkeypatch.syspath_prepend(BENCHMARKS)
    attention = importlib.import_module("attention")
    matrix, peers = importlib.import_module("matrix"), importlib.import_module("peers")
    monkeypatch.setattr(matrix, "HEADS", 4)
    monkeypatch.setitem(matrix.KV_HEADS, "mha", 4)
    monkeypatch.setitem(matrix.KV_HEADS, "gqa", 2)
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(peers, "flex_attention", masked_attention)
    backends = SimpleNamespace(CUDNN_ATTENTION=SDPBackend.MATH, FLASH_ATTENTION=SDPBackend.MATH)
    monkeypatch.setattr(peers, "SDPBackend", backends)
    return attention


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any, enable_gqa: bool
) -> Tensor:
    """FlexAttention's call, dense."""
    places = (torch.arange(size) for size in (*q.shape[:2], q.shape[2], k.shape[2]))
    b, h, query, key = torch.meshgrid(*places, indexing="ij")
    mask = block_mask.mask_mod(b, h, query, key)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=enable_gqa)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window_size: tuple[int, int] = (-1, -1)
) -> Tensor:
    """flash_attn_func's call, dense: q, k, v, out [B, N, H, D]; window_size counts keys before."""
    assert causal and all(tensor.is_contiguous() for tensor in (q, k, v))
    distance = torch.arange(q.shape[1])[:, None] - torch.arange(k.shape[1])
    inside = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=inside, enable_gqa=True)
    return out.transpose(1, 2)


def native_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    g_cmp: Tensor | None = None,
    g_slc: Tensor | None = None,
    block_indices: Tensor | None = None,
    block_counts: int = 16,
    block_size: int = 64,
) -> Tensor:
    """parallel_nsa's call, dense; compression is left out."""
    n = q.shape[1]
    if block_indices is None:
        assert g_cmp is not None and g_cmp.shape == q.shape[:3]
        return flash_attention(q, k, v, causal=True)
    assert block_indices.shape == (q.shape[0], n, k.shape[2], block_counts)
    blocks = torch.arange(n) // block_size
    chosen = (block_indices[..., None, :] == blocks[:, None]).any(-1)  # [B, N, Hk, N]
    mask = chosen.transpose(1, 2) & (torch.arange(n)[:, None] >= torch.arange(n))
    mask = mask.repeat_interleave(q.shape[2] // k.shape[2], 1)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True).transpose(1, 2)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for flash-attn, FlashAttention-4 and fla."""

    def with_lse(*args: Any, **options: Any) -> tuple[Tensor, None]:
        return flash_attention(*args, **options), None

    functions: dict[str, dict[str, Callable[..., Any]]] = {
        "flash_attn": {"flash_attn_func": flash_attention},
        "flash_attn.cute": {"flash_attn_func": with_lse},
        "fla": {},
        "fla.ops": {},
        "fla.ops.nsa": {"parallel_nsa": native_sparse_attention},
    }
    for name, members in functions.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
