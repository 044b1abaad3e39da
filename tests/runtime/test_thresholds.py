"""Calls and masks of patterns with thresholds on logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo
from dense import assert_close
from torch import Generator, Tensor
from torch._dynamo.utils import counters

import attncomp
from attncomp import patterns as P
from attncomp.errors import CallError, MissingTensorError, PatternError
from attncomp.frontend.parser import parse
from attncomp.nn import PatternAttention
from attncomp.pictures.request import pictured
from attncomp.runtime.extents import Call
from attncomp.runtime.program import problem_text
from attncomp.runtime.tables import BlockParts, block_state

SPEC = "causal & threshold"
OPS = torch.ops.attncomp
Q, K = torch.zeros(2, 4, 10, 16), torch.zeros(2, 2, 10, 16)
THETA = torch.tensor([-0.3, 0.1, 0.6, 1.2])


def fresh(generator: Generator, n: int = 40, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """q of four heads, k and v of two, that want gradients."""
    options = {"dtype": torch.float64, "requires_grad": True} | options
    drawn = (torch.randn(2, h, n, 16, generator=generator, **options) for h in (4, 2, 2))
    q, k, v = drawn
    return q, k, v


def gradients(out: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out.sin().sum(), leaves)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "theta: expected tensor [Hq], found none"),
        ({"theta": [0.5] * 4}, "theta: expected tensor [Hq], found list"),
        ({"theta": THETA[:2]}, "theta: expected shape [4], found [2]"),
        ({"theta": THETA[0]}, "theta: expected shape [4], found []"),
        ({"theta": THETA[None]}, "theta: expected shape [4], found [1, 4]"),
        (
            {"theta": THETA.int()},
            "theta: expected dtype float16, bfloat16, float32 or float64, found int32",
        ),
        (
            {"theta": THETA.bool()},
            "theta: expected dtype float16, bfloat16, float32 or float64, found bool",
        ),
        ({"theta": THETA.to("meta")}, "theta: expected device cpu, q's own, found meta"),
        ({"theta": THETA.to_sparse()}, "theta: expected layout strided, found sparse_coo"),
        (
            {"thetas": THETA},
            "thetas: expected a tensor named 'theta', found 'thetas' (did you mean 'theta'?)",
        ),
        (
            {"theta": THETA, "logits": torch.zeros(2, 4, 10, 10)},
            "logits: expected a tensor named 'theta', found 'logits'",
        ),
    ],
)
def test_mistakes_of_calls(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError) as caught:
        attncomp.compile(SPEC)(Q, K, K, **tensors)
    assert str(caught.value) == f"{message} (pattern '{SPEC}')"


LOGITS = torch.zeros(2, 4, 5, 7)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "theta: expected tensor [Hq], found none"),
        ({"theta": THETA}, "logits: expected tensor [1, 4, 5, 7], found none"),
        ({"theta": THETA, "logits": 1.0}, "logits: expected tensor [1, 4, 5, 7], found float"),
        (
            {"theta": THETA, "logits": LOGITS[0]},
            "logits: expected shape [1, 4, 5, 7], found [4, 5, 7]",
        ),
        (
            {"theta": THETA, "logits": LOGITS.mT},
            "logits: expected shape [2 or 1, 4, 5, 7], found [2, 4, 7, 5]",
        ),
        (
            {"theta": THETA, "logits": LOGITS[:, :1]},
            "logits: expected shape [2 or 1, 4, 5, 7], found [2, 1, 5, 7]",
        ),
        (
            {"theta": THETA[:3], "logits": LOGITS},
            "logits: expected shape [2 or 1, 3, 5, 7], found [2, 4, 5, 7]",
        ),
        (
            {"theta": THETA, "logits": LOGITS.int()},
            "logits: expected dtype float16, bfloat16, float32 or float64, found int32",
        ),
        (
            {"theta": THETA, "logit": LOGITS},
            "logit: expected a tensor named 'theta' or 'logits', found 'logit' "
            "(did you mean 'logits'?)",
        ),
    ],
)
def test_mistakes_of_masks(tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError) as caught:
        attncomp.compile(SPEC).mask(5, 7, **tensors)
    assert str(caught.value) == f"{message} (pattern '{SPEC}')"


@pytest.mark.parametrize(
    ("spec", "name", "use"),
    [
        ("threshold('k')", "k", "an argument of every call"),
        ("threshold('h')", "h", "an index of the pair"),
        ("threshold('logits')", "logits", "an argument of masks"),
        ("threshold & sparsek(2, scores='logits')", "logits", "an argument of masks"),
        ("threshold with sink('logits')", "logits", "an argument of masks"),
        ("threshold('scores') & sparsek(2)", "scores", "a tensor of scores"),
        ("threshold & where(theta[h] == 1)", "theta", "a tensor of thresholds"),
        ("threshold with sink('theta')", "theta", "a tensor of thresholds"),
    ],
)
def test_names_that_are_taken(spec: str, name: str, use: str) -> None:
    with pytest.raises(PatternError) as caught:
        attncomp.compile(spec)
    assert caught.value.message == f"a tensor cannot be called '{name}': that is {use}"


def test_names() -> None:
    assert attncomp.compile("causal & sparsek(2, scores='logits')").tensors == ("logits",)
    pattern = attncomp.compile("threshold('near') & window(8) | threshold('far') & causal")
    assert pattern.tensors == ("near", "far") and pattern.integer_tensors == ()
    assert pattern.shapes == {"near": "[Hq]", "far": "[Hq]"}
    assert str(attncomp.compile("threshold(theta='theta')")) == "threshold"
    assert P.threshold("t") == attncomp.patterns.threshold(theta="t")


def test_masks_are_the_definition(generator: Generator) -> None:
    logits = torch.randn(2, 4, 5, 7, generator=generator)
    logits[0, 0, 0, 0], logits[1, 1, 4, 2] = THETA[0], torch.nan
    distance = torch.arange(5)[:, None] + 2 - torch.arange(7)
    given = {"theta": THETA, "logits": logits}
    gates = attncomp.compile(SPEC).mask(5, 7, **given)
    for b, h, i, j in torch.cartesian_prod(*map(torch.arange, gates.shape)).tolist():
        expected = distance[i, j] >= 0 and logits[b, h, i, j].item() >= THETA[h].item()
        assert gates[b, h, i, j] == expected
    rest = attncomp.compile("causal - threshold").mask(5, 7, **given)
    assert torch.equal(gates + rest, (distance >= 0).double().expand(2, 4, 5, 7))
    grouped = attncomp.compile("heads{1 -> threshold, 0 -> full, 2: -> causal - threshold}")
    found = grouped.mask(5, 7, heads=4, **given)
    assert torch.equal(found[:, 1], (logits[:, 1] >= THETA[1]).double())
    assert torch.equal(found[:, 2:], rest[:, 2:]) and found[:, 0].all()


def test_pictures(generator: Generator) -> None:
    """Of given logits, or of what is drawn for as many heads as there are, as the caption says."""
    given = {"theta": THETA, "logits": torch.randn(2, 4, 12, 12, generator=generator)}
    spec = "window(3) | causal & threshold"
    found = pictured(parse(spec), 12, None, given, head=2, batch=1)
    assert torch.equal(found.gate, attncomp.compile(spec).mask(12, **given)[1, 2])
    assert found.titles[1] == "band: q - k >= 3, where logit >= theta[h]"
    assert not any(tile.full for tile in found.tiles if tile.sweep == 1)
    drawn = pictured(parse("heads{:3 -> window(3), 3: -> threshold}"), 12, head=3, heads=8, seed=7)
    assert drawn.caption.endswith(
        "head 3 of 8: 12 queries (down) by 12 keys (right); theta, logits standard normal, seed 7"
    )
    assert 0 < drawn.gate.mean() < 1


@pytest.mark.parametrize("spec", [SPEC, "top_theta", "window(4) | causal - threshold"])
def test_calls_are_dense_attention(spec: str, generator: Generator) -> None:
    """By the mask of the logits, which torch's attention takes as it is."""
    q, k, v = fresh(generator)
    wide = [tensor.repeat_interleave(2, 1) for tensor in (k, v)]
    logits = (q @ wide[0].mT * 0.3).detach()
    pattern = attncomp.compile(spec, backend="torch")
    mask = pattern.mask(40, theta=THETA.double(), logits=logits).bool()
    out = pattern(q, k, v, theta=THETA.double(), scale=0.3)
    dense = torch.nn.functional.scaled_dot_product_attention(q, *wide, mask, scale=0.3)
    dense = dense.masked_fill(~mask.any(-1, keepdim=True), 0)
    pairs = zip((out, *gradients(out, q, k, v)), (dense, *gradients(dense, q, k, v)), strict=True)
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_and_strides(backend: str, dtype: torch.dtype, generator: Generator) -> None:
    """Thresholds of any floating dtype and stride; those of a scale of the pattern."""
    q, k, v = fresh(generator)
    theta = (torch.arange(-2, 6) / 4).to(dtype)[::2]
    expected = attncomp.compile(SPEC, backend="reference")(
        q, k, v, theta=theta.double().contiguous(), scale=0.5
    )
    found = attncomp.compile(f"{SPEC} with scale(0.5)", backend=backend)(q, k, v, theta=theta)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_thresholds_have_no_gradient(generator: Generator) -> None:
    q, k, v = fresh(generator)
    theta = THETA.clone().requires_grad_()
    for backend in ("torch", "reference"):
        out = attncomp.compile(SPEC, backend=backend)(q, k, v, theta=theta)
        (found,) = torch.autograd.grad(out.sum(), [theta], allow_unused=True)
        assert found is None
    out = attncomp.compile(SPEC)(*(x.detach() for x in (q, k, v)), theta=theta)
    assert not out.requires_grad


def test_thresholds_beyond_all_logits(generator: Generator) -> None:
    q, k, v = fresh(generator)
    attend, causal = attncomp.compile(SPEC), attncomp.compile("causal")
    low, high = torch.full((4,), -torch.inf), torch.full((4,), torch.inf)
    torch.testing.assert_close(attend(q, k, v, theta=low), causal(q, k, v))
    out, lse = attend(q, k, v, theta=high, return_lse=True)
    assert not out.any() and (lse == -torch.inf).all()
    assert not any(gradient.any() for gradient in gradients(out, q, k, v))


GROUPS = {
    "cut KV heads": "heads{0:1 -> window(8) | causal & threshold, 1: -> causal - threshold}",
    "names": "heads{0:3 -> causal & threshold('near'), 3: -> threshold('far') | first(2)}",
    "in part": "heads{0:2 -> window(5), 2: -> sparsek(k=6) & threshold} & causal with sink",
}


@pytest.mark.parametrize("case", GROUPS)
def test_groups_of_heads(case: str, generator: Generator) -> None:
    q, k, v = fresh(generator)
    pattern = attncomp.compile(GROUPS[case], backend="torch")
    given: dict[str, Tensor] = {
        name: torch.randn(2, 2, 40, generator=generator, dtype=torch.float64)
        if name == "scores"
        else torch.randn(4, generator=generator, dtype=torch.float64)
        for name in pattern.tensors
    }
    out = pattern(q, k, v, **given)
    expected = attncomp.compile(GROUPS[case], backend="reference")(q, k, v, **given)
    torch.testing.assert_close(out, expected, atol=1e-11, rtol=1e-9)
    torch.testing.assert_close(
        gradients(out, q, k, v), gradients(expected, q, k, v), atol=1e-11, rtol=1e-9
    )


def test_low_precision(generator: Generator) -> None:
    """bfloat16, and autocast to it: of halves all sums are exact in float32."""
    q, k, v = (
        (2 * x).round() / 2 for x in fresh(generator, dtype=torch.bfloat16, requires_grad=False)
    )
    theta = THETA.to(torch.bfloat16)
    found = attncomp.compile(SPEC, backend="torch")(q, k, v, theta=theta)
    exact = attncomp.compile(SPEC, backend="reference")(
        *(x.double() for x in (q, k, v)), theta=theta
    )
    torch.testing.assert_close(found.double(), exact, atol=2e-2, rtol=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        cast = attncomp.compile(SPEC)(q.float(), k.float(), v.float(), theta=theta)
    assert torch.equal(cast, found)


def test_opcheck(generator: Generator) -> None:
    q, k, v = fresh(generator, 20)
    pattern = attncomp.compile(SPEC)
    text = str(pattern), problem_text("torch", q, k, v, [])
    state = block_state(BlockParts.of(pattern.plan), Call.of(q, k, {"theta": THETA.double()}))
    assert len(state) == 1 and state[0].dtype == torch.float64
    torch.library.opcheck(OPS.attend.default, (q, k, v, [], state, 0.3, *text))
    out, lse = OPS.attend(q, k, v, [], state, 0.3, *text)
    saved = [t.detach() for t in (q, k, v, out, lse)]
    arguments = (torch.randn_like(out), torch.randn_like(lse), *saved, state, 0.3, *text)
    torch.library.opcheck(OPS.attend_backward.default, arguments)


def test_compiled_once_for_all_lengths(generator: Generator) -> None:
    torch._dynamo.reset()
    counters.clear()
    pattern = attncomp.compile("window(4) | causal & threshold | sparsek(k=6) - threshold")

    def attend(q: Tensor, k: Tensor, v: Tensor, theta: Tensor, u: Tensor) -> Tensor:
        result: Tensor = pattern(q, k, v, theta=theta, scores=u)
        return result

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=True)
    theta = THETA.clone().requires_grad_()
    for n in (20, 33, 61):
        q, k, v = fresh(generator, n)
        u = torch.randn(2, 2, n, generator=generator, dtype=torch.float64, requires_grad=True)
        results = [run(q, k, v, theta, u) for run in (compiled, attend)]
        assert_close(*results, name="out", atol=1e-12)
        for actual, expected in zip(*(gradients(out, q, k, v, u) for out in results), strict=True):
            assert_close(actual, expected, name="gradient", atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_explain() -> None:
    lines = attncomp.compile("window(8) | causal & threshold").explain().splitlines()
    assert "tensors      q, k, v, theta [Hq]" in lines
    assert "time         O(N^2), forward and backward" in lines
    assert "keys         grow with the context length" in lines
    assert any("q - k >= 8, where logit >= theta[h]; all keys there" in line for line in lines)
    (visits,) = (line for line in attncomp.compile(SPEC).explain().splitlines() if "65536" in line)
    assert visits.endswith("attends at most 32768, depending on theta, the logits: O(N) a query")
    assert "visits at most" not in visits
    bounded = attncomp.compile("window(64) & threshold").explain()
    assert "at most 64 a query, in one softmax" in bounded and "time         O(N)," in bounded


def test_a_layer_takes_thresholds_in_its_call(generator: torch.Generator) -> None:
    layer = PatternAttention(dim=64, heads=4, pattern=SPEC)
    x = torch.randn(1, 20, 64, generator=generator)
    with pytest.raises(MissingTensorError, match="theta: expected tensor"):
        layer(x)
    lowest = torch.full((4,), -torch.inf)
    every = PatternAttention(dim=64, heads=4, pattern=SPEC.replace(" & threshold", ""))
    every.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x, theta=lowest), every(x))
    assert not torch.allclose(layer(x, theta=torch.zeros(4)), every(x), atol=1e-3)
