"""What a module owns for the modifiers of its pattern, and what its call takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

import attncomp
from attncomp import patterns as P
from attncomp.errors import CallError
from attncomp.nn import PatternAttention

PATTERNS = (
    "window(5) with sink",
    'sparsek(k=4, scores="near") | window(3) with bias(3), alibi(slopes="m"), softcap(20), sink',
    "heads{0:2 -> (window(4) with sink), 2: -> (sparsek(3) with bias(2), scale(0.5))}",
    "heads{0:2 -> window(4), 2: -> documents} & causal with alibi, sink",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_learns_as_the_reference_does(generator: Generator, pattern: str) -> None:
    """All parameters get the gradients of dense attention by the definition."""
    module = PatternAttention(64, 4, pattern, kv_heads=2).double()
    for parameter in module.modifiers.parameters():
        parameter.data.copy_(torch.rand(parameter.shape, generator=generator))
    dense = PatternAttention(64, 4, pattern, kv_heads=2, backend="reference").double()
    dense.load_state_dict(module.state_dict())
    x = torch.randn(2, 19, 64, dtype=torch.float64, generator=generator)
    ids = torch.randint(0, 3, (2, 19), generator=generator)
    given = {"documents": ids} if "documents" in pattern else {}
    out, expected = module(x, **given), dense(x, **given)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)
    dout = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    found = torch.autograd.grad(out, list(module.parameters()), dout)
    truths = torch.autograd.grad(expected, list(dense.parameters()), dout)
    for name, grad, truth in zip(dict(module.named_parameters()), found, truths, strict=True):
        assert truth.any(), name
        torch.testing.assert_close(grad, truth, rtol=1e-8, atol=1e-9, msg=name)


def test_initial_values() -> None:
    tree = P.window(4).with_(P.alibi("m"), P.bias(3), P.sink(), P.softcap(30.0))
    state = PatternAttention(48, 6, tree).state_dict()
    owned = {name: value for name, value in state.items() if name.startswith("modifiers.")}
    # The slopes of four heads, then every second one of eight.
    slopes = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    assert owned.keys() == {"modifiers.m", "modifiers.bias", "modifiers.sink"}
    assert owned["modifiers.m"].tolist() == slopes
    assert torch.equal(owned["modifiers.bias"], torch.zeros(6, 5))
    assert torch.equal(owned["modifiers.sink"], torch.zeros(6))


def test_parameters_stand_where_others_do() -> None:
    """On the device and in the dtype that torch makes tensors with."""
    pattern = 'window(4) with alibi(slopes="m"), bias(3), sink'
    with torch.device("meta"):
        module = PatternAttention(64, 4, pattern)
    assert all(parameter.is_meta for parameter in module.parameters())
    torch.set_default_dtype(torch.float64)
    try:
        module = PatternAttention(64, 4, pattern)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}


def test_a_sink_of_0_is_one_more_key_without_a_value(generator: Generator) -> None:
    """Softmax off by one, as the module starts."""
    sunk = PatternAttention(64, 4, "window(1) with sink")
    plain = PatternAttention(64, 4, "window(1)")
    assert not plain.modifiers
    plain.load_state_dict(sunk.state_dict(), strict=False)
    x = torch.zeros(1, 3, 64)
    torch.nn.init.eye_(sunk.value.weight)
    torch.nn.init.eye_(plain.value.weight)
    x[0, :, :16] = torch.randn(3, 16, generator=generator)
    for module in (sunk, plain):
        torch.nn.init.zeros_(module.query.weight)
        torch.nn.init.eye_(module.out.weight)
    torch.testing.assert_close(sunk(x), plain(x) / 2)


def test_patterns_of_a_library(tmp_path: Path, generator: Generator) -> None:
    path = tmp_path / "my.attn"
    path.write_text("pattern mine(w: int) = window(w) with sink")
    library = attncomp.load(path)
    module = PatternAttention(64, 4, "mine(3)", library=library)
    assert str(module.attention) == "window(3) with sink" and "sink" in module.modifiers
    x = torch.randn(1, 5, 64, generator=generator)
    assert module.mask(x).sum() == 12


def test_masks_of_heads_and_rows(generator: Generator) -> None:
    x = torch.randn(2, 6, 64, generator=generator)
    module = PatternAttention(64, 4, "where(q - k < h + 2 * b) & causal")
    assert module.mask(x).sum((2, 3)).tolist() == [[0, 6, 11, 15], [11, 15, 18, 20]]


def test_tensors_of_the_call(generator: Generator) -> None:
    module = PatternAttention(64, 4, "topk_blocks(k=2, size=4) & causal")
    x = torch.randn(2, 20, 64, generator=generator)
    scores = torch.randn(1, 4, 5, 5, generator=generator)
    assert module.score_network is None
    assert module(x, block_scores=scores).shape == x.shape
    assert module.mask(x, block_scores=scores).shape == (2, 4, 20, 20)
    message = (
        "block_scores: expected tensor [2 or 1, H dividing 4 heads, 5, 5], found none "
        "(pattern 'topk_blocks(k=2, size=4) & causal')"
    )
    with pytest.raises(CallError, match=f"^{re.escape(message)}$"):
        module(x)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            'window(3) with sink(logits="items")',
            "pattern: expected another name for tensor 'items': modules have it",
        ),
        (
            'sparsek(3, scores="far") | sparsek(3)',
            "pattern: expected one tensor of scores at most, found far, scores in "
            "'sparsek(k=3, scores=\"far\") | sparsek(k=3)'",
        ),
    ],
)
def test_patterns_without_a_module(pattern: str, message: str) -> None:
    options: dict[str, Any] = {"dim": 64, "heads": 4, "pattern": pattern}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PatternAttention(**options)
