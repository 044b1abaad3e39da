"""The backend reference: attention by its definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from attncomp.frontend.ast import Expr
from attncomp.frontend.heads import has_groups, spans_of_heads
from attncomp.ir.affine import Entry
from attncomp.ir.build import build
from attncomp.ir.modifiers import Modifiers, modifiers_of
from attncomp.ir.reference import reference_attention
from attncomp.runtime.tables import with_all_heads


def _modifier_runs(expr: Expr, n_heads: int) -> Sequence[tuple[int, int, Modifiers]]:
    """First and end of runs of heads with the same modifiers, and these."""
    if not has_groups(expr):
        return [(0, n_heads, modifiers_of(expr))]
    spans = [(a, b, modifiers_of(member)) for a, b, member in spans_of_heads(expr, n_heads)]
    runs = [list(run) for _, run in groupby(spans, itemgetter(2))]
    return [(run[0][0], run[-1][1], run[0][2]) for run in runs]


def dense_attention(
    expr: Expr,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: Mapping[str, Tensor],
    entries: Mapping[str, Sequence[Entry]],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """out in q's dtype and lse of a call with checked inputs, computed in float32 or float64.

    expr: the pattern for as many heads as q has. entries: what tests read of each tensor. scale is
    that of heads whose modifiers have none. Every run of heads is cut from attention in which all
    heads have its modifiers.
    """
    real = torch.float64 if q.dtype == torch.float64 else torch.float32
    tensors = with_all_heads(tensors, entries, q.shape[1])
    # In fp16 or bf16 the gates would be rounded to it.
    wide = {
        name: u.to(torch.promote_types(real, u.dtype)) if u.is_floating_point() else u
        for name, u in tensors.items()
    }
    inputs = (q.to(real), k.to(real), v.to(real))
    graph = build(expr)
    outs, lses = [], []
    for start, stop, modifiers in _modifier_runs(expr, q.shape[1]):
        factor = modifiers.scale_or(scale)
        out, lse = reference_attention(graph, *inputs, wide, factor, modifiers)
        outs.append(out[:, start:stop])
        lses.append(lse[:, start:stop])
    if len(outs) == 1:
        return outs[0].to(q.dtype), lses[0]
    return torch.cat(outs, 1).to(q.dtype), torch.cat(lses, 1)
