"""A ready self-attention module over a compiled pattern."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from attncomp.api import CompiledPattern, Library
from attncomp.api import compile as compile_pattern
from attncomp.frontend.ast import Expr
from attncomp.frontend.parser import parse
from attncomp.ir.build import build_all_heads
from attncomp.ir.oracle import tensor_entries, tensor_names
from attncomp.nn.learned import learned_parameters
from attncomp.nn.rotary import rotate
from attncomp.nn.scores import ScoreNetwork


class PatternAttention(nn.Module):
    """Self-attention x [B, N, dim] -> [B, N, dim] under a pattern.

    heads query heads of head_dim (dim / heads unless given) share kv_heads KV heads (GQA; heads
    unless given). The first rotary_dim dimensions of queries and keys carry rotary positions
    (head_dim unless given, 0 for none). A pattern that selects by one tensor of scores gets it from
    score_network, called with x, by default a linear `ScoreNetwork` for score_groups groups
    (kv_heads unless given); other patterns have no score network. The tensors of its modifiers are
    parameters, `modifiers`, which start as the paper's slopes, biases of 0 and sinks of 0. All
    others (documents, masks of blocks, ...) are arguments of the call. pattern, library and
    backend as in `attncomp.compile`.

    Raises ValueError for sizes that do not divide each other, a score network that the pattern
    does not use and a pattern that selects by several scores, and PatternError for a bad pattern.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        pattern: str | Expr,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        rotary_dim: int | None = None,
        score_groups: int | None = None,
        score_network: ScoreNetwork | None = None,
        library: Library | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        head_dim = _share("dim", dim, "heads", heads) if head_dim is None else head_dim
        _share("heads", heads, "kv_heads", kv_heads)
        self.rotary_dim = head_dim if rotary_dim is None else rotary_dim
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= head_dim:
            raise ValueError(
                f"rotary_dim: expected an even number from 0 to {head_dim}, found {self.rotary_dim}"
            )
        self.dim, self.heads, self.kv_heads, self.head_dim = dim, heads, kv_heads, head_dim
        self.attention: CompiledPattern = compile_pattern(pattern, library=library, backend=backend)
        expr = parse(str(self.attention))  # the canonical text is the whole pattern
        self._ranked = _ranked(expr)
        self.query = nn.Linear(dim, heads * head_dim, bias=False)
        self.key = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.value = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim, bias=False)
        self.score_network = self._score_network(dim, score_groups, score_network)
        self.modifiers = learned_parameters(expr, heads)

    def _score_network(
        self, dim: int, groups: int | None, given: ScoreNetwork | None
    ) -> ScoreNetwork | None:
        if len(self._ranked) > 1:
            raise ValueError(
                f"pattern: expected one tensor of scores at most, found "
                f"{', '.join(self._ranked)} in '{self.attention}'"
            )
        if not self.selects:
            if groups is not None or given is not None:
                raise ValueError(
                    f"score_groups, score_network: expected none for '{self.attention}', "
                    "which selects nothing by scores"
                )
            return None
        if given is None:
            given = ScoreNetwork(dim, self.kv_heads if groups is None else groups)
        elif groups not in (None, given.groups):
            raise ValueError(
                f"score_groups: expected {given.groups}, as score_network has, found {groups}"
            )
        _share("heads", self.heads, "score groups", given.groups)
        return given

    @property
    def selects(self) -> bool:
        """Whether the pattern selects by scores."""
        return bool(self._ranked)

    def forward(self, x: Tensor, **tensors: Tensor) -> Tensor:
        """x [B, N, dim] -> [B, N, dim]; ValueError for another shape.

        tensors: those of the pattern that are neither scores nor learned; CallError as the pattern.
        """
        query, key, value, scores = self._inputs(x)
        given: dict[str, Any] = {**scores, **self.modifiers, **tensors}
        attended = self.attention(query, key, value, **given)  # [B, H, N, D]
        return self.out(attended.transpose(1, 2).flatten(2))

    def mask(self, x: Tensor, **tensors: Tensor) -> Tensor:
        """The gate of every pair, [B or 1, heads or 1, N, N]; for small N.

        x and tensors as in `forward`.
        """
        given: dict[str, Any] = {**self._inputs(x)[3], **tensors}
        batch, length = x.shape[:2]
        return self.attention.mask(length, heads=self.heads, batch=batch, **given)

    def _inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Query [B, H, N, D], key and value [B, Hk, N, D], scores [B, G, N] by their name."""
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise ValueError(f"x: expected [B, N, {self.dim}], found {list(x.shape)}")
        split = (-1, self.head_dim)
        query, key, value = (
            projection(x).unflatten(2, split).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        network = self.score_network
        scores = {}
        if network is not None:
            (name,) = self._ranked
            scores[name] = network(x, key) if network.key_norm else network(x)
        return rotate(query, self.rotary_dim), rotate(key, self.rotary_dim), value, scores


def _ranked(expr: Expr) -> tuple[str, ...]:
    """The tensors of scores that rank keys, whichever heads read them."""
    graph = build_all_heads(expr)
    entries = tensor_entries(graph)
    return tuple(name for name in tensor_names(graph) if name not in entries)


def _share(whole_name: str, whole: int, part_name: str, parts: int) -> int:
    """whole / parts, or ValueError if that is no positive integer."""
    if parts < 1 or whole < 1 or whole % parts:
        raise ValueError(
            f"expected {part_name} that divide {whole_name}={whole}, found {part_name}={parts}"
        )
    return whole // parts
