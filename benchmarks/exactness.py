"""Whether what is timed is right: outputs and gradients against dense attention in float32.

Dense attention of a sample of queries alone: `SAMPLED` positions spread over the sequence, the last
one among them, of the first and the last KV head. The case runs with an output gradient that is 0
for all other queries, so that the gradients of keys, values and scores are of the sample alone.
Errors are norms of differences over norms. Beside them stand those of the same dense computation
in the inputs' dtype by torch's own operators, which tell what bfloat16 allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from peers import Steps
from torch import Tensor
from workloads import Inputs, Workload

SAMPLED: Final = 64
_ENTRIES: Final = 1 << 24  # of pairs held at once
_FACTOR, _SLACK = 2.0, 5e-3  # of the dense bf16 error, and beyond it

Results = dict[str, Tensor]
"""By name: out and the gradients of q, k, v and scores."""


@dataclass(frozen=True)
class Sample:
    """Queries at positions rows [R] of KV heads, each with its row of the batch."""

    rows: Tensor
    heads: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Verdict:
    """Errors by name; keys: how many keys a query of the sample attends to, in the mean."""

    errors: dict[str, float]
    dense_errors: dict[str, float]
    keys: float

    @property
    def agrees(self) -> bool:
        """Whether no error is much above that of the dense computation in the same dtype."""
        allowed = {name: _FACTOR * error + _SLACK for name, error in self.dense_errors.items()}
        # NaN is not below it.
        return all(error <= allowed[name] for name, error in self.errors.items())


def sample_of(given: Inputs, seed: int) -> Sample:
    """One position of each of SAMPLED equal stretches of the sequence; the last position."""
    n, device = given.q.shape[2], given.q.device
    generator = torch.Generator(device).manual_seed(seed)
    count = min(SAMPLED, n)
    begin = torch.arange(count + 1, device=device) * n // count
    drawn = torch.rand(count, device=device, generator=generator, dtype=torch.float64)
    rows = begin[:-1] + (drawn * begin.diff()).long()
    rows[-1] = n - 1
    first, last = (0, 0), (given.q.shape[0] - 1, given.k.shape[1] - 1)
    return Sample(rows, tuple(dict.fromkeys((first, last))))


def attended_keys(workload: Workload, given: Inputs, sample: Sample) -> float:
    """The mean number of keys of a query of the sample."""
    counts = [
        (workload.gates(given, rows, *head) != 0).sum(-1)
        for head in sample.heads
        for rows in _chunks(given, sample.rows)
    ]
    return float(torch.cat(counts).double().mean())


def check(workload: Workload, given: Inputs, steps: Steps, sample: Sample) -> Verdict:
    """How far a case's results are from the definition's."""
    with torch.enable_grad():
        expected = _dense(workload, given, sample, torch.float32)
        rounded = _dense(workload, given, sample, given.q.dtype)
    keys = attended_keys(workload, given, sample)
    return Verdict(
        _errors(_results(given, steps, sample), expected), _errors(rounded, expected), keys
    )


def _results(given: Inputs, steps: Steps, sample: Sample) -> Results:
    """What the case gives for the sample."""
    out = steps.call()
    dout = torch.zeros_like(steps.dout)
    dout[:, :, sample.rows] = steps.dout[:, :, sample.rows]
    found = torch.autograd.grad(out, tuple(steps.leaves.values()), dout)
    gradients = dict(zip(steps.leaves, found, strict=True))
    shared = given.q.shape[1] // given.k.shape[1]

    def queries(tensor: Tensor) -> Tensor:
        parts = [tensor[b, j * shared : (j + 1) * shared][:, sample.rows] for b, j in sample.heads]
        return torch.stack(parts)

    return {"out": queries(out.detach()), "q": queries(gradients.pop("q"))} | {
        name: torch.stack([tensor[b, j] for b, j in sample.heads])
        for name, tensor in gradients.items()
    }


def _dense(workload: Workload, given: Inputs, sample: Sample, dtype: torch.dtype) -> Results:
    """The same by the definition, in a dtype."""
    parts = [_dense_head(workload, given, sample.rows, b, j, dtype) for b, j in sample.heads]
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}


def _dense_head(
    workload: Workload, given: Inputs, rows: Tensor, batch: int, head: int, dtype: torch.dtype
) -> Results:
    """Those of one KV head and its queries, some rows at a time."""
    shared = given.q.shape[1] // given.k.shape[1]
    heads = slice(head * shared, (head + 1) * shared)

    def wide(tensor: Tensor) -> Tensor:
        return tensor.to(dtype, copy=True).detach()

    q = wide(given.q[batch, heads][:, rows]).requires_grad_()  # [shared, R, D]
    dout = given.dout[batch, heads][:, rows].to(dtype)
    k, v = (wide(tensor[batch, head]).requires_grad_() for tensor in (given.k, given.v))
    leaves = {"q": q, "k": k, "v": v}
    if workload.selection is not None:
        u = given.tensors["scores"].detach().clone().requires_grad_()
        leaves["scores"] = u
        given = _with_scores(given, u)
    outs = []
    for part in _chunks(given, torch.arange(len(rows), device=rows.device)):
        gate = workload.gates(given, rows[part], batch, head)  # [R, N]
        attended, factor = gate != 0, gate.to(dtype)
        logits = q.shape[-1] ** -0.5 * (q[:, part] @ k.T) * factor
        weights = torch.softmax(logits.masked_fill(~attended, -torch.inf), -1)
        out = (weights * factor) @ v  # [shared, R, D]
        out.backward(dout[:, part])
        outs.append(out.detach())
    # Scores of which all are selected with a gate of 1 have none.
    gradients = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    results = {"out": torch.cat(outs, 1), **gradients}
    if "scores" in results:
        results["scores"] = results["scores"][batch, head]
    return results


def _with_scores(given: Inputs, scores: Tensor) -> Inputs:
    tensors = {**given.tensors, "scores": scores}
    return Inputs(given.setting, given.q, given.k, given.v, given.dout, tensors)


def _chunks(given: Inputs, rows: Tensor) -> Iterator[Tensor]:
    """Rows so few at a time that the pairs of a KV head's queries fit."""
    shared = given.q.shape[1] // given.k.shape[1]
    yield from rows.split(max(1, _ENTRIES // (shared * given.k.shape[2])))


def _errors(found: Results, expected: Results) -> dict[str, float]:
    """By name: the norm of the difference over that of what is expected.

    Where nothing but zeros is expected, 0 for zeros and 1 for all else.
    """
    errors = {}
    for name, right in expected.items():
        wrong = found[name].double() - right.double()
        size, off = float(right.double().norm()), float(wrong.norm())
        errors[name] = off / size if size else float(off != 0)
    return errors
