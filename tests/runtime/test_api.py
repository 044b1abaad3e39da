"""`attncomp.compile` and what it returns: values, gradients and all that tells about a pattern."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dense import Shape, assert_close, assert_same_results, random_inputs
from dense import run_with_gradients as run
from torch import Tensor

import attncomp
from attncomp import CompiledPattern
from attncomp.codegen import emit
from attncomp.frontend.parser import parse
from attncomp.ir.schedule import Problem
from attncomp.runtime import program

SPEC = "sparsek(k=4) | window(4)"
SPECS = (
    SPEC,
    "window(5)",
    "first(3) | window(9)",
    "causal",
    "full - window(3)",
    'sparsek(k=5, lag=3, gate="logit")',
    'sparsek(k=5, gate="value") & window(20) | first(2)',
    'sparsek(k=6, gate="hard") - window(4)',
    'sparsek(k=6, gate="straight_through") | window(4)',
    "sparsek(3) | sparsek(7, lag=5)",
    "sparsek(4) | causal",
    "window(3) - window(8)",
)
SHAPES = {
    "grouped": Shape(
        batch=2, query_heads=6, kv_heads=3, groups=2, n_queries=37, n_keys=45, head_dim=16,
        value_dim=24,
    ),
    "more queries": Shape(query_heads=4, kv_heads=1, groups=4, n_queries=150, n_keys=141,
                          head_dim=17, value_dim=16),
}  # fmt: skip


def attend(
    pattern: CompiledPattern, scale: float | None = None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The pattern as a function of q, k, v and scores, which it may not take."""

    def call(q: Tensor, k: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        tensors = {"scores": u} if pattern.tensors else {}
        return pattern(q, k, v, scale=scale, return_lse=True, **tensors)

    return call


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spec", SPECS)
def test_values_and_gradients(spec: str, shape: str, generator: torch.Generator) -> None:
    inputs = random_inputs(SHAPES[shape], generator)
    actual = run(attend(attncomp.compile(spec, backend="torch"), 0.4), inputs)
    expected = run(attend(attncomp.compile(spec, backend="reference"), 0.4), inputs)
    assert_same_results(actual, expected, atol=1e-11, rtol=1e-9)


def test_the_default_scale_and_return_lse(generator: torch.Generator) -> None:
    inputs = random_inputs(SHAPES["grouped"], generator)
    pattern = attncomp.compile(SPEC)
    out = pattern(inputs.q, inputs.k, inputs.v, scores=inputs.scores)
    same, lse = attend(pattern, 16**-0.5)(inputs.q, inputs.k, inputs.v, inputs.scores)
    assert torch.equal(out, same)
    assert lse.shape == (2, 6, 37)
    other, _ = attend(pattern, 1)(inputs.q, inputs.k, inputs.v, inputs.scores)
    assert not torch.allclose(out, other)


@pytest.mark.parametrize("which", ["out", "lse"])
def test_gradients_of_one_result(which: str, generator: torch.Generator) -> None:
    inputs = random_inputs(SHAPES["grouped"], generator)
    gradients = []
    for backend in ("torch", "reference"):
        leaves = [t.clone().requires_grad_() for t in (inputs.q, inputs.k, inputs.v, inputs.scores)]
        out, lse = attend(attncomp.compile(SPEC, backend=backend))(*leaves)
        # The gradient of a sum is an expanded tensor, without a unit stride.
        finite = lse.masked_fill(lse == -torch.inf, 0)
        (out.sum() if which == "out" else finite.sum()).backward()
        gradients.append([torch.zeros_like(t) if t.grad is None else t.grad for t in leaves])
    for name, actual, expected in zip("qkvu", *gradients, strict=True):
        assert_close(actual, expected, name=name, atol=1e-11)
    assert gradients[0][0].any()


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (3,), (0, 3)])
def test_only_wanted_gradients_come_back(
    wanted: tuple[int, ...], generator: torch.Generator
) -> None:
    inputs = random_inputs(SHAPES["grouped"], generator)
    leaves = [inputs.q, inputs.k, inputs.v, inputs.scores]
    everything = run(attend(attncomp.compile(SPEC)), inputs, with_lse=False)
    leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(leaves)]
    attncomp.compile(SPEC)(*leaves[:3], scores=leaves[3]).backward(inputs.dout)
    names = ("dq", "dk", "dv", "dscores")
    for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        if i in wanted:
            assert torch.equal(leaf.grad, getattr(everything, name)), name
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("score_dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(
    dtype: torch.dtype, score_dtype: torch.dtype, backend: str, generator: torch.Generator
) -> None:
    drawn = random_inputs(SHAPES["grouped"], generator, dtype=dtype)
    leaves = [t.requires_grad_() for t in (drawn.q, drawn.k, drawn.v)]
    u = drawn.scores.to(score_dtype).requires_grad_()
    out, lse = attend(attncomp.compile(SPEC, backend=backend))(*leaves, u)
    out.backward(drawn.dout)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    assert [t.grad.dtype for t in leaves] == [dtype] * 3
    assert u.grad.dtype == score_dtype
    exact = drawn.to(torch.float64)
    wide = attncomp.compile(SPEC, backend="reference")(
        exact.q, exact.k, exact.v, scores=u.detach().double()
    )
    assert_close(out, wide, name="out", atol=8 * torch.finfo(dtype).eps)


def test_any_strides_with_a_unit_last_one(generator: torch.Generator) -> None:
    inputs = random_inputs(SHAPES["grouped"], generator)
    expected = run(attend(attncomp.compile(SPEC)), inputs)
    changed = [
        t.transpose(1, 2).contiguous().transpose(1, 2) for t in (inputs.q, inputs.k, inputs.v)
    ]
    u = inputs.scores.mT.contiguous().mT
    assert not any(t.is_contiguous() for t in (*changed, u))
    leaves = [t.requires_grad_() for t in (*changed, u)]
    out, lse = attend(attncomp.compile(SPEC))(*leaves)
    torch.autograd.backward((out, lse), (inputs.dout.mT.contiguous().mT, inputs.dlse))
    assert torch.equal(out, expected.out)
    for name, leaf in zip(("dq", "dk", "dv", "dscores"), leaves, strict=True):
        assert_close(leaf.grad, getattr(expected, name), name=name, atol=1e-12)


def test_a_batch_of_none(generator: torch.Generator) -> None:
    shape = Shape(batch=0, query_heads=2, n_queries=5, n_keys=5, head_dim=16, value_dim=16)
    result = run(attend(attncomp.compile(SPEC)), random_inputs(shape, generator))
    assert result.out.shape == (0, 2, 5, 16)
    assert result.dscores.shape == (0, 1, 5)


def test_scores_that_cannot_matter_are_needed_all_the_same() -> None:
    pattern = attncomp.compile("sparsek(4) | causal")
    assert pattern.tensors == ("scores",)
    assert pattern.plan.scores == ()
    with pytest.raises(attncomp.errors.MissingTensorError):
        pattern(*(torch.zeros(1, 1, 4, 16) for _ in range(3)))


def test_equal_texts_give_one_object() -> None:
    assert attncomp.compile(SPEC) is attncomp.compile(SPEC)
    assert attncomp.compile(SPEC, backend="torch") is not attncomp.compile(SPEC)


def test_identity() -> None:
    pattern = attncomp.compile("( sparsek(4, lag=0)|window(size=4) )", backend="torch")
    assert str(pattern) == SPEC
    assert repr(pattern) == f"attncomp.compile('{SPEC}', backend='torch')"
    assert repr(attncomp.compile("full")) == "attncomp.compile('full')"
    same = attncomp.compile(parse(SPEC), backend="torch")
    assert pattern == same
    assert hash(pattern) == hash(same)
    assert pattern != attncomp.compile(SPEC)
    assert pattern != attncomp.compile("sparsek(k=5) | window(4)", backend="torch")
    assert pattern != SPEC
    assert (pattern.backend, attncomp.compile(SPEC).backend) == ("torch", None)


@pytest.mark.parametrize("spec", SPECS)
def test_copies(spec: str) -> None:
    for backend in (None, "reference"):
        pattern = attncomp.compile(spec, backend=backend)
        for other in (pickle.loads(pickle.dumps(pattern)), copy.deepcopy(pattern)):
            assert other == pattern
            assert (str(other), other.backend) == (str(pattern), pattern.backend)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("spec", SPECS)
def test_meta_tensors_have_shapes_and_gradients(spec: str, backend: str) -> None:
    q, k, v, u = (
        torch.empty(size, device="meta", requires_grad=True)
        for size in ((2, 4, 9, 16), (2, 2, 9, 16), (2, 2, 9, 24), (2, 2, 9))
    )
    out, lse = attend(attncomp.compile(spec, backend=backend))(q, k, v, u)
    assert (out.device.type, out.shape, lse.shape) == ("meta", (2, 4, 9, 24), (2, 4, 9))
    if out.requires_grad:  # a pattern that attends nothing has none by its definition
        out.sum().backward()
        assert q.grad is not None
        assert (q.grad.device.type, q.grad.shape) == ("meta", q.shape)


def test_function_transforms_of_the_reference(generator: torch.Generator) -> None:
    inputs = random_inputs(SHAPES["grouped"], generator)
    pattern = attncomp.compile(SPEC, backend="reference")

    def loss(q: Tensor) -> Tensor:
        return (pattern(q, inputs.k, inputs.v, scores=inputs.scores) * inputs.dout).sum()

    expected = run(attend(pattern), inputs, with_lse=False)
    assert_close(torch.func.grad(loss)(inputs.q), expected.dq, name="dq", atol=1e-12)


def test_the_plan_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    usual = {
        backend: attncomp.compile("window(6)", backend=backend).plan.problem
        for backend in (None, "torch", "triton", "reference")
    }
    on_torch = Problem(
        backend="torch", target="cpu", dtype="float32", head_dim=64, value_dim=64, unit_heads=4
    )
    on_triton = Problem(
        backend="triton", target="sm_90", dtype="bfloat16", head_dim=128, value_dim=128,
        unit_heads=4,
    )  # fmt: skip
    assert usual == {
        None: on_torch, "torch": on_torch, "triton": on_triton, "reference": on_torch
    }  # fmt: skip


def test_compiling_leaves_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched() -> bool:
        raise AssertionError("a process that compiles must still be able to fork")

    monkeypatch.setattr(torch.cuda, "is_available", touched)
    attncomp.compile("window(7) | sparsek(3)")


def test_plan_and_source() -> None:
    pattern = attncomp.compile("sparsek(k=3) | window(5)", backend="torch")
    q, k, v = torch.zeros(1, 8, 3, 32), torch.zeros(1, 2, 3, 32), torch.zeros(1, 2, 3, 16)
    pattern(q.bfloat16(), k.bfloat16(), v.bfloat16(), scores=torch.zeros(1, 4, 3))
    problem = Problem(
        backend="torch", target="cpu", dtype="bfloat16", head_dim=32, value_dim=16, unit_heads=2
    )
    assert pattern.plan.problem == problem
    assert pattern.plan == pattern.plan_for(problem)
    assert pattern.source == emit.render(pattern.plan)
    assert "    sparsek(k=3) | window(5)\n" in pattern.source


EXPLAINED = {
    "sparsek(k=512) | window(256)": """\
pattern      sparsek(k=512) | window(256)
tensors      q, k, v, scores [B, G, Nk]
gate         key_value: the gate multiplies q . k and the value
sweep 0      window: 0 <= q - k < 256; at most 256 keys a query
  N = 65536  visits 383 keys a query, attends 256 (66.7 %): O(1) a query
sweep 1      sparsek(k=512) where q - k >= 256; at most 512 keys a query, gate m0
  N = 65536  visits at most 638 keys a query, attends at most 508, depending on scores: O(1) a query
tiles        128 queries by 1024 keys
keys         at most 256 + 512 = 768 a query, in one softmax
time         O(N), forward and backward; O(N log N) for the selection, once a score group
memory       O(N): no N x N matrix is ever held
generation   keeps 512 slots of the selection + 256 latest keys = 768 keys at any context length
determinism  deterministic on every backend: no atomics
""",
    "full": """\
pattern      full
tensors      q, k, v
gate         none: every attended key counts in full
sweep 0      full: any; all keys there
  N = 8192   visits 8192 keys a query, attends 8192 (100 %): O(N) a query
  N = 65536  visits 65536 keys a query, attends 65536 (100 %): O(N) a query
tiles        128 queries by 1024 keys
keys         grow with the context length
time         O(N^2), forward and backward
memory       O(N): no N x N matrix is ever held
generation   impossible: queries attend to keys ahead of them
determinism  deterministic on every backend: no atomics
""",
}


@pytest.mark.parametrize("spec", EXPLAINED)
def test_explain(spec: str) -> None:
    assert attncomp.compile(spec, backend="torch").explain() == EXPLAINED[spec]


def test_the_selection_of_triton_does_not_sort() -> None:
    text = attncomp.compile("sparsek(k=8)", backend="triton").explain()
    assert "time         O(N), forward and backward; O(N) for the selection, once" in text
    assert "determinism  deterministic on every backend: atomics add integers alone\n" in text


def test_the_reference_does_not_claim_the_cost_of_kernels() -> None:
    text = attncomp.compile("window(4)", backend="reference").explain()
    assert "time         O(N^2), on backend reference\n" in text
    assert "memory       O(N^2): every pair is held\n" in text


@pytest.mark.parametrize(
    ("spec", "lines"),
    [
        ("first(4) | window(1024)", ["keeps 1024 latest keys + 4 first keys = 1028 keys"]),
        ("causal", ["O(N^2), forward", "generation   keeps all keys\n"]),
        ("window(4) - window(8)", ["none: no query attends to any key", "keeps nothing"]),
        ('sparsek(k=8, lag=300, gate="hard")', ["keeps 8 slots of the selection + 300 latest"]),
        ("sparsek(3) | sparsek(5, lag=9)", ["at most 3 + 5 = 8 a query", "gate max(m0, m1)"]),
        ("sparsek(k=9) & window(4)", ["at most 4 a query"]),
        (
            'sparsek(8, gate="hard") & sparsek(6, lag=10, gate="hard")',
            ["sweep 0      sparsek(k=6, lag=10), and in sparsek(k=8); at most 6 keys a query\n"],
        ),
    ],
)
def test_explained_lines(spec: str, lines: list[str]) -> None:
    text = attncomp.compile(spec).explain()
    assert [line for line in lines if line not in text] == [], text


def rendered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The patterns rendered from now on, in order."""
    patterns: list[str] = []

    def render(plan: attncomp.codegen.plan.KernelPlan) -> str:
        patterns.append(plan.pattern)
        return emit.render(plan)

    monkeypatch.setattr(program, "render", render)
    return patterns


def zeros(n: int, dim: int) -> list[Tensor]:
    return [torch.zeros(1, 2, n, dim) for _ in range(3)]


def test_patterns_that_mean_the_same_share_a_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATTNCOMP_CACHE_DIR", str(tmp_path))
    patterns = rendered(monkeypatch)
    for spec in ("window(11)", "window(11) | window(7)", "causal & window( 11 )"):
        attncomp.compile(spec)(*zeros(5, 19))
    assert patterns == ["window(11)"]
    assert len(list(tmp_path.rglob("*.py"))) == 1


def test_other_lengths_render_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = rendered(monkeypatch)
    pattern = attncomp.compile("sparsek(k=4) | window(13)")
    for n in (1, 5, 129, 300):
        pattern(*zeros(n, 16), scores=torch.zeros(1, 2, n))
    assert patterns == ["sparsek(k=4) | window(13)"]
    pattern(*zeros(5, 24), scores=torch.zeros(1, 2, 5))
    assert len(patterns) == 2


def test_threads_share_one_module(monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = rendered(monkeypatch)
    inputs = [torch.randn(1, 2, 40, 16) for _ in range(3)]
    u = torch.randn(1, 2, 40)
    together = threading.Barrier(4)
    results: list[Tensor] = []

    def work() -> None:
        together.wait()
        for _ in range(5):
            results.append(attncomp.compile("sparsek(k=4) | window(17)")(*inputs, scores=u))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert patterns == ["sparsek(k=4) | window(17)"]
    assert len(results) == 20
    assert all(torch.equal(result, results[0]) for result in results)
