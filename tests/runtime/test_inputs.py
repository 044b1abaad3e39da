"""Integer tensors of a call: what they may be, and what a mistake says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attncomp
from attncomp.errors import CallError, OptionError

PACKED = "where(documents[b, q] == documents[b, k]) & causal"
TILED = "where(tiles[b, h, q // 4, k // 4]) & causal | sparsek(k=3)"
Q = torch.zeros(2, 4, 10, 16)
K = torch.zeros(2, 2, 10, 16)


def call(spec: str, **tensors: Any) -> Tensor:
    result: Tensor = attncomp.compile(spec)(Q, K, K, **tensors)
    return result


def integers(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(size, dtype=dtype)


@pytest.mark.parametrize(
    ("spec", "tensors", "message"),
    [
        (PACKED, {}, "documents: expected tensor [2 or 1, 10], found none"),
        (PACKED, {"documents": integers(10)}, "documents: expected shape [2 or 1, 10], found [10]"),
        (
            PACKED,
            {"documents": integers(3, 10)},
            "documents: expected shape [2 or 1, 10], found [3, 10]",
        ),
        (
            PACKED,
            {"documents": integers(2, 9)},
            "documents: expected shape [2 or 1, 10], found [2, 9]",
        ),
        (
            "blocks(4)",
            {},
            "block_mask: expected tensor [2 or 1, H dividing 4 heads, 3, 3], found none",
        ),
        (
            "blocks(4)",
            {"block_mask": integers(2, 4, 10, 10)},
            "block_mask: expected shape [2 or 1, H dividing 4 heads, 3, 3], found [2, 4, 10, 10]",
        ),
        (
            "topk_blocks(2, 4)",
            {"block_scores": torch.zeros(2, 3, 3, 3)},
            "block_scores: expected shape [2 or 1, H dividing 4 heads, 3, 3], found [2, 3, 3, 3]",
        ),
        (
            "topk_blocks(2, 4)",
            {"block_scores": integers(2, 4, 3, 3)},
            "block_scores: expected dtype float16, bfloat16, float32 or float64, found int64",
        ),
        (
            PACKED,
            {"documents": torch.zeros(2, 10)},
            "documents: expected dtype bool, uint8, int8, int16, int32 or int64, found float32",
        ),
        (
            PACKED,
            {"document": integers(2, 10)},
            "document: expected a tensor named 'documents', found 'document' "
            "(did you mean 'documents'?)",
        ),
        (
            PACKED,
            {"documents": integers(2, 10).to("meta")},
            "documents: expected device cpu, q's own, found meta",
        ),
        (
            PACKED,
            {"documents": integers(2, 10).to_sparse()},
            "documents: expected layout strided, found sparse_coo",
        ),
        (
            TILED,
            {"tiles": integers(2, 3, 3, 3), "scores": torch.zeros(2, 1, 10)},
            "tiles: expected shape [2 or 1, H dividing 4 heads, 3, 3], found [2, 3, 3, 3]",
        ),
        (
            TILED,
            {"tiles": integers(2, 4, 3, 2), "scores": torch.zeros(2, 1, 10)},
            "tiles: expected shape [2 or 1, H dividing 4 heads, 3, 3], found [2, 4, 3, 2]",
        ),
    ],
)
def test_mistakes(spec: str, tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CallError) as caught:
        call(spec, **tensors)
    text = str(attncomp.compile(spec))
    assert str(caught.value) == f"{message} (pattern '{text}')"


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_dtypes_heads_and_rows(
    backend: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Heads that share an entry, rows that share one, any strides."""
    q = torch.randn(2, 4, 10, 16, generator=generator, dtype=torch.float64)
    k = torch.randn(2, 2, 10, 16, generator=generator, dtype=torch.float64)
    u = torch.randn(2, 2, 10, generator=generator, dtype=torch.float64)
    drawn = torch.randint(0, 2, (1, 2, 3, 6), generator=generator).to(dtype)
    tiles = drawn[..., ::2]
    wide = drawn[..., ::2].repeat_interleave(2, 1).expand(2, 4, 3, 3).contiguous().long()
    pattern = attncomp.compile(TILED, backend=backend)
    expected = attncomp.compile(TILED, backend="reference")(q, k, k, scores=u, tiles=wide)
    found = pattern(q, k, k, scores=u, tiles=tiles)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_shapes_and_names() -> None:
    pattern = attncomp.compile(TILED)
    assert pattern.tensors == ("tiles", "scores")
    assert pattern.integer_tensors == ("tiles",)
    assert pattern.shapes == {
        "tiles": "[B or 1, H dividing Hq, Nk / 4, Nk / 4]",
        "scores": "[B, G, Nk]",
    }
    free = attncomp.compile("where(table[q - k] == 1) & causal")
    assert free.shapes == {"table": "[...]"}
    line = "tensors      q, k, v, table [...]"
    assert line in free.explain().splitlines()


def test_an_entry_outside_of_its_tensor_counts_as_zero() -> None:
    table = torch.tensor([1, 0, 1])  # by distance
    gates = attncomp.compile("where(table[q - k])").mask(5, table=table)[0, 0]
    distance = torch.arange(5)[:, None] - torch.arange(5)
    assert torch.equal(gates, ((distance == 0) | (distance == 2)).double())


def test_masks_have_the_heads_and_rows_of_the_tensors() -> None:
    documents = torch.tensor([[0, 0, 1], [0, 1, 1]])
    gates = attncomp.compile("where(documents[b, q] == documents[b, k])").mask(
        3, documents=documents
    )
    assert gates.tolist() == [
        [[[1, 1, 0], [1, 1, 0], [0, 0, 1]]],
        [[[1, 0, 0], [0, 1, 1], [0, 1, 1]]],
    ]
    sloped = attncomp.compile("where(q - k <= h) & causal")
    assert sloped.mask(3, heads=2).tolist() == [
        [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 1, 0], [0, 1, 1]]]
    ]
    for option, spec in (("heads", "where(h > 0)"), ("batch", "where(b > 0)")):
        with pytest.raises(OptionError) as caught:
            attncomp.compile(spec).mask(3)
        name = option[0]
        assert str(caught.value) == (
            f"{option}: expected a number, as the pattern asks for {name}, found None "
            f"(pattern '{spec}')"
        )
        with pytest.raises(OptionError):
            attncomp.compile(spec).mask(3, **{option: 0})


def test_torch_compile_and_gradients(generator: torch.Generator) -> None:
    pattern = attncomp.compile(PACKED)
    documents = torch.arange(40)[None] // 7

    @torch.compile(fullgraph=True, backend="aot_eager")
    def attend(q: Tensor, k: Tensor, documents: Tensor) -> Tensor:
        result: Tensor = pattern(q, k, k, documents=documents)
        return result

    def fresh(heads: int) -> Tensor:
        drawn = torch.randn(1, heads, 40, 16, generator=generator)
        return drawn.requires_grad_()

    q, k = fresh(4), fresh(2)
    out = attend(q, k, documents)
    dq, dk = torch.autograd.grad(out.square().sum(), (q, k))
    reference = attncomp.compile(PACKED, backend="reference")
    expected = reference(q, k, k, documents=documents)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    wanted = torch.autograd.grad(expected.square().sum(), (q, k))
    torch.testing.assert_close((dq, dk), wanted, atol=1e-4, rtol=1e-3)


# Documents by their cumulative lengths


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_cumulative_lengths_are_documents(dtype: torch.dtype, generator: torch.Generator) -> None:
    """Those of FlashAttention: a document may be empty, and what is left over is one more."""
    lengths = torch.tensor([0, 3, 3, 8], dtype=dtype)
    ids = torch.tensor([[0, 0, 0, 2, 2, 2, 2, 2, 3, 3]])
    packed = attncomp.compile("documents & causal")
    assert packed.mask(10, cu_seqlens=lengths).equal(packed.mask(10, documents=ids))
    q, k, v = (torch.randn(2, 2, 10, 16, generator=generator) for _ in range(3))
    assert packed(q, k, v, cu_seqlens=lengths).equal(packed(q, k, v, documents=ids))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"cu_seqlens": integers(3), "documents": integers(1, 10)},
            "cu_seqlens: expected none beside 'documents', found both",
        ),
        ({"cu_seqlens": [0, 10]}, "cu_seqlens: expected tensor [D + 1], found list"),
        (
            {"cu_seqlens": integers(3).to_sparse()},
            "cu_seqlens: expected layout strided, found sparse_coo",
        ),
        (
            {"cu_seqlens": integers(1)},
            "cu_seqlens: expected shape [D + 1] with D >= 1, found [1]",
        ),
        (
            {"cu_seqlens": integers(1, 3)},
            "cu_seqlens: expected shape [D + 1] with D >= 1, found [1, 3]",
        ),
        (
            {"cu_seqlens": torch.zeros(3)},
            "cu_seqlens: expected dtype int32 or int64, found float32",
        ),
        (
            {"cu_seqlens": integers(3).to("meta")},
            "cu_seqlens: expected device cpu, q's own, found meta",
        ),
    ],
)
def test_wrong_cumulative_lengths(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CallError) as caught:
        call("documents & causal", **tensors)
    assert str(caught.value) == f"{message} (pattern 'documents & causal')"


def test_a_tensor_of_that_name() -> None:
    """What the pattern itself calls cu_seqlens is passed on as it is."""
    spec = "documents & where(cu_seqlens[q] == cu_seqlens[k])"
    given = {"cu_seqlens": torch.arange(10), "documents": integers(1, 10)}
    assert attncomp.compile(spec).mask(10, **given)[0, 0].equal(torch.eye(10).double())
