"""One plan for all heads of a call, or of a group of heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from attncomp.ir.modifiers import Modifiers
from attncomp.runtime import autograd
from attncomp.runtime.autotune import Sample, latest_problem, tuned_problem
from attncomp.runtime.directly import refuse_tangents, runs_directly, wants_gradients
from attncomp.runtime.extents import Call
from attncomp.runtime.inputs import modifier_state
from attncomp.runtime.program import problem_text, program
from attncomp.runtime.replay import Records
from attncomp.runtime.tables import BlockParts, block_state, list_heads


class Whole(NamedTuple):
    """What a pattern's one plan reads of a call.

    scores: names of score tensors in the plan's order. modified: names of modifiers' tensors in the
    order of the state, of which learned are the call's. scale: that of the pattern, if any.
    """

    scores: tuple[str, ...]
    blocks: BlockParts
    modified: tuple[str, ...]
    learned: tuple[str, ...]
    scale: float | None

    @staticmethod
    def of(scores: tuple[str, ...], blocks: BlockParts, modifiers: Modifiers) -> Whole:
        """What a plan with these scores and parts of the state reads, under modifiers."""
        modified, learned = (
            tuple(name for name, _ in tensors) for tensors in (modifiers.tensors, modifiers.learned)
        )
        return Whole(scores, blocks, modified, learned, modifiers.scale)

    def again(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Mapping[str, Tensor],
        records: Records,
    ) -> tuple[Tensor, Tensor] | None:
        """As `attention`, of tensors without gradients, by a record; None where it cannot be."""
        if self.modified or any(self.blocks):
            return None
        given = [q, k, v, *[tensors[name] for name in self.scores]]
        if wants_gradients(*given) or not runs_directly(*given):
            return None
        refuse_tangents(*given)
        given[3:] = [score.contiguous() for score in given[3:]]  # records know nothing of copies
        found = records.again(given, autograd.RESULTS)
        if found is None:
            return None
        out, lse = found.outputs
        return out, lse

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        tensors: Mapping[str, Tensor],
        scale: float,
        pattern: str,
        backend: str,
        problem: str | None,
        tuned: bool,  # no defaults: torch.compile cannot guard them on what it holds constant
        records: Records | None,
    ) -> tuple[Tensor, Tensor, str]:
        """out [B, Hq, Nq, Dv] and lse [B, Hq, Nq] of checked inputs, and the problem.

        scale is that of a pattern without one of its own. problem: the call's, where it is known.
        tuned: whether to search for the fastest schedule where it is not. records: of such calls.
        """
        used = [tensors[name] for name in self.scores]
        state = block_state(self.blocks, Call.of(q, k, tensors)) if any(self.blocks) else []
        if self.modified:
            state += modifier_state(self.modified, tensors, q)
        learned = [tensors[name] for name in self.learned]
        factor = scale if self.scale is None else self.scale
        if problem is None:
            problem = problem_text(backend, q, k, v, used, list_heads(self.blocks, tensors))
            if tuned and torch.compiler.is_compiling():
                problem = latest_problem(pattern, problem, str(q.device))
            elif tuned and q.shape[0]:
                sample = Sample(q, k, v, used, state, factor, wants_gradients(q, k, v, *used))
                problem = tuned_problem(pattern, problem, sample)
            if runs_directly(q, k, v, *used, *learned, *state) and q.shape[0]:
                ahead = program(pattern, problem, q.device).ahead
                if ahead is not None:
                    gradients = wants_gradients(q, k, v, *used, *learned)
                    ahead.call(q, k, v, used, state, factor, gradients=gradients)
        out, lse = autograd.attention(
            q, k, v, used, learned, state, factor, pattern, problem, records
        )
        return out, lse, problem
