"""Shipped patterns without scores: tensors for a call of each, and FlexAttention's predicates."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import attncomp
from attncomp.codegen.plan import KernelPlan
from attncomp.frontend.library import shipped
from attncomp.ir.affine import Drawn
from attncomp.runtime.tables import draws

Tensors = Mapping[str, Tensor]
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(b, h, q, k) -> whether the pair is attended."""


def structural_specs() -> list[str]:
    """The shipped definitions that rank nothing by scores, neither keys nor blocks of keys."""
    names = []
    for name in shipped():
        attend = attncomp.compile(name)
        if attend.tensors == attend.integer_tensors:
            names.append(name)
    return names


def random_tensors(
    plan: KernelPlan, length: int, device: str, generator: torch.Generator
) -> dict[str, Tensor]:
    """Fresh tensors of the shapes that a plan reads, one row of the batch and one head each."""
    return {name: _DRAWN[name](plan, length, device, generator) for name in plan.inputs}


def _documents(plan: KernelPlan, n: int, device: str, generator: torch.Generator) -> Tensor:
    """Documents of 1,024 positions in the mean, one after the other."""
    ids = torch.randint(0, -(-n // 1024), (1, n), device=device, generator=generator)
    return ids.sort(1).values.int()


def _evict(plan: KernelPlan, n: int, device: str, generator: torch.Generator) -> Tensor:
    """When each key goes, up to 8,192 positions behind it."""
    stay = torch.randint(0, 8192, (1, 1, n), device=device, generator=generator)
    return (torch.arange(n, device=device) + stay).int()


def _passed(plan: KernelPlan, n: int, device: str, generator: torch.Generator) -> Tensor:
    """One key in eight is passed on."""
    return torch.rand((1, 1, n), device=device, generator=generator) < 1 / 8


def _prefix_lengths(plan: KernelPlan, n: int, device: str, generator: torch.Generator) -> Tensor:
    return torch.randint(0, n, (1,), device=device, generator=generator).int()


def _block_mask(plan: KernelPlan, n: int, device: str, generator: torch.Generator) -> Tensor:
    """Sixteen blocks of keys in the mean for each block of queries."""
    n_blocks = -(-n // plan.walks[0].size)
    size = (1, 1, n_blocks, n_blocks)
    return torch.rand(size, device=device, generator=generator) < 16 / n_blocks


def _ancestors(plan: KernelPlan, n: int, device: str, generator: torch.Generator) -> Tensor:
    """Each of 64 drafted tokens sees about half of those before it."""
    return (torch.rand((1, 64, 64), device=device, generator=generator) < 0.5).tril()


_DRAWN: dict[str, Callable[[KernelPlan, int, str, torch.Generator], Tensor]] = {
    "documents": _documents,
    "evict": _evict,
    "passed": _passed,
    "prefix_lengths": _prefix_lengths,
    "committed": _prefix_lengths,
    "block_mask": _block_mask,
    "ancestors": _ancestors,
}


def _sliding_window(n: int, given: Tensors, device: str) -> MaskMod:
    return lambda b, h, q, k: (q >= k) & (q - k < 1024)


def _longformer(n: int, given: Tensors, device: str) -> MaskMod:
    return lambda b, h, q, k: (q >= k) & ((q - k < 512) | (k < 64))


def _strided(n: int, given: Tensors, device: str) -> MaskMod:
    return lambda b, h, q, k: (q >= k) & ((q - k < 128) | ((q - k) % 128 == 0))


def _bigbird(n: int, given: Tensors, device: str) -> MaskMod:
    """The window, the global keys, and the same blocks as attncomp draws."""
    drawn = draws(Drawn(count=3, size=64, seed=0), -(-n // 64), torch.device(device))
    first, second, third = drawn.T.contiguous()

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        block, other = q // 64, k // 64
        listed = (first[block] == other) | (second[block] == other) | (third[block] == other)
        return (q >= k) & ((q - k < 192) | (k < 128) | listed)

    return mask


def _block_sparse(n: int, given: Tensors, device: str) -> MaskMod:
    mask = given["block_mask"]
    return lambda b, h, q, k: (q >= k) & mask[0, 0, q // 64, k // 64]


def _documents_causal(n: int, given: Tensors, device: str) -> MaskMod:
    documents = given["documents"]
    return lambda b, h, q, k: (q >= k) & (documents[0, q] == documents[0, k])


def _prefix_language_model(n: int, given: Tensors, device: str) -> MaskMod:
    lengths = given["prefix_lengths"]
    return lambda b, h, q, k: (q >= k) | (k < lengths[0])


# By the shipped definition that means the same with its defaults.
MASK_MODS: dict[str, Callable[[int, Tensors, str], MaskMod]] = {
    "sliding_window": _sliding_window,
    "longformer": _longformer,
    "sparse_transformer_strided": _strided,
    "bigbird": _bigbird,
    "block_sparse": _block_sparse,
    "documents_causal": _documents_causal,
    "prefix_language_model": _prefix_language_model,
}
