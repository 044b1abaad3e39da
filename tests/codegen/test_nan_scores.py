"""A score that is NaN shows in the queries that see it, and in no other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import attncomp

N_KEYS, NAN_KEY = 40, 17


def rows_with_nan(pattern: str, backend: str, inputs: tuple[Tensor, ...]) -> list[list[int]]:
    """The query rows of out and of dq that hold a NaN."""
    q, k, v, scores = inputs
    q = q.clone().requires_grad_()
    out = attncomp.compile(pattern, backend=backend)(q, k, v, scores=scores)
    (dq,) = torch.autograd.grad(out.sum(), q)
    return [x.isnan().any(-1)[0, 0].nonzero().flatten().tolist() for x in (out.detach(), dq)]


@pytest.mark.parametrize("gate", ["key_value", "value", "logit"])
def test_nan_shows_in_later_queries_alone(gate: str, generator: torch.Generator) -> None:
    pattern = f"sparsek(k=4, gate={gate!r}) | window(3)"
    inputs = tuple(
        torch.randn(1, 1, N_KEYS, 16, dtype=torch.float64, generator=generator) for _ in range(3)
    )
    scores = torch.randn(1, 1, N_KEYS, dtype=torch.float64, generator=generator)
    scores[0, 0, NAN_KEY] = float("nan")
    found = rows_with_nan(pattern, "torch", (*inputs, scores))
    assert found == [list(range(NAN_KEY, N_KEYS))] * 2
