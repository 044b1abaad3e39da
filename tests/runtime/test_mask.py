"""The dense gates of a pattern: their values, their dtype and the mistakes of asking for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attncomp
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.oracle import gate_matrix

SPEC = "sparsek(k=4) | window(4)"


def test_mask(generator: torch.Generator) -> None:
    u = torch.randn(2, 3, 9, generator=generator, dtype=torch.float64)
    pattern = attncomp.compile(SPEC)
    gate = pattern.mask(5, 9, scores=u)
    assert gate.shape == (2, 3, 5, 9)
    assert torch.equal(gate, gate_matrix(build(parse(SPEC)), 5, 9, {"scores": u}, 3))
    assert attncomp.compile("window(2)").mask(3).tolist() == [[[[1, 0, 0], [1, 1, 0], [0, 1, 1]]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_masks_have_the_dtype_of_the_scores(dtype: torch.dtype) -> None:
    gate = attncomp.compile(SPEC).mask(
        np.int64(3), np.int32(5), scores=torch.zeros(1, 2, 5).to(dtype)
    )
    assert (gate.shape, gate.dtype) == ((1, 2, 3, 5), dtype)
    assert attncomp.compile("window(2)").mask(3).dtype == torch.float64


def test_mask_errors() -> None:
    pattern = attncomp.compile(SPEC)
    cases: list[tuple[tuple[object, ...], dict[str, object], str]] = [
        ((0,), {}, "n_queries: expected a length of 1 or more, found 0"),
        ((2.0,), {}, "n_queries: expected a length of 1 or more, found 2.0"),
        ((3, True), {}, "n_keys: expected a length of 1 or more, found True"),
        (
            (3,),
            {},
            f"scores: expected tensor [B, G, 3], found none (pattern '{SPEC}')",
        ),
        (
            (3,),
            {"score": torch.zeros(1, 1, 3)},
            "score: expected a tensor named 'scores', found 'score' (did you mean 'scores'?) "
            f"(pattern '{SPEC}')",
        ),
        (
            (3,),
            {"scores": torch.zeros(1, 3)},
            f"scores: expected shape [B, G, 3] with G >= 1, found [1, 3] (pattern '{SPEC}')",
        ),
        (
            (2, 3),
            {"scores": torch.zeros(1, 1, 2)},
            f"scores: expected shape [B, G, 3] with G >= 1, found [1, 1, 2] (pattern '{SPEC}')",
        ),
        (
            (3,),
            {"scores": torch.zeros(1, 0, 3)},
            f"scores: expected shape [B, G, 3] with G >= 1, found [1, 0, 3] (pattern '{SPEC}')",
        ),
        (
            (3,),
            {"scores": torch.zeros(1, 1, 3, dtype=torch.int64)},
            "scores: expected dtype float16, bfloat16, float32 or float64, found int64 "
            f"(pattern '{SPEC}')",
        ),
        (
            (3,),
            {"scores": torch.zeros(1, 1, 3).to_sparse()},
            f"scores: expected layout strided, found sparse_coo (pattern '{SPEC}')",
        ),
    ]
    for sizes, tensors, message in cases:
        with pytest.raises(attncomp.errors.CallError) as caught:
            pattern.mask(*sizes, **tensors)
        assert str(caught.value) == message
