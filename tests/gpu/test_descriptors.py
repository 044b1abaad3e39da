"""Tiles of queries by descriptors on a GPU: gradients are those of pointers, for any layout."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from triton_support import relative_error

import attncomp
from attncomp.runtime import descriptors

pytestmark = pytest.mark.gpu

BF16, FP16 = torch.bfloat16, torch.float16
LENGTH = 1012  # no multiple of a tile, and known to no other test's records of calls
LAYOUTS: dict[str, tuple[bool, Callable[[Tensor], Tensor]]] = {
    "contiguous": (True, lambda x: x),
    "heads inside rows": (True, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)),
    "padded rows": (True, lambda x: pad(x, (0, 8))[..., :-8]),
    "odd rows": (False, lambda x: pad(x, (0, 1))[..., :-1]),
}
PATTERNS = (
    "causal",
    "window(100)",
    "full",
    "sparsek(k=64, lag=32) | window(32)",
    'sparsek(k=64, gate="logit")',
    "sparsek(k=64) | sparsek(k=32, lag=100)",
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("head_dim", "dtype"), [(64, FP16), (80, BF16), (128, BF16)])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_are_those_of_pointers(
    pattern: str,
    head_dim: int,
    dtype: torch.dtype,
    layout: str,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted, lay = LAYOUTS[layout]
    compiled = attncomp.compile(pattern)

    def normal(heads: int) -> Tensor:
        drawn = torch.randn(2, heads, LENGTH, head_dim, generator=generator).to("cuda", dtype)
        return lay(drawn).detach()

    leaves = [normal(heads).requires_grad_() for heads in (8, 2, 2)]
    dout = normal(8)
    scores = torch.randn(2, 2, LENGTH, generator=generator).cuda()
    tensors = {"scores": scores.requires_grad_()} if compiled.tensors else {}
    described: list[object] = []
    for name in ("describe", "describe_rows", "describe_for_gluon"):
        note_calls(descriptors, name, described, monkeypatch)

    def gradients(fewest: int) -> tuple[Tensor, ...]:
        monkeypatch.setattr(descriptors, "FEWEST_ROWS", fewest)
        inputs = [*leaves, *tensors.values()]
        return torch.autograd.grad(compiled(*leaves, **tensors), inputs, dout)

    found = gradients(0)
    assert bool(described) == (wanted and torch.cuda.get_device_capability()[0] in (9, 10, 11))
    described.clear()
    by_pointers = gradients(1 << 60)
    assert not described
    for actual, expected in zip(found, by_pointers, strict=True):
        assert actual.isfinite().all()
        assert relative_error(actual, expected) < 2.0**-9


def note_calls(
    module: ModuleType, name: str, calls: list[object], patch: pytest.MonkeyPatch
) -> None:
    make = getattr(module, name)
    patch.setattr(module, name, lambda *a, **k: calls.append(a) or make(*a, **k))
