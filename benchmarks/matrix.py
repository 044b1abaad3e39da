"""What is measured at: lengths, head dims, layouts of heads and batch sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

HEADS: Final = 32
KV_HEADS: Final = {"mha": HEADS, "gqa": HEADS // 4, "mqa": 1}


@dataclass(frozen=True)
class Shape:
    """Batch, query heads, KV heads, score groups, head dim."""

    batch: int = 1
    heads: int = HEADS
    kv_heads: int = KV_HEADS["gqa"]
    groups: int = KV_HEADS["gqa"]
    head_dim: int = 128


@dataclass(frozen=True)
class Setting:
    """A length at a head dim, a layout of heads (a key of KV_HEADS) and a batch size."""

    length: int
    head_dim: int = 128
    layout: str = "gqa"
    batch: int = 1

    @property
    def shape(self) -> Shape:
        """Its sizes but the length; each KV head has scores of its own."""
        kv_heads = KV_HEADS[self.layout]
        return Shape(self.batch, HEADS, kv_heads, kv_heads, self.head_dim)

    @property
    def kind(self) -> tuple[int, str, int]:
        """All but the length: what rows share that are compared across lengths."""
        return self.head_dim, self.layout, self.batch


@dataclass(frozen=True)
class Axes:
    """The product of these values."""

    lengths: tuple[int, ...]
    head_dims: tuple[int, ...] = (128,)
    layouts: tuple[str, ...] = ("gqa",)
    batches: tuple[int, ...] = (1,)

    def settings(self) -> Iterator[Setting]:
        """All settings; those of one kind follow each other, by rising length."""
        kinds = itertools.product(self.head_dims, self.layouts, self.batches)
        for kind in kinds:
            for length in sorted(self.lengths):
                yield Setting(length, *kind)


_LENGTHS: Final = tuple(1024 << power for power in range(11))  # 1k to 1M
MATRICES: Final[dict[str, tuple[Axes, ...]]] = {
    # Minutes on an H200, most of them for what FlexAttention compiles.
    "quick": (Axes((4096, 32768, 131072)),),
    # Every value of every axis, the others at their usual one.
    "axes": (
        Axes(_LENGTHS),
        Axes((32768,), head_dims=(64,)),
        Axes((32768,), layouts=("mha", "mqa")),
        Axes((32768,), batches=(8,)),
    ),
    # Hours.
    "full": (Axes(_LENGTHS, (64, 128), tuple(KV_HEADS), (1, 8)),),
}


def distinct(matrix: Iterable[Axes]) -> Iterator[list[Setting]]:
    """The settings of each of several axes that none before has."""
    seen: set[Setting] = set()
    for axes in matrix:
        settings = [setting for setting in axes.settings() if setting not in seen]
        seen.update(settings)
        yield settings
