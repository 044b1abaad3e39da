"""A small decoder-only language model whose attention is a compiled pattern."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attncomp.nn import PatternAttention


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """Vocabulary, width, blocks, query heads and KV heads of a model."""

    vocabulary: int
    dim: int
    layers: int
    heads: int
    kv_heads: int

    def reach(self, keys: int) -> int:
        """How far back a token can come from, a window of `keys` keys and a convolution a layer."""
        return self.layers * (keys - 1 + ShortConvolution.width - 1)


class ShortConvolution(nn.Module):
    """A causal convolution over the last four tokens, a filter a channel, added to its input.

    Lets a token's query, key and score know its neighbours, which a model of few layers otherwise
    spends a whole layer on.
    """

    width = 4

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(self.width, dim) * self.width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, dim] -> [B, N, dim]."""
        mixed = x + x * self.weight[0]
        for distance in range(1, self.width):
            earlier = nn.functional.pad(x, (0, 0, distance, 0))[:, : x.shape[1]]
            mixed = mixed + earlier * self.weight[distance]
        return mixed


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a norm and added to the stream."""

    def __init__(self, size: ModelSize, pattern: str) -> None:
        super().__init__()
        dim, head_dim = size.dim, size.dim // size.heads
        self.attention_norm = nn.RMSNorm(dim)
        self.mix = ShortConvolution(dim)
        # Half of each head turns with the position; the other half looks up by content alone.
        self.attention = PatternAttention(
            dim, size.heads, pattern, kv_heads=size.kv_heads, rotary_dim=head_dim // 2
        )
        self.feed_forward = nn.Sequential(
            nn.RMSNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def prepared(self, x: Tensor) -> Tensor:
        """What the attention sees of the stream."""
        return self.mix(self.attention_norm(x))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.prepared(x))
        return x + self.feed_forward(x)


def precision(device: torch.device) -> torch.autocast:
    """What models run in: bfloat16 on a GPU, float32 on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class LanguageModel(nn.Module):
    """Tokens [B, N] -> logits [B, N, vocabulary] of the next token, under one pattern."""

    def __init__(self, size: ModelSize, pattern: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocabulary, size.dim)
        nn.init.normal_(self.embedding.weight, std=size.dim**-0.5)
        self.blocks = nn.ModuleList(Block(size, pattern) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.dim)
        # One matrix reads tokens and writes them, so that copying a token is quickly learnt.
        self.head = nn.Linear(size.dim, size.vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def hidden(self, tokens: Tensor) -> Tensor:
        """The last block's stream after its norm, [B, N, dim]."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.hidden(tokens))

    @torch.no_grad()
    def gates(self, tokens: Tensor) -> list[Tensor]:
        """Each layer's gates of every pair, [B or 1, heads or 1, N, N]."""
        x, found = self.embedding(tokens), []
        with precision(tokens.device):
            for block in self.blocks:
                found.append(block.attention.mask(block.prepared(x)))
                x = block(x)
        return found
