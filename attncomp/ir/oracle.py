"""The meaning of a graph as a dense matrix of gates: the truth that every other path is held to.

Everything here follows the definitions, takes time and memory proportional to Nq * Nk (times a
logarithm) and shares no code with the passes, the kernels or their selection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.errors import MissingTensorError, TensorShapeError, VerificationError
from attncomp.ir.affine import Entry
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import (
    Box,
    Complement,
    GateMode,
    Intersection,
    Partition,
    SparseK,
    Sweep,
    Union,
    Where,
)
from attncomp.ir.pairs import Pairs
from attncomp.ir.tables import LOGITS


def gate_mode(graph: Graph) -> GateMode | None:
    """The gate mode that the soft members of the graph share, or None if all are crisp.

    Raises VerificationError where two of them differ.
    """
    mode: GateMode | None = None
    for node, op in _sparse_ks(graph):
        if mode is not None and op.gate != mode:
            raise VerificationError(
                f"gate mode {op.gate} beside {mode}", pass_name="oracle", node=f"%{node}"
            )
        mode = op.gate
    return mode


def gate_matrix(
    graph: Graph,
    n_queries: int,
    n_keys: int,
    tensors: Mapping[str, Tensor],
    heads: int = 1,
    batch: int = 1,
) -> Tensor:
    """The gate of every pair, [B, H, Nq, Nk] in [0, 1].

    B and H are 1 for crisp patterns unless they ask for the row of the batch or the head. The last
    query stands at the position of the last key. tensors holds the scores, [B, G, Nk] with
    G dividing heads; the result has their dtype (float64 for crisp patterns) and is differentiable
    with respect to them, membership in sets held constant. `gate="straight_through"` gives 0 or 1
    with the gradient of the key_value gate. Of equal operands of a union or an intersection the
    first takes the gradient.

    Thresholds [Hq] are compared with the logits that tensors hold beside them, under `LOGITS`:
    [B or 1, Hq, Nq, Nk], held constant.

    Raises MissingTensorError and TensorShapeError for the scores and the logits, and
    VerificationError if a partition visits a pair twice.
    """
    mode = gate_mode(graph)
    if needs_logits(graph):
        check_logits(tensors.get(LOGITS), (batch, heads, n_queries, n_keys))
    used = (tensors[name].device for name in tensor_names(graph) if name in tensors)
    device = next(used, torch.device("cpu"))
    pairs = Pairs.of(n_queries, n_keys, tensors, heads, batch, device)
    selections = {
        node: _select(op, pairs, _scores(op, n_keys, tensors, heads), heads)
        for node, op in _sparse_ks(graph)
    }
    gates: dict[NodeId, Tensor] = {}
    for node in graph.walk():
        gates[node] = _gate(graph, node, pairs, gates, selections)
    gate = gates[graph.root]
    if mode == "straight_through":
        gate = (gate != 0).to(gate.dtype) + (gate - gate.detach())
    dtypes = [tensors[op.scores].dtype for _, op in _sparse_ks(graph)]
    return gate.to(dtypes[0]) if dtypes else gate


def tensor_names(graph: Graph) -> tuple[str, ...]:
    """Names of the tensors that the gates depend on, operands before users."""
    names: dict[str, None] = {}
    for op in map(graph.op, graph.walk()):
        if isinstance(op, SparseK):
            names[op.scores] = None
        elif isinstance(op, Where):
            names |= dict.fromkeys(entry.tensor for entry in op.value.entries if entry.tensor)
    return tuple(names)


def needs_logits(graph: Graph) -> bool:
    """Whether the gates depend on the logits of pairs."""
    ops = map(graph.op, graph.walk())
    return any(isinstance(op, Where) and op.passing is not None for op in ops)


def check_logits(
    logits: object, shape: tuple[int, int, int, int], pattern: str | None = None
) -> None:
    """MissingTensorError or TensorShapeError for what are no logits [B or 1, Hq, Nq, Nk]."""
    batch, *pairs = shape
    layout = f"[{', '.join(map(str, (f'{batch} or 1' if batch > 1 else 1, *pairs)))}]"
    if not isinstance(logits, Tensor):
        found = "none" if logits is None else type(logits).__name__
        raise MissingTensorError(subject=LOGITS, expected=layout, found=found, pattern=pattern)
    if tuple(logits.shape) not in (shape, (1, *pairs)):
        raise TensorShapeError(
            subject=LOGITS, expected=layout, found=tuple(logits.shape), pattern=pattern
        )


def tensor_entries(graph: Graph) -> dict[str, tuple[Entry, ...]]:
    """For each tensor that tests read, of integers or of scores of blocks, what they read of it."""
    entries: dict[str, dict[Entry, None]] = {}
    for op in map(graph.op, graph.walk()):
        for entry in op.value.entries if isinstance(op, Where) else ():
            if entry.tensor:
                entries.setdefault(entry.tensor, {})[entry] = None
    return {name: tuple(found) for name, found in entries.items()}


def projection(scores: Tensor, prefix: Tensor, k: int) -> Tensor:
    """SPARSEK of each prefix: the Euclidean projection onto { m : 0 <= m <= 1, sum m = k }.

    arXiv 2406.16747, equation 4. scores [..., 1, N] and prefix [..., T, N] (bool) give m
    [..., T, N] float64: clip(u - tau, 0, 1) with the threshold of each row solved exactly on the
    breakpoints of the piecewise linear sum; 1 for prefixes of k keys or fewer. Infinite scores
    count as the largest finite numbers; a NaN makes every gate of its prefix NaN.
    """
    n_keys = scores.shape[-1]
    if k >= n_keys:
        return prefix.to(torch.float64).expand(*scores.shape[:-2], *prefix.shape[-2:])
    full = prefix.sum(-1, keepdim=True) > k
    # Relative to the k-th largest score, so that scores of any size keep their fractions. The
    # threshold is then in [-1, 0): a score of -2 has a gate of 0.
    finite = _finite(scores)
    ranked = finite.detach().masked_fill(~prefix, -torch.inf).sort(-1, descending=True).values
    theta = torch.where(full, ranked[..., k - 1 : k], 0.0)
    relative = (finite - theta).masked_fill(~prefix, -2.0)
    threshold = _threshold(relative.detach(), k)
    members = relative.detach() - threshold
    fractional = (members > 0) & (members < 1)
    saturated = members >= 1
    # tau as a function of the fractional scores alone, so that autograd gives its derivative.
    size = fractional.sum(-1, keepdim=True)
    total = torch.where(fractional, relative, 0.0).sum(-1, keepdim=True)
    tau = (total + saturated.sum(-1, keepdim=True) - k) / size.clamp(min=1)
    gate = torch.where(fractional, (relative - tau).clamp(0.0, 1.0), saturated.to(torch.float64))
    unknown = (scores.isnan() & prefix).any(-1, keepdim=True)
    gate = gate.masked_fill(unknown & prefix, torch.nan)
    return torch.where(full, gate, prefix.to(torch.float64))


def _threshold(relative: Tensor, k: int) -> Tensor:
    """tau in [-1, 0) with sum clip(relative - tau, 0, 1) = k, for each row of [..., N].

    Rows without a solution (fewer than k scores, NaN) get some number.
    """
    ends = torch.tensor([-1.0, 0.0], dtype=relative.dtype, device=relative.device)
    ends = ends.expand(*relative.shape[:-1], 2)
    points = torch.cat([relative, relative - 1, ends], -1).clamp(-1.0, 0.0).sort(-1).values
    # The sum falls from k or more at -1 to less than k at 0: bisect for the piece it crosses k in.
    low = torch.zeros_like(points[..., :1], dtype=torch.int64)
    high = torch.full_like(low, points.shape[-1] - 1)
    for _ in range(points.shape[-1].bit_length()):
        middle = (low + high) // 2
        total = (relative - points.gather(-1, middle)).clamp(0.0, 1.0).sum(-1, keepdim=True)
        enough = total >= k
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    inside = (points.gather(-1, low) + points.gather(-1, high)) / 2
    fractional = (relative > inside) & (relative < inside + 1)
    saturated = relative >= inside + 1
    total = torch.where(fractional, relative, 0.0).sum(-1, keepdim=True)
    count = fractional.sum(-1, keepdim=True)
    return (total + saturated.sum(-1, keepdim=True) - k) / count.clamp(min=1)


def _finite(scores: Tensor) -> Tensor:
    """A float64 copy with infinities replaced, through which gradients pass unchanged."""
    limits = torch.finfo(scores.dtype)
    finite = scores.to(torch.float64, copy=True)
    # In place and unrecorded: the derivative of clamp would drop what an infinite score is due.
    with torch.no_grad():
        return finite.clamp_(limits.min, limits.max)


class _Selection(NamedTuple):
    """selected [B, H, Nq, Nk] bool and the gate of those pairs, 0 elsewhere."""

    selected: Tensor
    gate: Tensor


def _sparse_ks(graph: Graph) -> Iterator[tuple[NodeId, SparseK]]:
    for node in graph.walk():
        op = graph.op(node)
        if isinstance(op, SparseK):
            yield node, op


def _scores(op: SparseK, n_keys: int, tensors: Mapping[str, Tensor], heads: int) -> Tensor:
    """The scores of each group, [B, G, 1, Nk]."""
    if op.scores not in tensors:
        raise MissingTensorError(
            subject=op.scores, expected="[B, G, Nk]", found=", ".join(sorted(tensors)) or "none"
        )
    scores = tensors[op.scores]
    fits = scores.ndim == 3 and scores.shape[2] == n_keys and scores.shape[1] > 0
    if not fits or heads % scores.shape[1]:
        raise TensorShapeError(
            subject=op.scores,
            expected=f"[B, G, {n_keys}] with G dividing {heads} heads",
            found=tuple(scores.shape),
        )
    return scores[:, :, None, :]


def _select(op: SparseK, pairs: Pairs, scores: Tensor, heads: int) -> _Selection:
    """The k best keys of each prefix, ties to the earlier key, and their gates, for each head."""
    prefix = pairs.distance >= op.lag
    u = _finite(scores.detach())
    key = pairs.key
    wins = (u.mT > u) | ((u.mT == u) & (key.T < key))  # [B, G, Nk, Nk]: row beats column
    rank = prefix.to(torch.float64) @ wins.to(torch.float64)
    selected = prefix & (rank < op.k)
    gate = selected.to(torch.float64)
    if op.gate != "hard":
        gate = torch.where(selected, projection(scores, prefix, op.k), 0.0)
    shared = heads // scores.shape[1]
    return _Selection(selected.repeat_interleave(shared, 1), gate.repeat_interleave(shared, 1))


def _gate(
    graph: Graph,
    node: NodeId,
    pairs: Pairs,
    gates: Mapping[NodeId, Tensor],
    selections: Mapping[NodeId, _Selection],
) -> Tensor:
    op = graph.op(node)
    operands = [gates[operand] for operand in graph.operands(node)]
    match op:
        case Box():
            return pairs.inside(op).to(torch.float64)[None, None]
        case Where():
            return pairs.passing(op).to(torch.float64)
        case SparseK():
            return selections[node].gate
        case Union():
            return _choose(graph, node, gates, torch.ge)
        case Intersection():
            return _choose(graph, node, gates, torch.le)
        case Complement():
            return 1 - operands[0]
        case Sweep():
            return _sweep(graph, node, op, pairs, operands[0], selections)
        case Partition():
            return _partition(node, pairs, operands)
        case _:
            assert_never(op)


def _choose(
    graph: Graph,
    node: NodeId,
    gates: Mapping[NodeId, Tensor],
    better: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The best gate of the operands; of equal ones the first by precedence takes the gradient."""
    order = sorted(graph.operands(node), key=lambda operand: _precedence(graph, operand))
    best, *others = (gates[operand] for operand in order)
    for other in others:
        best = torch.where(_keep(better(best, other), best), best, other)
    return best


def _precedence(graph: Graph, node: NodeId) -> tuple[int, tuple[tuple[int, str, int], ...]]:
    """The order in which equal gates take the gradient, the same for all spellings of a pattern.

    Selections by lag, scores, then the larger k; what several of them meet in by its members;
    everything else after them.
    """
    match graph.op(node):
        case SparseK(lag=lag, scores=scores, k=k):
            return 0, ((lag, scores, -k),)
        case Intersection():
            softs = [x for x in graph.operands(node) if _holds_selection(graph, x)]
            keys = [_precedence(graph, operand) for operand in softs]
            composite = not keys or any(key[0] for key in keys)
            return int(composite), tuple(sorted(member for _, key in keys for member in key))
        case _:
            return 1, ()


def _holds_selection(graph: Graph, node: NodeId) -> bool:
    below = (_holds_selection(graph, operand) for operand in graph.operands(node))
    return isinstance(graph.op(node), SparseK) or any(below)


def _keep(better: Tensor, first: Tensor) -> Tensor:
    """Where the first of two gates stands: where it is the better, or NaN."""
    return better | first.isnan()


def _sweep(
    graph: Graph,
    node: NodeId,
    op: Sweep,
    pairs: Pairs,
    gate: Tensor,
    selections: Mapping[NodeId, _Selection],
) -> Tensor:
    walked = list(graph.operands(node)[1:])
    visits = torch.zeros_like(pairs.distance)
    for box in op.boxes:
        visits = visits + pairs.inside(box)
    if (visits > 1).any():
        raise _twice("boxes of a sweep", visits > 1, node)
    mask = (visits > 0)[None, None] & pairs.meeting(op.condition)
    if op.gathered:
        mask = mask & selections[walked.pop(0)].selected
    for absent in walked:
        mask = mask & ~selections[absent].selected
    return torch.where(mask, gate, 0.0)


def _partition(node: NodeId, pairs: Pairs, sweeps: list[Tensor]) -> Tensor:
    visits = torch.zeros_like(pairs.distance)[None, None]
    total = visits.to(torch.float64)
    for sweep in sweeps:
        total = total + sweep
        visits = visits + (sweep != 0)
    if (visits > 1).any():
        raise _twice("sweeps of a partition", visits > 1, node)
    return total


def _twice(what: str, where: Tensor, node: NodeId) -> VerificationError:
    query, key = where.nonzero()[0, -2:].tolist()
    return VerificationError(
        f"two {what} visit key {key} for query {query}", pass_name="oracle", node=f"%{node}"
    )
