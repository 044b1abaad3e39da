"""Patterns with groups of heads: meaning, kernels of their own, and what calls refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense import Shape, assert_close, random_inputs
from hypothesis import given, settings
from hypothesis import strategies as st
from modifier_support import run
from strategies import head_groups, patterns, problems
from torch import Generator, Tensor
from triton_support import interpreter

import attncomp
from attncomp.errors import HeadGroupError, OptionError
from attncomp.frontend.ast import HeadGroups
from attncomp.ir.ops import GATE_MODES
from attncomp.runtime.head_groups import pieces

SOFT = "heads{0:4 -> window(8), 4: -> sparsek(k=5) | window(3)}"
CUT = "heads{0:5 -> window(8), 5:-1 -> sparsek(k=5) | window(3), -1 -> full} & causal"
NAMES = """heads{
    3: -> sparsek(k=6, scores="far") | window(2),
    0:3 -> sparsek(k=4, scores="near") | sparsek(k=3, lag=2, scores="far"),
}"""
NESTED = "window(20) & heads{0:6 -> heads{0:2 -> full, 2: -> sparsek(k=4)}, 6: -> first(2)}"
INTEGERS = """heads{
    0:5 -> where(until[b, h] + shift[h // 4] > k) & where(h % 3 == 1 or q - k < h),
    5: -> where(q - k < until[b, h]) | sparsek(k=3),
} & causal"""
MIXED = "heads{0:3 -> where(q - k < near[h]), 3: -> where(q - k < near[7 - h])} & causal"
# pattern: query heads, KV heads, groups of each score tensor
CASES: dict[str, tuple[str, int, int, dict[str, int]]] = {
    "aligned": (SOFT, 8, 2, {"scores": 2}),
    "MQA": (SOFT, 8, 1, {"scores": 1}),
    "a group a head": (SOFT, 8, 4, {"scores": 8}),
    "GQA 4, cut KV heads": (CUT, 12, 3, {"scores": 4}),
    "MQA, cut": (CUT, 9, 1, {"scores": 3}),
    "names": (NAMES, 12, 3, {"near": 6, "far": 2}),
    "nested": (NESTED, 8, 2, {"scores": 1}),
    "integers": (INTEGERS, 8, 2, {"scores": 4}),
    "mixed subscripts": (MIXED, 8, 8, {}),
    "one for all": ("heads{: -> sparsek(k=4)}", 4, 2, {"scores": 2}),
}


def call_inputs(case: str, generator: Generator, n: int = 37) -> tuple[str, dict[str, Tensor], Any]:
    spec, heads, kv_heads, groups = CASES[case]

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def integers(*size: int) -> Tensor:
        return torch.randint(1, 12, size, generator=generator)

    tensors = {"q": normal(2, heads, n, 16), "k": normal(2, kv_heads, n + 3, 16)}
    tensors["v"] = normal(2, kv_heads, n + 3, 24)
    tensors |= {name: normal(2, count, n + 3) for name, count in groups.items()}
    integer = {"until": integers(1, heads), "shift": integers(2), "near": integers(heads)}
    needed = attncomp.compile(spec).integer_tensors
    return spec, tensors, {name: integer[name] for name in needed}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case: str, generator: Generator) -> None:
    spec, tensors, given = call_inputs(case, generator)
    expected = run(spec, "reference", tensors, given)
    for name, actual in run(spec, "torch", tensors, given).items():
        assert_close(actual, expected[name], name=name, atol=1e-11, rtol=1e-9)


@settings(max_examples=15)
@given(
    expr=st.sampled_from(GATE_MODES).flatmap(lambda m: head_groups(patterns(3, modes=(m,)))),
    problem=problems(max_length=20),
)
def test_any_groups_match_dense_attention(
    expr: HeadGroups, problem: tuple[Shape, Tensor, int]
) -> None:
    shape, scores, seed = problem
    inputs = random_inputs(shape, Generator().manual_seed(seed), scores=scores)
    tensors = {"q": inputs.q, "k": inputs.k, "v": inputs.v, "scores": inputs.scores}
    pattern = attncomp.compile(expr)
    if "scores" not in pattern.tensors:
        del tensors["scores"]
    given = {name: inputs.given[name] for name in pattern.tensors if name in inputs.given}
    expected = run(expr, "reference", tensors, given)
    for name, actual in run(expr, "torch", tensors, given).items():
        assert_close(actual, expected[name], name=name, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("case", ["GQA 4, cut KV heads", "names", "integers"])
def test_triton(case: str, generator: Generator) -> None:
    spec, tensors, given = call_inputs(case, generator, 21)
    tensors = {name: t.float().double() for name, t in tensors.items()}
    expected = run(spec, "reference", tensors, given)
    with interpreter():
        found = run(spec, "triton", {name: t.float() for name, t in tensors.items()}, given)
    for name, actual in found.items():
        assert_close(actual, expected[name], name=name, atol=3e-5, rtol=3e-5)


MEMBERS: list[tuple[str, list[tuple[range, str]], int]] = [
    (SOFT, [(range(4), "window(8)"), (range(4, 8), "sparsek(k=5) | window(3)")], 8),
    (
        CUT,
        [
            (range(5), "window(8)"),
            (range(5, 11), "(sparsek(k=5) | window(3)) & causal"),
            (range(11, 12), "causal"),
        ],
        12,
    ),
    (
        NESTED,
        [
            (range(2), "window(20)"),
            (range(2, 6), "sparsek(k=4) & window(20)"),
            (range(6, 8), "first(2) & window(20)"),
        ],
        8,
    ),
]


@pytest.mark.parametrize(("spec", "members", "heads"), MEMBERS)
def test_each_head_has_the_gates_of_its_group(
    spec: str, members: list[tuple[range, str]], heads: int, generator: Generator
) -> None:
    scores = torch.randn(2, heads, 30, generator=generator, dtype=torch.float64)
    found = attncomp.compile(spec).mask(30, heads=heads, scores=scores)
    assert found.shape == (2, heads, 30, 30)
    for group, member in members:
        pattern = attncomp.compile(member)
        tensors: dict[str, Any] = {"scores": scores[:, list(group)]} if pattern.tensors else {}
        assert torch.equal(
            found[:, list(group)], pattern.mask(30, **tensors).expand(2, len(group), 30, 30)
        )


def test_groups_run_kernels_of_their_own(generator: Generator) -> None:
    """A window's group has window's plan, which knows no scores."""
    spec, tensors, _ = call_inputs("aligned", generator)
    pattern = attncomp.compile(spec, backend="torch")
    pattern(**tensors)  # type: ignore[arg-type]
    window, selection = pattern.plans.values()
    assert list(pattern.plans) == ["0:4", "4:8"]
    assert (window.pattern, window.scores, len(window.sweeps)) == ("window(8)", (), 1)
    assert (selection.pattern, selection.scores) == ("sparsek(k=5) | window(3)", ("scores",))
    alone = attncomp.compile("window(8)", backend="torch")
    alone(*(tensors[name][:, :n] for name, n in (("q", 4), ("k", 1), ("v", 1))))
    assert window == alone.plan
    assert pattern.source.startswith("# heads 0:4: window(8)\n")
    assert "\n# heads 4:8: sparsek(k=5) | window(3)\n" in pattern.source


def test_pieces() -> None:
    found = pieces(CUT, 12, 3, (("scores", 4),))
    assert [piece.heads for piece in found] == [
        *((0, 4), (4, 5), (5, 6), (6, 8), (8, 9), (9, 11), (11, 12))
    ]
    assert [piece.kv_heads for piece in found] == [
        *((0, 1), (1, 2), (1, 2), (1, 2), (2, 3), (2, 3), (2, 3))
    ]
    assert [dict(piece.scores).get("scores") for piece in found] == [
        *(None, None, (1, 2), (2, 3), (2, 3), (3, 4), None)
    ]
    assert {piece.heads: piece.pattern for piece in pieces(MIXED, 4, 4, ())} == {
        (0, 3): "where(q - k < near[h]) & causal",
        (3, 4): "where(q - k < near[7 - (h + 3)]) & causal",
    }


def test_what_it_says(generator: Generator) -> None:
    pattern = attncomp.compile(SOFT)
    assert str(pattern) == SOFT
    assert pattern.tensors == ("scores",)
    assert list(pattern.plans) == ["0:4", "4:5"]
    assert pattern.explain().startswith(
        f"pattern      {SOFT}\n\nheads 0:4\npattern      window(8)\ntensors      q, k, v\n"
    )
    assert "\nheads 4:5\npattern      sparsek(k=5) | window(3)\n" in pattern.explain()
    assert list(attncomp.compile("window(3)").plans) == [":"]
    with pytest.raises(OptionError) as caught:
        _ = pattern.plan
    assert str(caught.value) == (
        "plan: expected a pattern without groups of heads, found one plan for each of them, in "
        f"'plans' (pattern '{SOFT}')"
    )


@pytest.mark.parametrize(
    ("spec", "heads", "message"),
    [
        ("heads{0:4 -> full, 4: -> causal}", 3, "slices of 3 heads, found 0:4"),
        ("heads{-4: -> full, 0:-4 -> causal}", 3, "slices of 3 heads, found -4:"),
        (
            "heads{0:4 -> full, -4: -> causal}",
            6,
            "each of 6 heads in one group, found head 2 in 0:4 and -4:",
        ),
        (
            "heads{0:4 -> full, -4: -> causal}",
            10,
            "each of 10 heads in one group, found head 4 in none of 0:4, -4:",
        ),
        (
            "heads{0:2 -> full, 2:4 -> causal}",
            8,
            "each of 8 heads in one group, found head 4 in none of 0:2, 2:4",
        ),
    ],
)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_groups_that_do_not_fit(spec: str, heads: int, message: str, backend: str) -> None:
    pattern = attncomp.compile(spec, backend=backend)
    q = torch.zeros(1, heads, 4, 16)
    text = f"heads: expected {message} (pattern '{spec}')"
    for call in (lambda: pattern(q, q, q), lambda: pattern.mask(4, heads=heads)):
        with pytest.raises(HeadGroupError) as caught:
            call()
        assert str(caught.value) == text


def test_open_slices_may_be_left_out() -> None:
    pattern = attncomp.compile("heads{0:2 -> window(1), 2: -> full}")
    assert pattern.mask(3, heads=2).equal(torch.eye(3, dtype=torch.float64).expand(1, 2, 3, 3))


def test_a_mask_needs_a_number_of_heads() -> None:
    with pytest.raises(OptionError) as caught:
        attncomp.compile(SOFT).mask(4, scores=torch.zeros(1, 1, 4))
    assert str(caught.value) == (
        "heads: expected a number, as the pattern has groups of heads, found None "
        f"(pattern '{SOFT}')"
    )


def test_compiles_without_a_break(generator: Generator) -> None:
    spec, tensors, given = call_inputs("GQA 4, cut KV heads", generator)
    pattern = attncomp.compile(spec, backend="torch")

    def step(**inputs: Any) -> Tensor:
        out: Tensor = pattern(**inputs, **given)
        return out * 2

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    leaves: dict[str, Any] = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    compiled(**leaves).sum().backward()
    same: dict[str, Any] = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    step(**same).sum().backward()
    for name, leaf in leaves.items():
        assert_close(leaf.grad, same[name].grad, name=name, atol=1e-12)


def test_autocast(generator: Generator) -> None:
    spec, tensors, _ = call_inputs("aligned", generator)
    inputs: dict[str, Any] = {name: t.float() for name, t in tensors.items()}
    pattern = attncomp.compile(spec, backend="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = pattern(**inputs)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), pattern(**inputs), rtol=0.1, atol=0.1)


def test_pictures_draw_one_head() -> None:
    from attncomp.pictures.request import pictured

    picture = pictured(attncomp.compile(SOFT)._expr, 16, head=2)
    assert picture.titles == ("window: 0 <= q - k < 8",)
    assert ", head 2 of 5: 16 queries" in picture.caption
    later = pictured(attncomp.compile(SOFT)._expr, 16, head=6, heads=8)
    assert len(later.titles) == 2 and ", head 6 of 8:" in later.caption
    with pytest.raises(OptionError, match="head: expected an index from 0 to 7, found 8"):
        pictured(attncomp.compile(SOFT)._expr, 16, head=8, heads=8)


def test_explaining_names_what_each_group_reads() -> None:
    """Scores, masks of blocks that are walked, and tensors of modifiers, each with its group."""
    text = "heads{0:4 -> (blocks(16) & causal with sink), 4: -> sparsek(k=4)}"
    lines = attncomp.compile(text).explain().splitlines()
    assert [line.split(None, 1)[1] for line in lines if line.startswith("tensors")] == [
        "q, k, v, block_mask [B or 1, H dividing Hq, Nk / 16, Nk / 16], sink [Hq]",
        "q, k, v, scores [B, G, Nk]",
    ]
