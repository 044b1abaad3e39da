"""Calls of patterns with modifiers: their tensors, their gradients through torch, mistakes."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch._dynamo
from dense import Shape, assert_close, random_inputs
from torch import Tensor

import attncomp
from attncomp import errors
from attncomp import patterns as P
from attncomp.runtime.inputs import modifier_state
from attncomp.runtime.program import problem_text

SPEC = 'sparsek(k=4) | window(4) with softcap(2), alibi(slopes="slopes"), bias(3), sink'
SPECS = (
    SPEC,
    "window(5) with sink",
    "causal with alibi, sink",
    'sparsek(k=6, gate="hard") | window(2) with bias(4), scale(0.2)',
    "window(3) - window(8) with bias(2), sink",
)
SHAPE = Shape(
    batch=2,
    query_heads=4,
    kv_heads=2,
    groups=2,
    n_queries=20,
    n_keys=26,
    head_dim=16,
    value_dim=24,
)
OPS = torch.ops.attncomp


def given(
    pattern: attncomp.CompiledPattern,
    generator: torch.Generator,
    shape: Shape = SHAPE,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """q, k, v and all that a call needs, which want gradients."""
    inputs = random_inputs(shape, generator, dtype=dtype)
    tensors = {"q": inputs.q, "k": inputs.k, "v": inputs.v}
    for name, layout in pattern.shapes.items():
        if name == "scores":
            tensors[name] = inputs.scores
            continue
        width = layout.removeprefix("[Hq").strip(", ]")
        size = (shape.query_heads, int(width)) if width else (shape.query_heads,)
        tensors[name] = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def gradients(results: tuple[Tensor, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    total = results[0].square().sum() + results[1].nan_to_num(0, 0, 0).sin().sum()
    found = torch.autograd.grad(
        total, list(tensors.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(tensors, found, strict=True))


@pytest.mark.parametrize("spec", SPECS)
def test_every_gradient_is_the_references(spec: str, generator: torch.Generator) -> None:
    tensors = given(attncomp.compile(spec), generator)
    results, grads = [], []
    for backend in ("torch", "reference"):
        attend = attncomp.compile(spec, backend=backend)
        results.append(attend(**tensors, return_lse=True))
        grads.append(gradients(results[-1], tensors))
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, name=spec, atol=1e-9)
    for name in tensors:
        assert_close(grads[0][name], grads[1][name], name=name, atol=1e-9)
        assert grads[0][name].any() or "hard" in spec or "window(8)" in spec


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spec", SPECS)
def test_opcheck(spec: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    pattern = attncomp.compile(spec)
    tensors = given(pattern, generator, dtype=dtype)
    q, k, v = (tensors.pop(name) for name in "qkv")
    scores = [tensors.pop("scores")] if "scores" in tensors else []
    learned = list(tensors.values())
    text = (str(pattern), problem_text("torch", q, k, v, scores))
    state = OPS.select(scores, 20, *text) if scores else []
    state = [
        *state,
        *modifier_state([name for name, _ in pattern.plan.modifiers.tensors], tensors, q),
    ]
    torch.library.opcheck(OPS.attend.default, (q, k, v, [*scores, *learned], state, 0.3, *text))
    out, lse = OPS.attend(q, k, v, [*scores, *learned], state, 0.3, *text)
    saved = [t.detach() for t in (q, k, v, out, lse)]
    arguments = (torch.randn_like(out), torch.randn_like(lse), *saved, state, 0.3, *text)
    torch.library.opcheck(OPS.attend_backward.default, arguments)


def test_torch_compile(generator: torch.Generator) -> None:
    torch._dynamo.reset()
    pattern = attncomp.compile("sparsek(k=4) | window(4) with softcap(2), alibi, bias(3), sink")

    def attend(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return pattern(**tensors, return_lse=True)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    tensors = given(pattern, generator)
    results = compiled(tensors), attend(tensors)
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected, name="results", atol=1e-12)
    found, wanted = (gradients(result, tensors) for result in results)
    for name in tensors:
        assert_close(found[name], wanted[name], name=name, atol=1e-12)


def test_gradients_have_the_dtypes_of_their_tensors(generator: torch.Generator) -> None:
    pattern = attncomp.compile(SPEC)
    tensors = given(pattern, generator, dtype=torch.bfloat16)
    tensors["sink"] = tensors["sink"].detach().double().requires_grad_()
    tensors["bias"] = tensors["bias"].detach().float().mT.contiguous().mT.requires_grad_()
    found = gradients(pattern(**tensors, return_lse=True), tensors)
    assert {name: g.dtype for name, g in found.items()} == {n: t.dtype for n, t in tensors.items()}
    only = {"sink": tensors["sink"]}
    frozen = {name: tensor.detach() for name, tensor in tensors.items()} | only
    assert_close(
        gradients(pattern(**frozen, return_lse=True), only)["sink"], found["sink"], name="sink"
    )


def test_an_empty_batch_gives_gradients_of_zero(generator: torch.Generator) -> None:
    pattern = attncomp.compile("window(3) with bias(4), sink", backend="torch")
    tensors = given(pattern, generator)
    tensors |= {n: tensors[n].detach()[:0].requires_grad_() for n in "qkv"}
    found = gradients(pattern(**tensors, return_lse=True), tensors)
    assert found["sink"].tolist() == [0.0] * 4
    assert not found["bias"].any()


def test_the_scale_of_a_pattern(generator: torch.Generator) -> None:
    own, plain = attncomp.compile("window(5) with scale(0.3)"), attncomp.compile("window(5)")
    q, k, v = (t.detach() for t in given(plain, generator).values())
    assert torch.equal(own(q, k, v), plain(q, k, v, scale=0.3))
    assert own.plan == plain.plan  # after calls alike: each plan is that of the latest call
    with pytest.raises(errors.OptionError) as caught:
        own(q, k, v, scale=0.3)
    assert str(caught.value) == (
        "scale: expected none, as the pattern has its own, found 0.3 "
        "(pattern 'window(5) with scale(0.3)')"
    )


TEXT = 'window(3) with alibi(slopes="u"), bias(2), sink'
MISTAKES = {
    "missing": ({"u": None}, errors.MissingTensorError, "u: expected tensor [Hq], found none"),
    "no tensor": (
        {"bias": 3},
        errors.MissingTensorError,
        "bias: expected tensor [Hq, 3], found int",
    ),
    "heads": (
        {"u": torch.zeros(2)},
        errors.TensorShapeError,
        "u: expected shape [4], found [2]",
    ),
    "width": (
        {"bias": torch.zeros(4, 4)},
        errors.TensorShapeError,
        "bias: expected shape [4, 3], found [4, 4]",
    ),
    "dtype": (
        {"sink": torch.zeros(4, dtype=torch.int64)},
        errors.TensorDtypeError,
        "sink: expected dtype float16, bfloat16, float32 or float64, found int64",
    ),
    "device": (
        {"sink": torch.zeros(4, device="meta")},
        errors.TensorDeviceError,
        "sink: expected device cpu, q's own, found meta",
    ),
    "layout": (
        {"sink": torch.zeros(4).to_sparse()},
        errors.TensorLayoutError,
        "sink: expected layout strided, found sparse_coo",
    ),
    "unknown": (
        {"sinks": torch.zeros(4)},
        errors.UnknownTensorError,
        "sinks: expected a tensor named 'u', 'bias' or 'sink', found 'sinks' "
        "(did you mean 'sink'?)",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name: str) -> None:
    changed, kind, message = MISTAKES[name]
    q = torch.zeros(1, 4, 5, 16)
    tensors = {"u": torch.zeros(4), "bias": torch.zeros(4, 3), "sink": torch.zeros(4)} | changed
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    with pytest.raises(kind) as caught:
        attncomp.compile(TEXT)(q, q, q, **tensors)
    assert str(caught.value) == f"{message} (pattern '{TEXT}')"


def test_what_a_pattern_says_of_itself() -> None:
    pattern = attncomp.compile(P.window(4).with_(P.bias(8), P.softcap(30), P.sink("s")))
    assert pattern == attncomp.compile('window(4) with softcap(30), bias(8), sink(logits="s")')
    assert pickle.loads(pickle.dumps(pattern)) == pattern
    assert pattern.tensors == ("bias", "s")
    assert pattern.shapes == {"bias": "[Hq, 15]", "s": "[Hq]"}
    lines = dict(line.split("  ", 1) for line in pattern.explain().splitlines())
    assert lines["tensors"].strip() == "q, k, v, bias [Hq, 15], s [Hq]"
    assert lines["logits"].strip() == "softcap 30.0, bias bias of 8 distances, sink s"
    assert lines["determinism"].strip().endswith("atomics add integers alone")
    assert "softcap 30.0" in pattern.source
    assert "logits" not in attncomp.compile("window(4)").explain()


def test_masks_know_no_modifiers() -> None:
    plain, pattern = attncomp.compile("window(4)"), attncomp.compile("window(4) with sink")
    assert torch.equal(pattern.mask(9), plain.mask(9))
    # A mask and a picture take what a call takes.
    assert torch.equal(pattern.mask(9, sink=torch.zeros(4)), plain.mask(9))
    assert pattern.plot(9, sink=torch.zeros(4)).axes
    grouped = attncomp.compile("heads{0 -> (full with sink), 1: -> causal}")
    assert grouped.plot(9, sink=torch.zeros(4), head=1).axes
    for text, given in (("window(4)", "sink"), ("window(4) with sink", "sinks")):
        known = "no tensors" if given == "sink" else "a tensor named 'sink'"
        hint = "" if given == "sink" else " (did you mean 'sink'?)"
        with pytest.raises(errors.UnknownTensorError) as caught:
            attncomp.compile(text).mask(9, **{given: torch.zeros(4)})
        message = f"{given}: expected {known}, found '{given}'{hint} (pattern '{text}')"
        assert str(caught.value) == message
