"""Nothing in a call on a GPU waits for the device, or copies from the host: CUDA graphs need that.

Tensors are meta ones, which have no contents: whatever asks for some fails.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attncomp
from attncomp.codegen.lower import lower
from attncomp.ir.schedule import Problem
from attncomp.runtime import ahead_of_time

PROBLEM = Problem(
    backend="triton", target="sm_90", dtype="bfloat16", head_dim=64, value_dim=64, unit_heads=2
)
BATCH, HEADS, KV_HEADS, N = 2, 4, 2, 64
TENSORS: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    "scores": ((BATCH, 2, N), torch.float32),
    "documents": ((BATCH, N), torch.int64),
    "cu_seqlens": ((5,), torch.int32),
    "prefix_lengths": ((BATCH,), torch.int32),
    "evict": ((BATCH, HEADS, N), torch.int32),
    "block_mask": ((1, 1, 4, 4), torch.bool),
    "block_scores": ((BATCH, 1, 4, 4), torch.float32),
    "theta": ((HEADS,), torch.float32),
    "sink": ((HEADS,), torch.float32),
    "bias": ((HEADS, 15), torch.float32),
}
PATTERNS = {
    "window(5)": (),
    "sparsek(k=4) | window(4)": ("scores",),
    'sparsek(k=4, gate="hard") - window(4)': ("scores",),
    "documents & causal": ("documents",),
    "documents | window(3)": ("cu_seqlens",),
    "prefix_lm": ("prefix_lengths",),
    "lifetime | window(4)": ("evict",),
    "blocks(16) | window(4)": ("block_mask",),
    "topk_blocks(2, 16)": ("block_scores",),
    "random_blocks(2, 16) & causal": (),
    "dilated(4, 2) | window(4)": (),
    "causal & threshold": ("theta",),
    "window(64) with softcap(30), alibi, sink, bias(8)": ("sink", "bias"),
}


class NoWaiting(TorchDispatchMode):
    """Fails at a copy between host and device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = [t for t in (*args, result) if isinstance(t, Tensor) and not t.is_meta]
        assert not moved, f"{func} copies"
        return result


@pytest.fixture(autouse=True)
def no_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what makes tensors of numbers on the host, whose copy no mode sees."""
    for name in ("tensor", "as_tensor", "asarray", "from_numpy"):
        monkeypatch.delattr(torch, name)


def test_the_mode_sees_copies_and_questions() -> None:
    x = torch.zeros(3, device="meta")
    with NoWaiting():
        with pytest.raises(AssertionError, match="copies"):
            torch.ones(3).to("meta")
        with pytest.raises(RuntimeError, match="meta"):
            bool((x > 0).any())
        with pytest.raises(RuntimeError, match="meta"):
            x.nonzero()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_host_functions_of_kernels_never_wait(pattern: str) -> None:
    plan = lower(pattern, PROBLEM)
    with NoWaiting():
        launches = [ahead_of_time._record(module, "sm_90") for module in plan.modules]
    assert all(launches)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_stands_before_kernels_never_waits(pattern: str) -> None:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", requires_grad=True)

    q, k, v = (empty(BATCH, heads, N, 16) for heads in (HEADS, KV_HEADS, KV_HEADS))
    given = {}
    for name in PATTERNS[pattern]:
        shape, dtype = TENSORS[name]
        given[name] = torch.empty(shape, dtype=dtype, device="meta")
    with NoWaiting():
        out = attncomp.compile(pattern)(q, k, v, **given)
        torch.autograd.grad(out, (q, k, v), torch.empty_like(out))
