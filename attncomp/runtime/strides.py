"""Plans with strided parts: each part runs on the classes of positions, all share one softmax.

Attention over a union of disjoint sets of keys is the mean of the attentions over each, weighted by
the sums of their exponentials: with lse = log(sum_i exp(lse_i)), out = sum_i exp(lse_i - lse) out_i
(FlashAttention-2's merge, arXiv 2307.08691). Backward, each part's own kernels give its share of
the gradients from the out and lse of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from attncomp.codegen.plan import KernelPlan

Forward: TypeAlias = Callable[..., tuple[Tensor, Tensor]]
Backward: TypeAlias = Callable[..., tuple[Tensor, ...]]


class Kernels(NamedTuple):
    """The functions of one generated module."""

    select: Callable[..., tuple[Tensor, ...]]
    forward: Forward
    backward: Backward

    @classmethod
    def of(cls, module: ModuleType) -> Kernels:
        return cls(module.select, module.forward, module.backward)


@dataclass(frozen=True)
class Classes:
    """How Nq queries, the last of which stands at the last of Nk keys, fall into classes."""

    step: int
    n_queries: int
    n_keys: int

    @property
    def length(self) -> int:
        """Keys of a class."""
        return -(-self.n_keys // self.step)

    @property
    def before(self) -> int:
        """Rows ahead of the first query, to start with a member of the first class."""
        return (self.n_keys - self.n_queries) % self.step

    def keys(self, rows: Tensor) -> Tensor:
        """[B, H, Nk, ...] to [B * step, H, length, ...]; rows behind the last are 0."""
        return self._classes(rows, 0, self.step * self.length, 0.0)

    def queries(self, rows: Tensor, filling: float = 0.0) -> Tensor:
        """[B, H, Nq, ...] to [B * step, H, n, ...]; rows that there are not hold the filling."""
        start = self.n_keys - self.n_queries - self.before
        return self._classes(rows, self.before, self.step * self.length - start, filling)

    def _classes(self, rows: Tensor, before: int, total: int, filling: float) -> Tensor:
        batch, heads, count = rows.shape[:3]
        padded = rows
        if total != count:
            padded = rows.new_full((batch, heads, total, *rows.shape[3:]), filling)
            padded[:, :, before : before + count] = rows
        return padded.unflatten(2, (-1, self.step)).movedim(3, 1).flatten(0, 1)

    def whole_keys(self, rows: Tensor) -> Tensor:
        """The inverse of `keys`."""
        return self._whole(rows)[:, :, : self.n_keys]

    def whole_queries(self, rows: Tensor) -> Tensor:
        """The inverse of `queries`."""
        return self._whole(rows)[:, :, self.before : self.before + self.n_queries]

    def _whole(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, self.step)).movedim(1, 3).flatten(2, 3)


def composed(plan: KernelPlan, load: Callable[[KernelPlan], Kernels]) -> Kernels:
    """The functions of a plan, from those that `load` gives for it and for its strided parts."""
    if not plan.strided:
        return load(plan)
    own = None if plan.own is None else load(plan.own)
    parts = [(part.step, composed(part.plan, load)) for part in plan.strided]

    def forward(
        q: Tensor, k: Tensor, v: Tensor, state: tuple[Tensor, ...], scale: float
    ) -> tuple[Tensor, Tensor]:
        found = [own.forward(q, k, v, state, scale)] if own is not None else []
        for step, part in parts:
            by = Classes(step, q.shape[2], k.shape[2])
            out, lse = part.forward(by.queries(q), by.keys(k), by.keys(v), (), scale)
            found.append((by.whole_queries(out), by.whole_queries(lse)))
        return merged(found)

    def backward(
        dout: Tensor,
        dlse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        state: tuple[Tensor, ...],
        scale: float,
    ) -> tuple[Tensor, ...]:
        rows = (dout, dlse, q, k, v, out, lse)
        found = [own.backward(*rows, state, scale)] if own is not None else []
        for step, part in parts:
            by = Classes(step, q.shape[2], k.shape[2])
            # Kernels take q, k and v of any strides, but what they wrote themselves as it was.
            dq, dk, dv = part.backward(
                by.queries(dout).contiguous(),
                None if dlse is None else by.queries(dlse).contiguous(),
                by.queries(q),
                by.keys(k),
                by.keys(v),
                by.queries(out).contiguous(),
                by.queries(lse, -math.inf).contiguous(),
                (),
                scale,
            )
            found.append((by.whole_queries(dq), by.whole_keys(dk), by.whole_keys(dv)))
        sums = (sum(gradients[1:], gradients[0]) for gradients in zip(*found, strict=False))
        return (*sums, *found[0][3:])

    return Kernels((own or parts[0][1]).select, forward, backward)


def merged(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """out [B, H, Nq, Dv] and lse [B, H, Nq] of attentions over disjoint keys; in lse's precision.

    A part without keys in a row has out 0 and lse -inf there.
    """
    if len(parts) == 1:
        return parts[0]
    lses = torch.stack([lse for _, lse in parts])
    lse = lses.logsumexp(0)
    weights = (lses - lse.clamp(min=torch.finfo(lse.dtype).min)).exp().unsqueeze(-1)
    total = torch.empty_like(parts[0][0])
    for head in range(total.shape[1]):  # one by one, as sums in lse's precision take memory
        terms = [
            weight[:, head] * out[:, head] for weight, (out, _) in zip(weights, parts, strict=True)
        ]
        total[:, head] = sum(terms[1:], terms[0])
    return total, lse
