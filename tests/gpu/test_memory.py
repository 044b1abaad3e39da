"""Memory and time at 131072 positions on a GPU: both grow with the length alone."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

import attncomp

pytestmark = pytest.mark.gpu

PATTERN = "sparsek(k=512, lag=256) | window(256)"
LENGTH = 131072
GIB = 2**30


def make_inputs(length: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """q, k, v; scores of 8 groups; the gradient of out. 32 over 8 heads of 128 in bfloat16."""

    def normal(heads: int) -> Tensor:
        return torch.randn(1, heads, length, 128, dtype=torch.bfloat16, device="cuda")

    leaves = [normal(heads).requires_grad_() for heads in (32, 8, 8)]
    scores = torch.randn(1, 8, length, device="cuda").requires_grad_()
    return leaves, scores, normal(32)


def step(leaves: list[Tensor], scores: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
    """out and the gradients of all inputs."""
    out = attncomp.compile(PATTERN)(*leaves, scores=scores)
    return out.detach(), *torch.autograd.grad(out, (*leaves, scores), dout)


def size_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_peak_memory() -> None:
    """At most 2 GiB beyond inputs, outputs and gradients."""
    inputs = make_inputs(LENGTH)
    step(*inputs)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    results = step(*inputs)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - held - size_of(*results)
    assert extra <= 2 * GIB, f"{extra / GIB:.2f} GiB"


def test_memory_of_the_forward_is_linear() -> None:
    """Twice the keys take at most 2.2 times as much beyond inputs and outputs."""
    peaks = []
    for length in (LENGTH // 2, LENGTH):
        leaves, scores, _ = make_inputs(length)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        with torch.no_grad():
            out = attncomp.compile(PATTERN)(*leaves, scores=scores)
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() - held - size_of(out))
        del leaves, scores, out
    assert peaks[1] <= 2.2 * peaks[0], peaks


def milliseconds(length: int) -> float:
    """The median time of a forward and backward pass."""
    inputs = make_inputs(length)
    for _ in range(2):
        step(*inputs)
    times = []
    for _ in range(7):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step(*inputs)
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def test_time_is_linear() -> None:
    half, whole = milliseconds(LENGTH // 2), milliseconds(LENGTH)
    assert whole <= 2.3 * half, f"{half:.2f} ms, then {whole:.2f} ms"
