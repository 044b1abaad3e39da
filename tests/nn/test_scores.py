"""Score networks: what they compute, that they never look ahead, and what they refuse."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from attncomp.nn import ScoreNetwork, normalise_over_time

DIM, GROUPS = 12, 3


def states(generator: Generator, n: int = 20, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, n, DIM, dtype=dtype, generator=generator)


def network(**options: Any) -> ScoreNetwork:
    return ScoreNetwork(DIM, GROUPS, **options).double()


def test_normalised_by_the_prefix(generator: Generator) -> None:
    raw = 5 + 3 * torch.randn(2, 3, 30, dtype=torch.float64, generator=generator)
    found = normalise_over_time(raw)
    for j in range(30):
        prefix = raw[..., : j + 1]
        deviation = (prefix.var(-1, correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(found[..., j], (raw[..., j] - prefix.mean(-1)) / deviation)


def test_normalisation_keeps_precision_beside_a_large_offset(generator: Generator) -> None:
    raw = torch.randn(1, 1, 4000, dtype=torch.float64, generator=generator)
    shifted = normalise_over_time(raw + 1e6)
    torch.testing.assert_close(shifted, normalise_over_time(raw), rtol=0, atol=1e-6)
    assert normalise_over_time(torch.full((1, 1, 50), 7.25)).eq(0).all()


def test_normalised_in_float32_at_least() -> None:
    assert normalise_over_time(torch.zeros(1, 1, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_normalisation_gradient(generator: Generator) -> None:
    raw = torch.randn(1, 2, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(normalise_over_time, (raw,))


@pytest.mark.parametrize(
    "options",
    [{}, {"hidden": 5}, {"slope": 0.01}, {"normalise": False}, {"key_norm": True}],
    ids=str,
)
def test_never_looks_ahead(generator: Generator, options: dict[str, Any]) -> None:
    scores = network(**options)
    x, later = states(generator), states(generator)
    key, later_key = (torch.randn(2, 6, 20, 8, dtype=torch.float64) for _ in range(2))
    cut = 11
    later[:, :cut], later_key[:, :, :cut] = x[:, :cut], key[:, :, :cut]
    keys = (key, later_key) if scores.key_norm else (None, None)
    before, after = scores(x, keys[0]), scores(later, keys[1])
    assert before.shape == (2, GROUPS, 20)
    torch.testing.assert_close(before[..., :cut], after[..., :cut], rtol=0, atol=0)
    assert not torch.equal(before[..., cut:], after[..., cut:])


def test_spread_of_untrained_scores_is_about_one(generator: Generator) -> None:
    scores = network()(states(generator, n=4000))
    assert (scores[..., 100:].std(-1) - 1).abs().max() < 0.1


def test_slope_prefers_recent_keys(generator: Generator) -> None:
    plain, sloped = network(), network(slope=0.5)
    sloped.load_state_dict(plain.state_dict())
    x = states(generator)
    rise = 0.5 * torch.arange(20, dtype=torch.float64)
    torch.testing.assert_close(sloped(x) - plain(x), rise.expand(2, GROUPS, 20))


def test_key_norm_ranks_small_keys_first(generator: Generator) -> None:
    scores = network(key_norm=True, normalise=False)
    key = torch.randn(2, 6, 20, 8, dtype=torch.float64, generator=generator)
    expected = -key.norm(dim=3).unflatten(1, (GROUPS, 2)).mean(2)
    torch.testing.assert_close(scores(states(generator), key), expected)


def test_float32_under_autocast(generator: Generator) -> None:
    scores = ScoreNetwork(DIM, GROUPS, hidden=4)
    x = states(generator, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = scores(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, scores(x))


def test_low_precision_states_give_float32(generator: Generator) -> None:
    assert ScoreNetwork(DIM, GROUPS)(states(generator, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options", [{}, {"hidden": 5}, {"normalise": False}, {"key_norm": True}], ids=str
)
def test_low_precision_weights_give_float32(
    generator: Generator, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    """Only the weights are rounded: the scores are those of a float32 network with such weights."""
    low = ScoreNetwork(DIM, GROUPS, **options).to(dtype)
    x = states(generator, dtype=torch.float32)
    key = torch.randn(2, 6, 20, 8, generator=generator).to(dtype) if low.key_norm else None
    exact = copy.deepcopy(low).float()
    found, expected = low(x, key), exact(x, None if key is None else key.float())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    found.square().sum().backward()
    for name, parameter in low.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == dtype, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dim": 0, "groups": 1},
            "expected dim, groups and hidden of at least 1, found dim=0, groups=1, hidden=None",
        ),
        (
            {"dim": 4, "groups": 1, "hidden": 0},
            "expected dim, groups and hidden of at least 1, found dim=4, groups=1, hidden=0",
        ),
        ({"dim": 4, "groups": 1, "slope": float("nan")}, "expected a finite slope, found nan"),
    ],
)
def test_bad_sizes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ScoreNetwork(**options)


@pytest.mark.parametrize(
    ("key_norm", "x_shape", "key_shape", "message"),
    [
        (False, (2, 5, 3), None, "x: expected [B, N, 12], found [2, 5, 3]"),
        (False, (5, DIM), None, "x: expected [B, N, 12], found [5, 12]"),
        (False, (2, 5, DIM), (2, 3, 5, 8), "key: expected none, for key_norm=False"),
        (True, (2, 5, DIM), None, "key: expected the keys, for key_norm=True"),
        (
            True,
            (2, 5, DIM),
            (2, 4, 5, 8),
            "key: expected [2, Hk, 5, D] with Hk a multiple of 3, found [2, 4, 5, 8]",
        ),
        (
            True,
            (2, 5, DIM),
            (2, 3, 6, 8),
            "key: expected [2, Hk, 5, D] with Hk a multiple of 3, found [2, 3, 6, 8]",
        ),
    ],
)
def test_bad_inputs(
    key_norm: bool, x_shape: tuple[int, ...], key_shape: tuple[int, ...] | None, message: str
) -> None:
    key = None if key_shape is None else torch.zeros(key_shape)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ScoreNetwork(DIM, GROUPS, key_norm=key_norm)(torch.zeros(x_shape), key)
