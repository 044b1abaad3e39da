"""Groups of heads with modifiers of their own, or with tables of blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import assert_close
from modifier_support import run
from torch import Generator, Tensor
from triton_support import interpreter

import attncomp
from attncomp.errors import (
    CallError,
    ModifiedOperandError,
    OptionError,
    PatternError,
    RepeatedModifierError,
    TensorNameError,
)
from attncomp.frontend.parser import parse

OWN = "heads{0:5 -> (window(8) with alibi, sink), 5: -> causal}"
AROUND = "heads{0:5 -> window(8), 5: -> causal | window(before=0, after=3)} with softcap(3), alibi"
BOTH = """heads{
    0:3 -> (window(8) with sink, scale(0.5)),
    3:6 -> (sparsek(k=4) | window(2) with alibi(slopes="slopes"), sink),
    6: -> causal,
} with softcap(4), bias(6)"""
NESTED = "heads{0:6 -> (heads{0:2 -> (full with sink), 2: -> causal} with scale(1)), 6: -> full}"
SELECTED = 'heads{0:3 -> sparsek(k=4, gate="logit"), 3: -> full} with bias(5), sink(logits="extra")'
MASKS = "heads{0:3 -> blocks(8) & causal, 3:6 -> blocks(8) - window(3), 6: -> window(9)}"
TOP = """heads{
    0:3 -> topk_blocks(k=2, size=16) & causal,
    3: -> topk_blocks(k=1, size=16) | window(4),
}"""
WALKED = """heads{
    0:4 -> blocks(16) & causal with sink
    , 4:6 -> (topk_blocks(k=2, size=16) & causal with alibi),
    6: -> random_blocks(count=1, size=16) | window(5),
}""".replace("blocks(16) & causal with sink\n   ", "(blocks(16) & causal with sink)")
SHIFTED = """heads{
    0:3 -> where(block_mask[b, h, q // 8, k // 8] != 0 and h < 2),
    3: -> where(block_mask[b, h, q // 8, k // 8] == 0 or block_mask[b, 0, q // 8, k // 8] != 0),
}"""
# pattern: query heads, KV heads, heads of the tables, positions of their blocks
CASES: dict[str, tuple[str, int, int, int, int]] = {
    "own": (OWN, 8, 2, 1, 8),
    "own, six heads": (OWN, 6, 6, 1, 8),
    "around": (AROUND, 8, 2, 1, 8),
    "both": (BOTH, 12, 4, 1, 8),
    "nested": (NESTED, 8, 1, 1, 8),
    "selected": (SELECTED, 6, 2, 1, 8),
    "masks of one head": (MASKS, 8, 2, 1, 8),
    "masks of KV heads": (MASKS, 8, 2, 2, 8),
    "masks of all heads": (MASKS, 8, 2, 8, 8),
    "best blocks of one head": (TOP, 6, 2, 1, 16),
    "best blocks of KV heads": (TOP, 6, 2, 2, 16),
    "best blocks, cut": (TOP, 8, 2, 4, 16),
    "walks": (WALKED, 8, 4, 4, 16),
    "mixed subscripts": (SHIFTED, 8, 2, 4, 8),
}


def call_inputs(
    case: str, generator: Generator, n: int = 45
) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """The pattern, the inputs with gradients and those without."""
    spec, heads, kv_heads, table_heads, size = CASES[case]

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=generator, dtype=torch.float64)

    tensors = {"q": normal(2, heads, n, 16), "k": normal(2, kv_heads, n + 3, 16)}
    tensors["v"] = normal(2, kv_heads, n + 3, 24)
    n_blocks = -(-(n + 3) // size)
    table = normal(2, table_heads, n_blocks, n_blocks)
    given = {"block_mask": (table > 0).int(), "block_scores": table}
    pattern = attncomp.compile(spec)
    for name, shape in pattern.shapes.items():
        if name not in given:
            width = int(shape[5:-1]) if shape.startswith("[Hq, ") else 0
            sizes = [heads, width] if width else [heads]
            tensors[name] = normal(2, kv_heads, n + 3) if name == "scores" else normal(*sizes)
    return spec, tensors, {name: given[name] for name in pattern.tensors if name in given}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, generator: Generator) -> None:
    spec, tensors, given = call_inputs(case, generator)
    expected = run(spec, "reference", tensors, given)
    for name, actual in run(spec, "torch", tensors, given).items():
        assert_close(actual, expected[name], name=name, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("case", ["both", "walks"])
def test_triton(case: str, generator: Generator) -> None:
    spec, tensors, given = call_inputs(case, generator, 21)
    tensors = {name: t.float().double() for name, t in tensors.items()}
    given = {n: t.float() if t.is_floating_point() else t for n, t in given.items()}
    expected = run(spec, "reference", tensors, given)
    with interpreter():
        found = run(spec, "triton", {name: t.float() for name, t in tensors.items()}, given)
    for name, actual in found.items():
        # float32: sums that cancel are as exact as their tensor's largest one
        atol = 5e-5 * max(1.0, float(expected[name].detach().abs().max()))
        assert_close(actual, expected[name], name=name, atol=atol, rtol=5e-5)


def test_each_group_alone(generator: Generator) -> None:
    """The reference's own heads: those of the group's pattern on tensors of these heads."""
    spec, tensors, _ = call_inputs("own, six heads", generator)
    found = attncomp.compile(spec, backend="reference")(**tensors)  # type: ignore[arg-type]
    q, k, v, sink = (tensors[name] for name in ("q", "k", "v", "sink"))
    slopes = torch.tensor([2**-2, 2**-4, 2**-6, 2**-8, 2**-1], dtype=torch.float64)
    first = attncomp.compile('window(8) with alibi(slopes="m"), sink', backend="reference")
    assert_close(
        found[:, :5], first(q[:, :5], k[:, :5], v[:, :5], m=slopes, sink=sink[:5]), name="first"
    )
    second = attncomp.compile("causal", backend="reference")
    assert_close(found[:, 5:], second(q[:, 5:], k[:, 5:], v[:, 5:]), name="second")


@pytest.mark.parametrize("case", ["both", "walks"])
def test_compiles_without_a_break(case: str, generator: Generator) -> None:
    spec, tensors, given = call_inputs(case, generator)
    pattern = attncomp.compile(spec, backend="torch")

    def step(**inputs: Any) -> Tensor:
        out: Tensor = pattern(**inputs, **given)
        return out * 2

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    inputs: dict[str, Any] = tensors
    assert_close(compiled(**inputs), step(**inputs), name="out", atol=1e-12)


def test_what_it_says() -> None:
    pattern = attncomp.compile(BOTH)
    text = (
        "heads{0:3 -> (window(8) with scale(0.5), sink), 3:6 -> (sparsek(k=4) | window(2) "
        'with alibi(slopes="slopes"), sink), 6: -> causal} with softcap(4), bias(6)'
    )
    assert str(pattern) == text and attncomp.compile(text) == pattern
    assert parse(text) == parse(BOTH)
    assert pattern.shapes == {
        "scores": "[B, G, Nk]",
        "bias": "[Hq, 11]",
        "sink": "[Hq]",
        "slopes": "[Hq]",
    }
    assert [plan.pattern for plan in pattern.plans.values()] == [
        "window(8) with scale(0.5), softcap(4), bias(6), sink",
        'sparsek(k=4) | window(2) with softcap(4), alibi(slopes="slopes"), bias(6), sink',
        "causal with softcap(4), bias(6)",
    ]
    assert "logits       softcap 4.0, bias bias of 6 distances\n" in pattern.explain()


def test_masks_know_no_modifiers() -> None:
    modified, plain = attncomp.compile(OWN), attncomp.compile("heads{0:5 -> window(8), 5: -> full}")
    assert modified.mask(20, heads=7)[:, :5].equal(plain.mask(20, heads=7)[:, :5])


@pytest.mark.parametrize(
    ("spec", "error", "message", "line"),
    [
        (
            "heads{0:4 -> (full with sink), 4: -> causal} & causal",
            ModifiedOperandError,
            "a pattern with modifiers cannot be combined with others",
            "  |               ^^^^^^^^^^^^^^ ",
        ),
        (
            "heads{0:4 -> (full with softcap(2)), 4: -> causal} with softcap(3)",
            RepeatedModifierError,
            "modifier 'softcap' is given twice",
            "  | " + " " * 56 + "^^^^^^^^^^",
        ),
        (
            "heads{0:4 -> (full with bias(2)), 4: -> (full with bias(3))}",
            TensorNameError,
            "a tensor cannot be called 'bias': that is the tensor of modifier 'bias'",
            "  | " + " " * 51 + "^^^^^^^",
        ),
    ],
)
def test_mistakes(spec: str, error: type[PatternError], message: str, line: str) -> None:
    with pytest.raises(error) as caught:
        attncomp.compile(spec)
    assert caught.value.message == message
    assert any(found.startswith(line.rstrip()) for found in str(caught.value).splitlines())


def test_a_group_with_a_scale_takes_none() -> None:
    spec = "heads{0:2 -> (full with scale(1)), 2: -> causal}"
    q = torch.zeros(1, 4, 4, 16)
    with pytest.raises(OptionError) as caught:
        attncomp.compile(spec)(q, q, q, scale=0.5)
    assert str(caught.value) == (
        f"scale: expected none, as the pattern has its own, found 0.5 (pattern '{spec}')"
    )
    with pytest.raises(CallError, match=r"sink: expected shape \[4\], found \[2\]"):
        attncomp.compile("heads{0:2 -> (full with sink), 2: -> full}")(q, q, q, sink=q[0, :2, 0, 0])
