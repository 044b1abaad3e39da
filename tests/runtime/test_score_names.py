"""Selections that rank keys by tensors of their own, each with its own number of groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import assert_close
from torch import Generator, Tensor
from triton_support import interpreter

import attncomp
from attncomp import patterns as P
from attncomp.errors import ArgumentRangeError, PatternError, TensorNameError, UnknownTensorError
from attncomp.frontend.library import Library
from attncomp.inspection.specs import draw_example
from attncomp.source import Source

UNION = 'sparsek(k=5, scores="near") | sparsek(k=7, lag=3, scores="far") | window(3)'
MEET = 'sparsek(k=9, scores="near") & sparsek(k=8, scores="far") | sparsek(k=2)'


def call_inputs(generator: Generator, groups: dict[str, int], n: int = 41) -> dict[str, Tensor]:
    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    tensors = {"q": normal(2, 12, n, 16), "k": normal(2, 3, n, 16), "v": normal(2, 3, n, 16)}
    return tensors | {name: normal(2, count, n) for name, count in groups.items()}


def run(spec: str, backend: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """out, lse and the gradients of all inputs, for gradients that depend on out and lse."""
    leaves: dict[str, Any] = {name: t.clone().requires_grad_() for name, t in given.items()}
    pattern = attncomp.compile(spec, backend=backend)
    out, lse = pattern(**leaves, return_lse=True)
    (out.sin().sum() + lse.cos().sum()).backward()
    return {"out": out, "lse": lse} | {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("groups", [(1, 1, 1), (3, 12, 1), (4, 6, 2)])
@pytest.mark.parametrize("spec", [UNION, MEET])
def test_values_and_gradients(spec: str, groups: tuple[int, ...], generator: Generator) -> None:
    names = attncomp.compile(spec).tensors
    inputs = call_inputs(generator, dict(zip(names, groups, strict=False)))
    expected = run(spec, "reference", inputs)
    for name, actual in run(spec, "torch", inputs).items():
        assert_close(actual, expected[name], name=name, atol=1e-11, rtol=1e-9)
        assert expected[name].abs().sum() > 0


def test_a_union_ranks_by_each(generator: Generator) -> None:
    """The gate of a union is the larger of those of its members alone, each by its own tensor."""
    inputs = call_inputs(generator, {"near": 2, "far": 3}, 24)
    near, far = inputs["near"], inputs["far"]
    both = attncomp.compile('sparsek(k=4, scores="near") | sparsek(k=6, scores="far")')
    one, other = (attncomp.compile(spec) for spec in ("sparsek(k=4)", "sparsek(k=6)"))
    expected = torch.maximum(
        one.mask(24, scores=near).repeat_interleave(3, 1),
        other.mask(24, scores=far).repeat_interleave(2, 1),
    )
    assert torch.equal(both.mask(24, near=near, far=far), expected)
    assert not torch.equal(both.mask(24, near=near, far=far.flip(-1)), expected)


@pytest.mark.parametrize("spec", [UNION, MEET])
def test_triton(spec: str, generator: Generator) -> None:
    """Of a union each walk feeds both gradients, whose groups need not be those of the walk."""
    names = attncomp.compile(spec).tensors
    inputs = call_inputs(generator, dict(zip(names, (6, 4, 1), strict=False)), 27)
    inputs = {name: t.float().double() for name, t in inputs.items()}
    expected = run(spec, "reference", inputs)
    with interpreter():
        found = run(spec, "triton", {name: t.float() for name, t in inputs.items()})
    for name, actual in found.items():
        assert_close(actual, expected[name], name=name, atol=2e-5, rtol=2e-5)


def test_one_name_is_as_good_as_another(generator: Generator) -> None:
    inputs = call_inputs(generator, {"scores": 3})
    expected = run("sparsek(k=6) | window(4)", "torch", inputs)
    inputs["near"] = inputs.pop("scores")
    found = run('sparsek(k=6, scores="near") | window(4)', "torch", inputs)
    for name, actual in found.items():
        assert torch.equal(actual, expected["scores" if name == "near" else name])


def test_what_a_pattern_says_of_its_tensors() -> None:
    pattern = attncomp.compile(UNION)
    assert str(pattern) == UNION
    assert pattern.shapes == {"near": "[B, G, Nk]", "far": "[B, G, Nk]"}
    assert pattern.integer_tensors == ()
    assert str(P.sparsek(5, scores="near")) == 'sparsek(k=5, scores="near")'
    assert str(P.sparsek_window(k=2, size=1, scores="far")) == (
        'sparsek(k=2, scores="far") | window(1)'
    )
    assert "near [B, G, Nk], far [B, G, Nk]" in pattern.explain()
    labels = [sweep.label for sweep in pattern.plan.sweeps]  # as one would write them
    assert any(label.startswith('sparsek(k=7, lag=3, scores="far")') for label in labels)
    with pytest.raises(UnknownTensorError, match=r"found 'neer' \(did you mean 'near'\?\)"):
        pattern.mask(4, neer=torch.zeros(1, 1, 4), far=torch.zeros(1, 1, 4))


def test_a_picture_draws_each_tensor() -> None:
    from attncomp.pictures.request import pictured

    picture = pictured(P.sparsek(3, scores="near") | P.sparsek(3, scores="far"), 32)
    assert picture.caption.endswith("; near, far standard normal, seed 0")
    assert int((picture.gate[-1] > 0).sum()) > 3  # the two rank differently


def test_definitions_pass_names_on() -> None:
    library = Library.of(
        Source(
            "near.attn",
            'pattern p(k: int, scores: str = "scores") = sparsek(k, scores=scores)\n'
            'example p(k=1, scores="near") | p(1, "far") given near=[1, 0, 0], '
            'far=[0, 0, 9] = """\n'
            "#..\n#..\n#.#\n"
            '"""\n',
        )
    )
    (example,) = library.examples
    assert str(example.expand()) == 'sparsek(k=1, scores="near") | sparsek(k=1, scores="far")'
    assert draw_example(example) == example.picture


@pytest.mark.parametrize("name", ["", "a b", "1st", "a.b", "ü", "class", "with"])
def test_no_name(name: str) -> None:
    with pytest.raises(ArgumentRangeError) as caught:
        attncomp.compile(f'sparsek(k=4, scores="{name}")')
    assert caught.value.message == (
        f"argument 'scores' of sparsek must be a name: letters, digits and _, found \"{name}\""
    )
    assert caught.value.span is not None and caught.value.span.text == f'"{name}"'


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("q", "an argument of every call"),
        ("h", "an index of the pair"),
        ("v", "an argument of every call"),
        ("scale", "an argument of every call"),
        ("heads", "an argument of every call"),
        ("tile", "an argument of every call"),
        ("given", "a reserved word"),
        ("segment", "a tensor of scores"),
    ],
)
def test_names_that_are_taken(name: str, use: str) -> None:
    with pytest.raises(TensorNameError) as caught:
        attncomp.compile(f'window(4) | sparsek(k=4, scores="{name}") & where(segment[q] == 1)')
    assert caught.value.message == f"a tensor cannot be called '{name}': that is {use}"
    assert caught.value.span is not None


def test_a_name_of_another_type() -> None:
    with pytest.raises(PatternError) as caught:
        attncomp.compile("sparsek(k=4, scores=3)")
    assert caught.value.message == "argument 'scores' of sparsek must be a string, found 3"
