"""What modifiers mean: the reference against formulas, finite differences and FlexAttention."""

from __future__ import annotations

import math

import pytest
import torch
from dense import Shape, assert_close, graph_of, modifiers_in, random_inputs
from modifier_support import dense_gradients, learned_tensors
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from attncomp.errors import TensorNameError
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.modifiers import NO_MODIFIERS, modifiers_of, standard_slopes
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.reference import reference_attention

ALL = 'softcap(1.5), alibi(slopes="slopes"), bias(4), sink'
SHAPE = Shape(batch=2, query_heads=4, kv_heads=2, groups=2, n_queries=9, n_keys=11, value_dim=3)


def by_formula(
    pattern: str, q: Tensor, k: Tensor, v: Tensor, tensors: dict[str, Tensor], mode: str | None
) -> tuple[Tensor, Tensor]:
    """`pattern with ALL`, pair by pair, by the formulas alone; scale 0.7."""
    graph = build(parse(pattern))
    heads, n_queries, n_keys = q.shape[1], q.shape[2], k.shape[2]
    gate = gate_matrix(graph, n_queries, n_keys, tensors, heads, q.shape[0])
    gate = gate.expand(q.shape[0], heads, -1, -1)
    outs, lses = [], []
    for b in range(q.shape[0]):
        for h in range(heads):
            kv = h // (heads // k.shape[1])
            for i in range(n_queries):
                position = i + n_keys - n_queries
                logits, values = [tensors["sink"][h]], [torch.zeros_like(v[0, 0, 0])]
                for j in range(n_keys):
                    g = gate[b, h, i, j]
                    if g == 0:
                        continue
                    s = 0.7 * torch.dot(q[b, h, i], k[b, kv, j])
                    x = 1.5 * torch.tanh((g * s if mode == "key_value" else s) / 1.5)
                    x = x - tensors["slopes"][h] * abs(position - j)
                    x = x + tensors["bias"][h, max(-3, min(3, position - j)) + 3]
                    logits.append(x + g.log() if mode == "logit" else x)
                    weighs = mode in ("key_value", "value")
                    values.append(g * v[b, kv, j] if weighs else v[b, kv, j])
                row = torch.stack(logits)
                outs.append(row.softmax(0) @ torch.stack(values))
                lses.append(row.logsumexp(0))
    sizes = (q.shape[0], heads, n_queries)
    return torch.stack(outs).view(*sizes, -1), torch.stack(lses).view(sizes)


@pytest.mark.parametrize(
    ("pattern", "mode"),
    [
        ("window(4)", None),
        ("where(k % 3 == 1) & window(2)", None),
        ("sparsek(k=3) | window(2)", "key_value"),
        ('sparsek(k=3, gate="value") | window(2)', "value"),
        ('sparsek(k=3, lag=2, gate="logit")', "logit"),
    ],
)
def test_the_reference_is_the_formula(
    pattern: str, mode: str | None, generator: torch.Generator
) -> None:
    inputs = random_inputs(SHAPE, generator)
    learned = learned_tensors(modifiers_in(f"full with {ALL}"), 4, generator)
    actual = dense_gradients(f"{pattern} with {ALL}", inputs, learned, scale=0.7)
    leaves = {
        name: tensor.clone().requires_grad_()
        for name, tensor in {
            "q": inputs.q,
            "k": inputs.k,
            "v": inputs.v,
            "scores": inputs.scores,
            **learned,
        }.items()
    }
    out, lse = by_formula(pattern, leaves["q"], leaves["k"], leaves["v"], leaves, mode)
    gradients = torch.autograd.grad(
        (out, lse),
        list(leaves.values()),
        (inputs.dout, inputs.dlse),
        allow_unused=True,
        materialize_grads=True,
    )
    expected = {"out": out, "lse": lse, **dict(zip(leaves, gradients, strict=True))}
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert_close(actual[name], tensor, name=name, atol=1e-12)
        assert tensor.any() or (name == "scores" and mode is None)


def test_gradients_are_those_of_finite_differences(generator: torch.Generator) -> None:
    """Rows without keys included."""
    graph = graph_of("window(3) - first(2)")
    modifiers = modifiers_in(f"full with {ALL}")
    shape = Shape(query_heads=2, n_queries=8, n_keys=6)
    inputs = random_inputs(shape, generator)
    learned = learned_tensors(modifiers, 2, generator)
    names = tuple(learned)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, tensors[3:], strict=True))
        return reference_attention(graph, *tensors[:3], given, 0.7, modifiers)

    leaves = [inputs.q, inputs.k, inputs.v, *learned.values()]
    assert torch.autograd.gradcheck(run, [leaf.requires_grad_() for leaf in leaves], fast_mode=True)


def test_a_row_without_keys_has_the_sink_alone(generator: torch.Generator) -> None:
    shape = Shape(query_heads=2, n_queries=6, n_keys=3)
    inputs = random_inputs(shape, generator)
    learned = learned_tensors(modifiers_in("full with sink"), 2, generator)
    found = dense_gradients("window(2) with sink", inputs, learned, scale=0.7)
    assert not found["out"][:, :, :3].any()
    assert torch.equal(found["lse"][0, :, :3], learned["sink"][:, None].expand(2, 3))
    assert not found["q"][:, :, :3].any()
    assert all(tensor.isfinite().all() for tensor in found.values())
    learned["sink"][1] = -math.inf  # no sink at all
    found = dense_gradients("window(2) with sink", inputs, learned, scale=0.7)
    assert (found["lse"][0, 1, :3] == -math.inf).all()
    plain = dense_gradients("window(2)", inputs, {}, scale=0.7)
    for name in ("out", "lse"):
        assert torch.equal(found[name][:, 1], plain[name][:, 1])
    assert found["sink"][1] == 0


def test_standard_slopes() -> None:
    assert standard_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    assert standard_slopes(1).tolist() == [2.0**-8]
    torch.testing.assert_close(standard_slopes(16)[:2], torch.tensor([2**-0.5, 0.5]))
    # 12 heads: those of 8, then every second one of 16.
    twelve = standard_slopes(12, dtype=torch.float64)
    expected = [2.0**-i for i in range(1, 9)] + [2.0 ** (-i / 2) for i in (1, 3, 5, 7)]
    torch.testing.assert_close(twelve, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("text", ["softcap(2)", "alibi", "softcap(1.5), alibi"])
def test_flex_attention_has_the_same_scores(text: str, generator: torch.Generator) -> None:
    shape = Shape(query_heads=6, kv_heads=2, n_queries=40, n_keys=40, head_dim=16, value_dim=16)
    inputs = random_inputs(shape, generator)
    modifiers = modifiers_in(f"full with {text}")
    slopes = standard_slopes(6, dtype=torch.float64)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if modifiers.softcap is not None:
            score = modifiers.softcap * torch.tanh(score / modifiers.softcap)
        return score - slopes[h] * (i - j).abs() if modifiers.slopes is not None else score

    block_mask = create_block_mask(
        lambda b, h, i, j: (i >= j) & (i - j < 9), None, None, 40, 40, device="cpu"
    )
    out = flex_attention(
        inputs.q,
        inputs.k,
        inputs.v,
        score_mod=score_mod,
        block_mask=block_mask,
        scale=0.3,
        enable_gqa=True,
    )
    assert isinstance(out, Tensor)
    found = dense_gradients(f"window(9) with {text}", inputs, {}, scale=0.3)
    assert_close(found["out"], out, name="out", atol=1e-12)


def test_modifiers_of_a_pattern() -> None:
    assert modifiers_of(parse("full")) == NO_MODIFIERS
    assert not NO_MODIFIERS and NO_MODIFIERS.tensors == ()
    found = modifiers_of(parse("full with sink, scale(2), bias(8, table='t'), alibi"))
    assert found.parts == (
        "scale 2.0",
        "alibi slopes standard",
        "bias t of 8 distances",
        "sink sink",
    )
    assert found.tensors == (("standard", None), ("t", 15), ("sink", None))
    assert found.learned == (("t", 15), ("sink", None))
    assert found.in_kernels.scale is None


def test_the_graph_is_that_of_the_pattern_without_modifiers() -> None:
    graph = build(parse("window(3) | first(2) with alibi, sink"))
    assert torch.equal(
        gate_matrix(graph, 9, 9, {}), gate_matrix(graph_of("window(3) | first(2)"), 9, 9, {})
    )


@pytest.mark.parametrize(
    ("pattern", "column", "name", "use"),
    [
        ("full with sink(logits='q')", 11, "q", "an argument of every call"),
        ("full with sink('scale')", 11, "scale", "an argument of every call"),
        ("sparsek(4) with sink('scores')", 17, "scores", "a tensor of scores"),
        ("where(t[q] == 1) with bias(3, 't')", 23, "t", "a tensor of integers"),
        ("full with sink('u'), alibi('u')", 11, "u", "the tensor of modifier 'alibi'"),
    ],
)
def test_names_of_tensors_have_one_use(pattern: str, column: int, name: str, use: str) -> None:
    with pytest.raises(TensorNameError) as caught:
        build(parse(pattern))
    assert caught.value.message == f"a tensor cannot be called '{name}': that is {use}"
    assert caught.value.span is not None and caught.value.span.column == column
