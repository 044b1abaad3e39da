"""The attention module against dense attention under the same gates, and what it refuses."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from attncomp.errors import PatternError
from attncomp.nn import PatternAttention, ScoreNetwork, rotate

PATTERN = "sparsek(k=4, lag=3) | window(3)"


def inputs(generator: Generator, n: int = 19) -> Tensor:
    return torch.randn(2, n, 64, dtype=torch.float64, generator=generator)


def dense(module: PatternAttention, x: Tensor) -> Tensor:
    """What the module means: a softmax over gated products of projected, turned rows."""

    def rows(projection: torch.nn.Module, heads: int) -> Tensor:
        return projection(x).view(2, x.shape[1], heads, module.head_dim).transpose(1, 2)

    shared = module.heads // module.kv_heads
    query = rotate(rows(module.query, module.heads), module.rotary_dim)
    key = rotate(rows(module.key, module.kv_heads), module.rotary_dim)
    key, value = (
        tensor.repeat_interleave(shared, 1) for tensor in (key, rows(module.value, module.kv_heads))
    )
    gate = module.mask(x)
    gate = gate.repeat_interleave(module.heads // gate.shape[1], 1)
    logits = gate * (query @ key.mT) / module.head_dim**0.5
    weight = logits.masked_fill(gate == 0, -torch.inf).softmax(-1) * gate
    return module.out((weight @ value).transpose(1, 2).reshape(2, x.shape[1], -1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_heads": 2},
        {"kv_heads": 2, "score_groups": 1},
        {"kv_heads": 1, "score_groups": 4},
        {"rotary_dim": 0},
        {"rotary_dim": 6, "head_dim": 24},
        {"score_network": ScoreNetwork(64, 2, hidden=8, slope=0.01)},
        {"kv_heads": 2, "score_network": ScoreNetwork(64, 2, key_norm=True)},
    ],
    ids=str,
)
def test_agrees_with_dense_attention(generator: Generator, options: dict[str, Any]) -> None:
    module = PatternAttention(64, 4, PATTERN, **options).double()
    x = inputs(generator).requires_grad_()
    out, expected = module(x), dense(module, x)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    dout = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    wanted = (x, *module.parameters())
    found = torch.autograd.grad(out, wanted, dout)
    truths = torch.autograd.grad(expected, wanted, dout)
    names = ("x", *dict(module.named_parameters()))
    for name, grad, truth in zip(names, found, truths, strict=True):
        error = (grad - truth).abs().max() / truth.abs().max()
        assert error < 1e-7, name


def test_crisp_pattern_has_no_score_network(generator: Generator) -> None:
    module = PatternAttention(64, 4, "window(5)").double()
    x = inputs(generator)
    assert module.score_network is None
    assert module.mask(x).shape == (1, 1, 19, 19)
    torch.testing.assert_close(module(x), dense(module, x), rtol=0, atol=1e-9)


def test_causal(generator: Generator) -> None:
    module = PatternAttention(64, 4, PATTERN).double()
    x, later = inputs(generator), inputs(generator)
    later[:, :10] = x[:, :10]
    torch.testing.assert_close(module(x)[:, :10], module(later)[:, :10], rtol=0, atol=1e-12)


def test_bfloat16_under_autocast(generator: Generator) -> None:
    module = PatternAttention(64, 4, PATTERN)
    x = inputs(generator).float()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), module(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_heads": 2, "score_network": ScoreNetwork(64, 2, hidden=8, slope=0.01)},
    ],
    ids=["linear", "hidden"],
)
def test_low_precision_module(
    generator: Generator, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    """Weights, states and gradients in 16 bits, the scores in float32: nothing is lost twice."""
    # A copy: the score network is one object for all dtypes, and keeps its gradients.
    module = PatternAttention(64, 4, PATTERN, **copy.deepcopy(options)).to(dtype)
    exact = copy.deepcopy(module).double()
    x = inputs(generator).to(dtype).requires_grad_()
    twin = x.detach().double().requires_grad_()
    out, expected = module(x), exact(twin)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=0.05, atol=0.05)
    dout = torch.randn(out.shape, generator=generator).to(dtype)
    out.backward(dout)
    expected.backward(dout.double())
    assert x.grad is not None and x.grad.dtype == dtype
    assert twin.grad is not None
    assert (x.grad.double() - twin.grad).norm() < 0.1 * twin.grad.norm()
    for (name, parameter), truth in zip(module.named_parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None and parameter.grad.dtype == dtype, name
        error = (parameter.grad.double() - truth.grad).norm()
        assert error < 0.1 * truth.grad.norm(), name


def test_rotation_depends_on_distance_alone(generator: Generator) -> None:
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64, generator=generator)
    turned_query, turned_key = (rotate(row.expand(1, 1, 30, 16), 12)[0, 0] for row in (query, key))
    product = turned_query @ turned_key.T
    for distance in (-7, 0, 12):
        diagonal = product.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert not torch.allclose(product.diagonal(0)[:18], product.diagonal(12))
    torch.testing.assert_close(turned_query[:, 12:], query[0, 0].expand(30, 16)[:, 12:])


def test_rotation_of_a_plane() -> None:
    turned = rotate(torch.tensor([1.0, 0.0]).expand(1, 1, 4, 2), 2)[0, 0]
    angle = torch.arange(4.0)
    torch.testing.assert_close(turned, torch.stack([angle.cos(), angle.sin()], 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "expected heads that divide dim=64, found heads=5"),
        ({"kv_heads": 3}, "expected kv_heads that divide heads=4, found kv_heads=3"),
        ({"kv_heads": 0}, "expected kv_heads that divide heads=4, found kv_heads=0"),
        ({"rotary_dim": 3}, "rotary_dim: expected an even number from 0 to 16, found 3"),
        ({"rotary_dim": 18}, "rotary_dim: expected an even number from 0 to 16, found 18"),
        ({"score_groups": 3}, "expected score groups that divide heads=4, found score groups=3"),
        (
            {"score_groups": 4, "score_network": ScoreNetwork(64, 2)},
            "score_groups: expected 2, as score_network has, found 4",
        ),
        (
            {"pattern": "window(8)", "score_groups": 2},
            "score_groups, score_network: expected none for 'window(8)', "
            "which selects nothing by scores",
        ),
    ],
)
def test_bad_sizes(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"dim": 64, "heads": 4, "pattern": PATTERN, **options}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PatternAttention(**arguments)


def test_bad_pattern() -> None:
    with pytest.raises(PatternError, match="unknown pattern 'windw'"):
        PatternAttention(64, 4, "windw(8)")


@pytest.mark.parametrize("method", ["forward", "mask"])
@pytest.mark.parametrize("pattern", [PATTERN, "window(3)"])
@pytest.mark.parametrize("shape", [(5, 64), (64,), (2, 5, 32), (1, 2, 5, 64)])
def test_bad_input(method: str, pattern: str, shape: tuple[int, ...]) -> None:
    module = PatternAttention(64, 4, pattern)
    message = f"x: expected [B, N, 64], found {list(shape)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        getattr(module, method)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "dims", "message"),
    [
        ((1, 1, 4, 16), 3, "dims: expected an even number from 0 to 16, found 3"),
        ((1, 1, 4, 16), 18, "dims: expected an even number from 0 to 16, found 18"),
        ((1, 1, 4, 16), -2, "dims: expected an even number from 0 to 16, found -2"),
        ((4, 16), 0, "tensor: expected [B, H, N, D], found [4, 16]"),
    ],
)
def test_bad_rotation(shape: tuple[int, ...], dims: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rotate(torch.zeros(shape), dims)
