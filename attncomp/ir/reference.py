"""Dense attention under a pattern, straight from its definition: slow, differentiable, exact."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.errors import TensorShapeError
from attncomp.frontend.modifiers import STANDARD_SLOPES
from attncomp.ir.graph import Graph
from attncomp.ir.modifiers import NO_MODIFIERS, Modifiers, standard_slopes
from attncomp.ir.ops import GateMode
from attncomp.ir.oracle import gate_matrix, gate_mode, needs_logits
from attncomp.ir.tables import LOGITS


def reference_attention(
    graph: Graph,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tensors: Mapping[str, Tensor],
    scale: float | None = None,
    modifiers: Modifiers = NO_MODIFIERS,
) -> tuple[Tensor, Tensor]:
    """Attention by the gates of `oracle.gate_matrix`, computed in the dtype of the inputs.

    query [B, Hq, Nq, D], key [B, Hk, Nk, D], value [B, Hk, Nk, Dv] and tensors as `gate_matrix`
    has them, B or 1 in their batch; scale defaults to the modifiers', else to 1 / sqrt(D). Gives
    out [B, Hq, Nq, Dv] and lse [B, Hq, Nq], the natural logarithm of the sum of exp of each row. A
    row without keys gives 0, -inf and gradients of 0. Both are differentiable, twice, in query,
    key, value and scores. Thresholds get no gradient, and pairs that fail them give none.

    modifiers change the logits as `attncomp.ir.modifiers` says; tensors has theirs too, slopes and
    sink [Hq], table [Hq, 2 * size - 1], in which the results are differentiable as well.

    Raises TensorShapeError where shapes do not fit each other.
    """
    _check_shapes(query, key, value)
    heads, _, head_dim = query.shape[1:]
    n_keys = key.shape[2]
    shared = heads // key.shape[1]
    scale = modifiers.scale if scale is None else scale
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    product = scale * query @ key.repeat_interleave(shared, dim=1).mT  # [B, Hq, Nq, Nk]
    gate = _gate(graph, product, tensors)
    attended = gate != 0  # NaN is attended, so that it shows
    gate = torch.where(attended, gate, 1.0).to(query.dtype)
    logit_gate, value_gate, bias = _gate_roles(gate, gate_mode(graph))

    logits = _modified(logit_gate * product, modifiers, tensors) + bias
    logits = logits.masked_fill(~attended, -torch.inf)
    sink = None if modifiers.sink is None else tensors[modifiers.sink]
    logits, empty = _with_sink(logits, ~attended.any(-1, keepdim=True), sink)
    # The largest logit of each row; the extra column serves inputs without keys.
    shift = torch.nn.functional.pad(logits.detach(), (0, 1), value=-torch.inf).amax(-1, True)
    shift = shift.masked_fill(empty, 0.0)
    weight = (logits - shift).exp()
    total = weight.sum(-1, keepdim=True).masked_fill(empty, 1.0)
    out = (weight[..., :n_keys] / total * value_gate) @ value.repeat_interleave(shared, dim=1)
    lse = (total.log() + shift).masked_fill(empty, -torch.inf)
    return out, lse.squeeze(-1)


def _gate(graph: Graph, product: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """The gates of pairs with these products [B, Hq, Nq, Nk], which are constant to thresholds."""
    batch, heads, n_queries, n_keys = product.shape
    known = {**tensors, LOGITS: product.detach()} if needs_logits(graph) else tensors
    gate = gate_matrix(graph, n_queries, n_keys, known, heads, batch).to(product.device)
    if gate.shape[0] not in (1, batch):
        raise TensorShapeError(
            subject="batch of the scores", expected=(batch,), found=(gate.shape[0],)
        )
    return gate


def _with_sink(logits: Tensor, empty: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """The logits with those of a sink [Hq] in a last column, and which rows are empty even so."""
    if sink is None:
        return logits, empty
    column = sink.to(logits.dtype)[None, :, None, None]
    logits = torch.cat([logits, column.expand(*logits.shape[:3], 1)], -1)
    return logits, empty & (column == -torch.inf)


def _modified(logits: Tensor, modifiers: Modifiers, tensors: Mapping[str, Tensor]) -> Tensor:
    """The logits [B, Hq, Nq, Nk] under softcap, alibi and bias, in this order."""
    heads, n_queries, n_keys = logits.shape[1:]
    if modifiers.softcap is not None:
        logits = modifiers.softcap * torch.tanh(logits / modifiers.softcap)
    key = torch.arange(n_keys, device=logits.device)
    position = torch.arange(n_queries, device=logits.device)[:, None] + n_keys - n_queries
    distance = position - key  # [Nq, Nk]
    if modifiers.slopes is not None:
        if modifiers.slopes == STANDARD_SLOPES:
            slopes = standard_slopes(heads, dtype=logits.dtype, device=logits.device)
        else:
            slopes = tensors[modifiers.slopes].to(logits.dtype)
        logits = logits - slopes[:, None, None] * distance.abs()
    if modifiers.bias is not None:
        most = modifiers.bias.size - 1
        table = tensors[modifiers.bias.table].to(logits.dtype)
        logits = logits + table[:, distance.clamp(-most, most) + most]
    return logits


def _gate_roles(
    gate: Tensor, mode: GateMode | None
) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
    """What multiplies the logits, what multiplies the values and what is added to the logits."""
    match mode:
        case "key_value" | "straight_through":
            return gate, gate, 0.0
        case "value":
            return 1.0, gate, 0.0
        case "logit":
            return 1.0, 1.0, gate.log()
        case "hard" | None:
            return 1.0, 1.0, 0.0
        case _:
            assert_never(mode)


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    for subject, tensor in (("q", query), ("k", key), ("v", value)):
        if tensor.ndim != 4:
            raise TensorShapeError(
                subject=subject, expected="of 4 dimensions", found=tuple(tensor.shape)
            )
    batch, heads, _, head_dim = query.shape
    key_heads, n_keys = key.shape[1:3]
    if key.shape != (batch, key_heads, n_keys, head_dim) or not key_heads or heads % key_heads:
        raise TensorShapeError(
            subject="k",
            expected=f"[{batch}, Hk, Nk, {head_dim}] with Hk dividing {heads} heads",
            found=tuple(key.shape),
        )
    if value.shape[:3] != key.shape[:3]:
        raise TensorShapeError(
            subject="v",
            expected=f"[{batch}, {key_heads}, {n_keys}, Dv]",
            found=tuple(value.shape),
        )
