"""Groups of heads on a GPU: what their members give on the same heads, and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attncomp

pytestmark = pytest.mark.gpu

WINDOW, SELECTION = "window(64)", "sparsek(k=24, lag=8) | window(8)"
HEADS, KV_HEADS, GROUPS, HEAD_DIM = 16, 4, 4, 64


def normal(*size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*size, dtype=dtype, device="cuda")


@pytest.mark.parametrize("length", [63, 1000, 4096])
@pytest.mark.parametrize("border", [8, 6])
def test_groups_are_their_members(length: int, border: int) -> None:
    """Border 6 cuts a KV head and a score group of four query heads each."""
    inputs: dict[str, Any] = {
        "q": normal(1, HEADS, length, HEAD_DIM),
        "k": normal(1, KV_HEADS, length, HEAD_DIM),
        "v": normal(1, KV_HEADS, length, HEAD_DIM),
        "scores": normal(1, GROUPS, length, dtype=torch.float32),
    }
    dout = normal(1, HEADS, length, HEAD_DIM)
    text = f"heads{{0:{border} -> {WINDOW}, {border}: -> {SELECTION}}}"

    def run(*parts: tuple[str, slice]) -> dict[str, Tensor]:
        """out of each pattern on all heads, cut to its own, and the gradients of all of them."""
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
        outs = []
        for spec, heads in parts:
            pattern = attncomp.compile(spec, backend="triton")
            given = {n: t for n, t in leaves.items() if n != "scores" or pattern.tensors}
            outs.append(pattern(**given)[:, heads])
        out = torch.cat(outs, 1)
        out.backward(dout)
        return {"out": out.detach()} | {n: t.grad for n, t in leaves.items() if t.grad is not None}

    found = run((text, slice(None)))
    wanted = run((WINDOW, slice(0, border)), (SELECTION, slice(border, None)))
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        expected = wanted[name].float()
        # Sums over a KV head's query heads are rounded to bfloat16 at other places.
        error = (tensor.float() - expected).abs().max() / expected.abs().max()
        assert error < 0.02, name
