"""What attention is computed: patterns, the tensors they read, and what they mean by definition.

A workload's mask and selection are written from the definitions, without attncomp's compiler, so
that results can be checked against them; FlexAttention gets the same masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from matrix import Setting
from structural import MASK_MODS, MaskMod
from torch import Tensor

from attncomp.ir.oracle import projection

Tensors = Mapping[str, Tensor]
_BLOCK = 64  # positions
_CHOSEN = 16  # blocks


@dataclass(frozen=True)
class Inputs:
    """Random bf16 q, k, v and dout of a setting, and the tensors that a workload reads."""

    setting: Setting
    q: Tensor  # [B, Hq, N, D]
    k: Tensor  # [B, Hk, N, D]
    v: Tensor  # [B, Hk, N, D]
    dout: Tensor  # [B, Hq, N, D]
    tensors: Tensors = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """SparseK of `scores` (arXiv 2406.16747): the k best keys of the prefix q - k >= lag."""

    k: int
    lag: int

    def gate(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Gates [R, N] float64 of queries at positions rows [R], of scores [N]; differentiable."""
        prefix = torch.arange(len(scores), device=scores.device) <= rows[:, None] - self.lag
        gates = projection(scores[None], prefix, self.k)
        ranked = scores.detach().expand_as(prefix).masked_fill(~prefix, -torch.inf)
        best = ranked.sort(dim=-1, descending=True, stable=True).indices[:, : self.k]
        chosen = torch.zeros_like(prefix).scatter_(-1, best, True) & prefix
        return torch.where(chosen, gates, 0.0)


@dataclass(frozen=True)
class Workload:
    """A pattern: its text, its tensors, and its pairs.

    mask gives the predicate of pairs whose gate is 1; selection those that have a gate besides.
    draw gives what the pattern reads, derive what the predicate reads in its place.
    by_head: whether the predicate differs between rows of the batch and heads.
    """

    pattern: str
    mask: Callable[[Inputs], MaskMod]
    selection: Selection | None = None
    draw: Callable[[Setting, torch.Generator], dict[str, Tensor]] | None = None
    derive: Callable[[Tensors], dict[str, Tensor]] | None = None
    by_head: bool = False
    quadratic: bool = False

    def inputs(self, given: Inputs, seed: int) -> Inputs:
        """The given inputs with the tensors that the pattern reads, the same for all who do."""
        if self.draw is None:
            return given
        generator = torch.Generator(given.q.device).manual_seed(seed)
        drawn = self.draw(given.setting, generator)
        derived = {} if self.derive is None else self.derive(drawn)
        return replace(given, tensors=drawn | derived)

    def gates(self, given: Inputs, rows: Tensor, batch: int, head: int) -> Tensor:
        """Gates [R, N] of a KV head's queries at positions rows [R]: bool, or float64 in [0, 1].

        head counts KV heads. With a selection they are differentiable in the scores.
        """
        shared = given.q.shape[1] // given.k.shape[1]
        key = torch.arange(given.k.shape[2], device=rows.device)
        places = (torch.full((1, 1), n, device=rows.device) for n in (batch, head * shared))
        crisp = self.mask(given)(*places, rows[:, None], key)
        if self.selection is None:
            return crisp
        soft = self.selection.gate(given.tensors["scores"][batch, head], rows)
        return torch.where(crisp, 1.0, soft)


def make_inputs(setting: Setting, seed: int, device: str) -> Inputs:
    """Fresh inputs on the device; never zeros, which run faster than real data."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = setting.shape

    def draw(heads: int) -> Tensor:
        size = (shape.batch, heads, setting.length, shape.head_dim)
        return torch.randn(size, device=device, dtype=torch.bfloat16, generator=generator)

    heads = (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
    return Inputs(setting, *map(draw, heads))


def _scores(setting: Setting, generator: torch.Generator) -> dict[str, Tensor]:
    size = (setting.batch, setting.shape.groups, setting.length)
    return {"scores": torch.randn(size, device=generator.device, generator=generator)}


def _documents(setting: Setting, generator: torch.Generator) -> dict[str, Tensor]:
    """Documents of 1,024 positions in the mean, the same for all rows of the batch."""
    n = setting.length
    ids = torch.randint(0, -(-n // 1024), (1, n), device=generator.device, generator=generator)
    return {"documents": ids.sort(1).values.int()}


def _block_scores(setting: Setting, generator: torch.Generator) -> dict[str, Tensor]:
    n_blocks = -(-setting.length // _BLOCK)
    size = (setting.batch, setting.shape.groups, n_blocks, n_blocks)
    return {"block_scores": torch.randn(size, device=generator.device, generator=generator)}


def _causal(given: Inputs) -> MaskMod:
    return lambda b, h, q, k: q >= k


def _window(size: int) -> Callable[[Inputs], MaskMod]:
    return lambda given: lambda b, h, q, k: (q >= k) & (q - k < size)


def _shipped(name: str) -> Callable[[Inputs], MaskMod]:
    """The predicate of a shipped definition, with its defaults."""

    def mask(given: Inputs) -> MaskMod:
        return MASK_MODS[name](given.setting.length, given.tensors, str(given.q.device))

    return mask


def chosen_blocks(scores: Tensor) -> Tensor:
    """The best blocks [B, G, T, at most 16] of scores [B, G, T, T], up to each block's own.

    Where there are fewer, later blocks stand in the places that are left.
    """
    block = torch.arange(scores.shape[-1], device=scores.device)
    past = scores.masked_fill(block > block[:, None], -torch.inf)
    return past.topk(min(_CHOSEN, len(block)), dim=-1).indices


def _chosen_table(tensors: Tensors) -> dict[str, Tensor]:
    scores = tensors["block_scores"]
    table = torch.zeros_like(scores, dtype=torch.bool)
    return {"chosen": table.scatter_(-1, chosen_blocks(scores), True)}


def _chosen(given: Inputs) -> MaskMod:
    table = given.tensors["chosen"]
    shared = given.q.shape[1] // table.shape[1]
    return lambda b, h, q, k: (q >= k) & table[b, h // shared, q // _BLOCK, k // _BLOCK]


CAUSAL = Workload("causal", _causal, quadratic=True)
TOP_BLOCKS = Workload(
    f"topk_blocks({_CHOSEN}, {_BLOCK}) & causal",
    _chosen,
    draw=_block_scores,
    derive=_chosen_table,
    by_head=True,
)
WINDOWS = {size: Workload(f"window({size})", _window(size)) for size in (256, 1024)}


def all_workloads() -> list[Workload]:
    """The reference pattern with and without lag, then structural ones."""
    return [
        Workload(f"{selection} | window(256)", _window(256), Selection(512, lag=lag), draw=_scores)
        for selection, lag in (("sparsek(k=512, lag=256)", 256), ("sparsek(k=512)", 0))
    ] + [
        *WINDOWS.values(),
        CAUSAL,
        Workload("longformer", _shipped("longformer")),
        Workload("bigbird", _shipped("bigbird")),
        Workload("documents & causal", _shipped("documents_causal"), draw=_documents),
        TOP_BLOCKS,
    ]
