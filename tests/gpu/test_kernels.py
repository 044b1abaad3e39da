"""Compiled kernels on a GPU against float64, measured by the error of torch's own attention.

Truth is dense attention in float64 on the GPU: `reference_attention` (the oracle's gates) where the
pattern selects, masked softmax with the oracle's mask where it is crisp. The yardstick is
`scaled_dot_product_attention` in the tested dtype with a boolean mask of the attended pairs, held
to float64 on that mask.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from dense import Inputs, Result, Shape, random_inputs, run_with_gradients
from torch import Tensor
from torch.nn import functional
from triton_support import assert_near, relative_error, wide

import attncomp
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.reference import reference_attention

pytestmark = pytest.mark.gpu

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
RATIO = 1.5
# What rounding the results alone costs; the yardstick is never finer.
FLOOR = {BF16: 2.0**-10, FP16: 2.0**-13}
# SDPA has no scores. Their gradient is summed in float32; what it inherits from the dtype is the
# rounding of out in delta = dout . out, which moves it by 2e-4 (bfloat16) and 3e-5 (float16) of its
# norm in float64 arithmetic with out alone rounded.
SCORES_BOUND = {BF16: 2.0**-9, FP16: 2.0**-12}
# lse is computed and returned in float32 from products that are exact in float32.
LSE_BOUND = 1e-4

LAGGED = "sparsek(k=64, lag=32) | window(32)"
MHA, GQA, MQA = (4, 4), (8, 2), (4, 1)
LENGTHS = (63, 1000, 4096)
# pattern, dtype, (query heads, KV heads), score groups, D, Dv, lengths
CASES = [
    (LAGGED, BF16, GQA, 2, 64, 64, (*LENGTHS, 8192)),
    (LAGGED, BF16, MHA, 4, 128, 128, (*LENGTHS, 8192)),
    (LAGGED, FP16, MQA, 2, 80, 80, LENGTHS),
    ("sparsek(k=64) | window(48)", BF16, MQA, 1, 128, 128, (*LENGTHS, 8192)),
    ("sparsek(k=64) | window(48)", FP16, MHA, 2, 64, 64, LENGTHS),
    ("sparsek(k=64) | window(48)", BF16, GQA, 4, 80, 128, LENGTHS),
    ('sparsek(k=48, gate="value") | first(4)', BF16, GQA, 1, 64, 64, LENGTHS),
    ('sparsek(k=48, gate="value") | first(4)', FP16, MQA, 1, 128, 128, LENGTHS),
    ('sparsek(k=64, lag=9, gate="logit") | window(48)', FP16, GQA, 2, 128, 128, LENGTHS),
    ('sparsek(k=64, gate="straight_through") | window(48)', BF16, MHA, 1, 80, 80, LENGTHS),
    ('sparsek(k=64, lag=7, gate="hard") | window(48)', BF16, MQA, 2, 64, 64, LENGTHS),
    ("causal", BF16, GQA, 1, 128, 128, (*LENGTHS, 8192)),
    ("causal", FP16, MHA, 1, 64, 64, LENGTHS),
    ("window(100)", BF16, MQA, 1, 80, 80, LENGTHS),
    ("window(100)", BF16, MHA, 1, 64, 64, (*LENGTHS, 8192)),
    ("first(4) | window(64)", BF16, MHA, 1, 128, 128, LENGTHS),
    ("first(4) | window(64)", FP16, GQA, 1, 80, 80, LENGTHS),
    ("chunk(100) & causal | sparsek(k=64)", BF16, GQA, 2, 128, 128, LENGTHS),
    ("chunk(256)", FP16, MHA, 1, 64, 64, LENGTHS),
    ("where(q - k < 64 * (h + 1) and (q - k) % 3 != 1) & causal", BF16, MQA, 1, 64, 64, LENGTHS),
    ("where(documents[b, q] == documents[b, k]) & causal", BF16, GQA, 1, 128, 128, LENGTHS),
    (
        "where(segment[q] == segment[k] and q < until[b, h, k]) & causal | sparsek(k=64)",
        BF16,
        GQA,
        2,
        64,
        64,
        LENGTHS,
    ),
    ("blocks(16) & causal | window(8)", BF16, GQA, 1, 128, 128, LENGTHS),
    ("topk_blocks(7, 5) & causal | sparsek(k=64)", FP16, MQA, 1, 64, 64, LENGTHS),
    ("random_blocks(3, 64) & causal | window(100)", BF16, MHA, 1, 128, 128, (*LENGTHS, 8192)),
    ("strided(7) | window(20)", BF16, GQA, 1, 64, 64, (*LENGTHS, 8192)),
    ("dilated(300, 4) | sparsek(k=64, lag=1300)", FP16, MQA, 1, 80, 128, LENGTHS),
    ("documents & causal | first(4)", BF16, GQA, 1, 128, 128, LENGTHS),
    ("documents", FP16, MHA, 1, 64, 64, LENGTHS),
    ("where(k < lengths[b]) | causal", BF16, GQA, 1, 128, 128, LENGTHS),
    ("where(q < until[b, h, k]) & causal | window(30)", BF16, GQA, 1, 64, 64, LENGTHS),
    (
        "where(segment[q] != segment[k] or until[b, h, k] > q) & causal",
        BF16,
        MQA,
        1,
        80,
        80,
        LENGTHS,
    ),
    ("window(9) | causal & threshold", BF16, GQA, 1, 128, 128, LENGTHS),
    ("window(9) | causal - threshold", FP16, MQA, 1, 80, 80, LENGTHS),
    ("causal & threshold | sparsek(k=64) - threshold", BF16, GQA, 2, 64, 64, LENGTHS),
    ("full", BF16, MHA, 1, 64, 64, LENGTHS),
    ("full", FP16, MQA, 1, 128, 128, LENGTHS),
]
ACCURACY = [
    pytest.param(*case[:-1], length, id=f"{case[0]}-{case[1]}-{case[2]}-{case[4]}-{length}")
    for case in CASES
    for length in case[-1]
]


def shape_of(heads: tuple[int, int], groups: int, head_dim: int, n_keys: int) -> Shape:
    return Shape(
        batch=2 if n_keys <= 1000 else 1,
        query_heads=heads[0],
        kv_heads=heads[1],
        groups=groups,
        n_queries=n_keys,
        n_keys=n_keys,
        head_dim=head_dim,
        value_dim=head_dim,
    )


def cuda_inputs(shape: Shape, generator: torch.Generator, dtype: torch.dtype) -> Inputs:
    """Inputs on the GPU; scores and dlse stay in float32, as a model has them."""
    inputs = random_inputs(shape, generator, dtype=torch.float32, device="cuda")
    names = ("q", "k", "v", "dout")
    return dataclasses.replace(inputs, **{name: getattr(inputs, name).to(dtype) for name in names})


def with_thresholds(inputs: Inputs) -> Inputs:
    """The same with q and k in halves, so that every sum of products is exact in float32, and
    thresholds half-way between the quarters that these sums are, where all decide alike."""
    q, k = ((x * 2).round().clamp(-2, 2) / 2 for x in (inputs.q, inputs.k))
    heads, head_dim = q.shape[1], q.shape[3]
    wanted = torch.linspace(-0.5, 1, heads, dtype=torch.float64, device=q.device)  # in deviations
    sums = ((4 * wanted * head_dim**0.5).floor() + 0.5) / 4
    logits = q.double() @ k.double().repeat_interleave(heads // k.shape[1], 1).mT * head_dim**-0.5
    given = {**inputs.given, "theta": sums * head_dim**-0.5, "logits": logits}
    return dataclasses.replace(inputs, q=q, k=k, given=given)


def run_pattern(pattern: str, inputs: Inputs, *, with_lse: bool = False) -> Result:
    """Outputs and gradients of the compiled pattern, through autograd."""
    compiled = attncomp.compile(pattern)

    def attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        known = {**inputs.given, "scores": scores}
        tensors = {name: known[name] for name in compiled.tensors}
        return compiled(q, k, v, return_lse=True, **tensors)

    return run_with_gradients(attend, inputs, with_lse=with_lse)


def run_truth(pattern: str, inputs: Inputs, *, with_lse: bool = False) -> tuple[Result, Tensor]:
    """Float64 results of the definition, and which pairs are attended [B or 1, Hq or 1, Nq, Nk]."""
    graph = build(parse(pattern))
    exact = wide(inputs)
    heads, n_queries, n_keys = exact.q.shape[1], exact.q.shape[2], exact.k.shape[2]
    tensors = {**exact.given, "scores": exact.scores}
    gate = gate_matrix(graph, n_queries, n_keys, tensors, heads, exact.q.shape[0])
    mask = gate.to("cuda") > 0

    def attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        if "sparsek" not in pattern:
            return masked_attention(q, k, v, mask)
        return reference_attention(graph, q, k, v, {**exact.given, "scores": scores})

    return run_with_gradients(attend, exact, with_lse=with_lse), mask


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention over the pairs of the mask, in the dtype of its inputs; out and lse."""
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    logits = (q @ k.mT / math.sqrt(q.shape[3])).masked_fill(~mask, -torch.inf)
    lse = logits.logsumexp(-1)
    shift = torch.where(lse.isfinite(), lse, 0.0).unsqueeze(-1)
    return (logits - shift).exp() @ v, lse


def yardstick(inputs: Inputs, mask: Tensor) -> dict[str, float]:
    """Errors of torch's attention in the inputs' dtype on the same mask, against float64."""

    def attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        shared = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        full = mask.expand(q.shape[0], q.shape[1], -1, -1)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=full), scores

    def exact(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return masked_attention(q, k, v, mask)

    found = run_with_gradients(attend, inputs, with_lse=False)
    wanted = run_with_gradients(exact, wide(inputs), with_lse=False)
    return errors_of(found, wanted)


def errors_of(actual: Result, expected: Result) -> dict[str, float]:
    names = ("out", "dq", "dk", "dv")
    return {name: relative_error(getattr(actual, name), getattr(expected, name)) for name in names}


def assert_accurate(pattern: str, inputs: Inputs) -> None:
    """Within `RATIO` times the yardstick; lse and dscores within bounds of their own."""
    dtype = inputs.q.dtype
    expected, mask = run_truth(pattern, inputs)
    actual = run_pattern(pattern, inputs)
    errors = errors_of(actual, expected)
    limits = {
        name: RATIO * max(error, FLOOR[dtype]) for name, error in yardstick(inputs, mask).items()
    }
    errors["lse"], limits["lse"] = (actual.lse - expected.lse).abs().max().item(), LSE_BOUND
    errors["dscores"] = relative_error(actual.dscores, expected.dscores)
    limits["dscores"] = SCORES_BOUND[dtype]
    wrong = {
        name: (errors[name], limits[name]) for name in limits if not errors[name] <= limits[name]
    }
    assert not wrong, f"(error, limit) of {wrong}"


@pytest.mark.parametrize(
    ("pattern", "dtype", "heads", "groups", "head_dim", "value_dim", "length"), ACCURACY
)
def test_as_accurate_as_dense_attention(
    pattern: str,
    dtype: torch.dtype,
    heads: tuple[int, int],
    groups: int,
    head_dim: int,
    value_dim: int,
    length: int,
    generator: torch.Generator,
) -> None:
    shape = shape_of(heads, groups, head_dim, length)
    shape = dataclasses.replace(shape, value_dim=value_dim)
    inputs = cuda_inputs(shape, generator, dtype)
    assert_accurate(pattern, with_thresholds(inputs) if "threshold" in pattern else inputs)


@pytest.mark.parametrize("pattern", [LAGGED, "first(4) | window(64)"])
@pytest.mark.parametrize(("n_queries", "n_keys"), [(500, 2000), (1, 1000), (40, 41)])
def test_fewer_queries_than_keys(
    pattern: str, n_queries: int, n_keys: int, generator: torch.Generator
) -> None:
    shape = dataclasses.replace(shape_of(GQA, 2, 64, n_keys), n_queries=n_queries)
    assert_accurate(pattern, cuda_inputs(shape, generator, BF16))


@pytest.mark.parametrize(
    ("pattern", "n_queries", "n_keys"),
    [
        (LAGGED, 200, 200),
        ('sparsek(k=16, gate="logit") | window(8)', 130, 130),
        ('sparsek(k=16, gate="hard") - window(20)', 150, 150),  # with empty rows
        ("sparsek(k=20, lag=40)", 300, 200),
        ("window(30) - first(9)", 190, 100),
        ("window(4) - full", 40, 40),
    ],
)
def test_float32_is_exact(
    pattern: str, n_queries: int, n_keys: int, generator: torch.Generator
) -> None:
    """With full products, the gradient of lse and rows without keys."""
    assert torch.get_float32_matmul_precision() == "highest"
    shape = dataclasses.replace(shape_of(GQA, 2, 64, n_keys), n_queries=n_queries)
    inputs = cuda_inputs(shape, generator, FP32)
    expected, _ = run_truth(pattern, inputs, with_lse=True)
    assert_near(run_pattern(pattern, inputs, with_lse=True), expected, 1e-5)


STRIDED = {
    "heads inside rows": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "odd rows": lambda x: functional.pad(x, (0, 1))[..., :-1],
    "an odd start": lambda x: functional.pad(x.flatten(), (1, 0))[1:].view(x.shape),
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("pattern", [LAGGED, "window(100)"])
def test_strided_inputs(name: str, pattern: str, generator: torch.Generator) -> None:
    """What contiguous inputs give, but for the order of summation."""
    inputs = cuda_inputs(shape_of(GQA, 2, 64, 1000), generator, BF16)
    compiled = attncomp.compile(pattern)
    tensors = {"scores": inputs.scores} if compiled.tensors else {}
    results = []
    for lay in (lambda x: x, STRIDED[name]):
        # Leaves, so that autograd hands them on as they are laid out.
        leaves = [lay(x).detach().requires_grad_() for x in (inputs.q, inputs.k, inputs.v)]
        out = compiled(*leaves, **tensors)
        results.append((out, *torch.autograd.grad(out, leaves, lay(inputs.dout))))
    for wanted, found in zip(*results, strict=True):
        assert relative_error(found, wanted) < 2.0**-9


@pytest.mark.parametrize("pattern", [LAGGED, "sparsek(k=64, lag=200)", "window(100)"])
def test_nothing_reads_unwritten_memory(
    pattern: str, poison: None, generator: torch.Generator
) -> None:
    shape = shape_of(GQA, 2, 64, 1000)
    for sizes in ({}, {"n_queries": 300}, {"n_keys": 300}):
        inputs = cuda_inputs(dataclasses.replace(shape, **sizes), generator, BF16)
        result = run_pattern(pattern, inputs, with_lse=True)
        for name in ("out", "dq", "dk", "dv", "dscores"):
            assert getattr(result, name).isfinite().all(), name
        assert not result.lse.isnan().any()


@pytest.mark.parametrize("pattern", [LAGGED, "causal"])
def test_runs_are_equal_to_the_bit(pattern: str, generator: torch.Generator) -> None:
    inputs = cuda_inputs(shape_of(GQA, 2, 64, 4096), generator, BF16)
    first, *others = (run_pattern(pattern, inputs, with_lse=True) for _ in range(4))
    for other in others:
        for name in Result.__dataclass_fields__:
            assert torch.equal(getattr(other, name), getattr(first, name)), name


# Both have more than 2^31 elements; in the second a row alone may start beyond 2^31.
LARGE = {
    "contiguous": ((2, 32, 2**19 + 1000, 64), False),
    "heads inside rows": ((1, 32, 2**20 + 1000, 64), True),
}


@pytest.mark.parametrize("layout", LARGE)
def test_addresses_beyond_31_bits(layout: str) -> None:
    """The last positions of the last head against float64; a window needs no more of the input."""
    window, segment = 64, 512
    size, transposed = LARGE[layout]
    assert math.prod(size) > 2**31

    def normal() -> Tensor:
        batch, heads, length, width = size
        stored = (batch, length, heads, width) if transposed else size
        drawn = torch.randn(stored, dtype=BF16, device="cuda")
        return drawn.transpose(1, 2) if transposed else drawn

    q, k, v = (normal().requires_grad_() for _ in range(3))
    dout = normal()
    out = attncomp.compile(f"window({window})")(q, k, v)
    gradients = torch.autograd.grad(out, (q, k, v), dout)
    last = (slice(-1, None), slice(-1, None), slice(-segment, None))
    place = torch.arange(segment, device="cuda")
    distance = place[:, None] - place
    mask = (distance >= 0) & (distance < window)
    leaves = [x.detach()[last].double().requires_grad_() for x in (q, k, v)]
    wanted, _ = masked_attention(*leaves, mask)
    truth = torch.autograd.grad(wanted, leaves, dout[last].double())
    # Earlier rows see keys, and earlier keys are seen by rows, that the segment does not hold.
    whole = slice(2 * window, None)
    for found, exact in zip((out, *gradients), (wanted, *truth), strict=True):
        assert relative_error(found[last][:, :, whole], exact[:, :, whole]) < 2**-7
