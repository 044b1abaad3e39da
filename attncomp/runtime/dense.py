"""The backend reference: attention by its definition."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from attncomp.ir.graph import Graph
from attncomp.ir.reference import reference_attention


def dense_attention(
    graph: Graph, q: Tensor, k: Tensor, v: Tensor, tensors: Mapping[str, Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """out in q's dtype and lse of a call with checked inputs, computed in float32 or float64."""
    real = torch.float64 if q.dtype == torch.float64 else torch.float32
    # In fp16 or bf16 the gates would be rounded to it.
    wide = {
        name: u.to(torch.promote_types(real, u.dtype)) if u.is_floating_point() else u
        for name, u in tensors.items()
    }
    out, lse = reference_attention(graph, q.to(real), k.to(real), v.to(real), wide, scale)
    return out.to(q.dtype), lse
