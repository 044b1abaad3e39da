"""Patterns without groups of heads: one plan serves all heads of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from attncomp.ir.modifiers import Learned, Modifiers
from attncomp.runtime import autograd
from attncomp.runtime.extents import Call
from attncomp.runtime.inputs import modifier_state
from attncomp.runtime.program import problem_text
from attncomp.runtime.tables import BlockParts, block_state, list_heads


class Whole(NamedTuple):
    """What a pattern's one plan reads of a call.

    scores: names of score tensors in the plan's order. learned: the tensors of its modifiers.
    """

    scores: tuple[str, ...]
    learned: tuple[Learned, ...]
    blocks: BlockParts
    modifiers: Modifiers

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Mapping[str, Tensor],
        scale: float,
        pattern: str,
        backend: str,
    ) -> tuple[Tensor, Tensor, str]:
        """out [B, Hq, Nq, Dv] and lse [B, Hq, Nq] of checked inputs, and the problem.

        scale is that of a pattern without one of its own.
        """
        used = [tensors[name] for name in self.scores]
        state = block_state(self.blocks, Call.of(q, k, tensors))
        state += modifier_state([name for name, _ in self.modifiers.tensors], tensors, q)
        learned = [tensors[name] for name, _ in self.learned]
        problem = problem_text(backend, q, k, v, used, list_heads(self.blocks, tensors))
        factor = self.modifiers.scale_or(scale)
        out, lse = autograd.attention(q, k, v, used, learned, state, factor, pattern, problem)
        return out, lse, problem
