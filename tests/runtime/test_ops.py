"""The custom ops under torch's machinery: opcheck, compile, autocast, checkpoints, export."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from dense import Shape, assert_close, random_inputs
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import attncomp
from attncomp.runtime.extents import Call
from attncomp.runtime.program import problem_text
from attncomp.runtime.tables import BlockParts, block_state, list_heads

SPEC = "sparsek(k=4) | window(4)"
SPECS = (
    SPEC,
    "first(2) | window(5)",
    'sparsek(k=5, lag=3, gate="logit")',
    'sparsek(k=6, gate="hard") - window(4)',
    "sparsek(3) | sparsek(7, lag=5)",
    "window(3) - window(8)",
)
PATTERN = attncomp.compile(SPEC)
OPS = torch.ops.attncomp
# Tests in which torch itself compiles most of the time; traced, that takes three times as long.
UNTRACED = pytest.mark.no_cover


def leaves(
    generator: torch.Generator, n_queries: int = 20, n_keys: int = 26, **options: Any
) -> list[Tensor]:
    """q, k, v and scores that want gradients; no two sizes are equal that may vary apart."""
    shape = Shape(
        batch=2, query_heads=4, kv_heads=2, groups=2, n_queries=n_queries, n_keys=n_keys,
        head_dim=16, value_dim=24,
    )  # fmt: skip
    inputs = random_inputs(shape, generator, **options)
    return [t.requires_grad_() for t in (inputs.q, inputs.k, inputs.v, inputs.scores)]


def attend(q: Tensor, k: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    return PATTERN(q, k, v, scores=u, return_lse=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("spec", SPECS)
def test_opcheck(spec: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    q, k, v, u = leaves(generator, dtype=dtype)
    q = q.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    pattern = attncomp.compile(spec)
    used = [u] if pattern.plan.scores else []
    text = (str(pattern), problem_text("torch", q, k, v, used))
    state = []
    if used:
        torch.library.opcheck(OPS.select.default, (used, 20, *text))
        state = OPS.select(used, 20, *text)
        assert not any(tensor.requires_grad for tensor in state)
    torch.library.opcheck(OPS.attend.default, (q, k, v, used, state, 0.3, *text))
    out, lse = OPS.attend(q, k, v, used, state, 0.3, *text)
    saved = [t.detach() for t in (q, k, v, out, lse)]
    for dlse in (None, torch.randn_like(lse)):
        arguments = (torch.randn_like(out), dlse, *saved, state, 0.3, *text)
        torch.library.opcheck(OPS.attend_backward.default, arguments)


def test_opcheck_of_walks(generator: torch.Generator) -> None:
    q, k, v, _ = leaves(generator, dtype=torch.float64)
    pattern = attncomp.compile("topk_blocks(2, 5) & causal | blocks(16)")
    parts = BlockParts.of(pattern.plan)
    heads, n_keys = q.shape[1], k.shape[2]
    blocks = [-(-n_keys // size) for size in (16, 5)]
    given = {
        "block_mask": torch.rand(1, 1, blocks[0], blocks[0], generator=generator) < 0.5,
        "block_scores": torch.randn(1, heads, blocks[1], blocks[1], generator=generator),
    }
    text = str(pattern), problem_text("torch", q, k, v, [], list_heads(parts, given))
    state = block_state(parts, Call.of(q, k, given))
    torch.library.opcheck(OPS.attend.default, (q, k, v, [], state, 0.3, *text))
    out, lse = OPS.attend(q, k, v, [], state, 0.3, *text)
    saved = [t.detach() for t in (q, k, v, out, lse)]
    arguments = (torch.randn_like(out), torch.randn_like(lse), *saved, state, 0.3, *text)
    torch.library.opcheck(OPS.attend_backward.default, arguments)


def test_opcheck_of_lists_of_words(generator: torch.Generator) -> None:
    table = torch.randint(0, 2, (2, 3, 101, 101), generator=generator, dtype=torch.int32)
    lower, upper = torch.randint(0, 101, (2, 101), generator=generator).int()
    torch.library.opcheck(OPS.list_words.default, (table, lower, upper))


@UNTRACED
def test_walks_are_compiled_once_for_all_lengths(generator: torch.Generator) -> None:
    torch._dynamo.reset()
    counters.clear()
    pattern = attncomp.compile("topk_blocks(2, 16) & causal | random_blocks(2, 16) | blocks(32)")

    def walk(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scores: Tensor) -> Tensor:
        return pattern(q, k, v, block_mask=mask, block_scores=scores)

    compiled = torch.compile(walk, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (70, 131, 200):
        q, k, v, _ = leaves(generator, n, n)
        by_16, by_32 = -(-n // 16), -(-n // 32)
        mask = torch.rand(1, 1, by_32, by_32, generator=generator) < 0.3
        scores = torch.randn(len(q), 1, by_16, by_16, generator=generator, requires_grad=True)
        results = [attend(q, k, v, mask, scores) for attend in (compiled, walk)]
        assert_close(*results, name="out", atol=1e-12)
        for actual, expected in zip(
            *(torch.autograd.grad(out.square().sum(), (q, k, v)) for out in results), strict=True
        ):
            assert_close(actual, expected, name="gradient", atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@UNTRACED
@pytest.mark.parametrize(
    "source",
    ["where(ids[b, q] <= ids[b, k])", "where(q // 8 != k // 8 and ids[b, q] == ids[b, k] - 1)"],
)
def test_extents_are_compiled_once_for_all_lengths(source: str, generator: torch.Generator) -> None:
    torch._dynamo.reset()
    counters.clear()
    pattern = attncomp.compile(source)

    def attend(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
        return pattern(q, k, v, ids=ids)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (70, 131, 1200):
        q, k, v, _ = leaves(generator, n, n)
        ids = torch.randint(0, n // 9, (1, n), generator=generator)
        results = [call(q, k, v, ids) for call in (compiled, attend)]
        assert_close(*results, name="out", atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@UNTRACED
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_once_for_all_lengths(backend: str, generator: torch.Generator) -> None:
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(attend, fullgraph=True, backend=backend, dynamic=True)
    for n_queries, n_keys in ((20, 26), (33, 57), (101, 102)):
        inputs = leaves(generator, n_queries, n_keys)
        results = compiled(*inputs), attend(*inputs)
        gradients = [
            torch.autograd.grad(out.square().sum() + lse.sum(), inputs) for out, lse in results
        ]
        for name, actual, expected in zip(
            ("out", "lse", "dq", "dk", "dv", "du"),
            (*results[0], *gradients[0]),
            (*results[1], *gradients[1]),
            strict=True,
        ):
            assert_close(actual, expected, name=name, atol=1e-12)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_compiled_again_at_most_once_for_a_second_length(generator: torch.Generator) -> None:
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for n in (140, 150, 190, 1000):
        inputs = leaves(generator, n, n + 4)
        assert torch.equal(compiled(*inputs)[0], attend(*inputs)[0])
    assert counters["stats"]["unique_graphs"] <= 2


def test_gradcheck(generator: torch.Generator) -> None:
    q, k, v, _ = leaves(generator, 7, 9)
    inputs = [tensor.detach()[:1, :2].requires_grad_() for tensor in (q, k, v)]
    # Further apart than a step, so that no step changes what is selected.
    ranks = torch.rand(1, 2, 9, generator=generator).argsort(-1).double()
    noise = torch.rand(1, 2, 9, generator=generator, dtype=torch.float64)
    inputs.append((0.3 * ranks + 0.1 * noise).requires_grad_())
    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)


def test_forward_mode_is_refused(generator: torch.Generator) -> None:
    q, k, v, scores = (tensor.detach() for tensor in leaves(generator))
    attention = attncomp.compile(SPEC)
    with pytest.raises(attncomp.errors.BackendError) as caught:
        torch.func.jvp(lambda q: attention(q, k, v, scores=scores), (q,), (q,))
    assert str(caught.value) == (
        "forward-mode derivatives of attention are not available on this backend: "
        "use backend 'reference'"
    )


def test_second_derivatives_are_refused(generator: torch.Generator) -> None:
    inputs = leaves(generator)
    out, _ = attend(*inputs)
    (dq,) = torch.autograd.grad(out.square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(attncomp.errors.BackendError) as caught:
        dq.sum().backward()
    assert str(caught.value) == (
        "second derivatives of attention are not available on this backend: use backend 'reference'"
    )
    out = attncomp.compile(SPEC, backend="reference")(*inputs[:3], scores=inputs[3])
    (dq,) = torch.autograd.grad(out.square().sum(), inputs[:1], create_graph=True)
    dq.sum().backward()
    assert inputs[3].grad.isfinite().all()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint(use_reentrant: bool, generator: torch.Generator) -> None:
    inputs = leaves(generator)
    plain = torch.autograd.grad(attend(*inputs)[0].square().sum(), inputs)
    for tensor in inputs:
        tensor.grad = None
    out, _ = checkpoint(attend, *inputs, use_reentrant=use_reentrant)
    out.square().sum().backward()
    for tensor, expected in zip(inputs, plain, strict=True):
        assert torch.equal(tensor.grad, expected)


def test_autocast(generator: torch.Generator) -> None:
    inputs = leaves(generator, dtype=torch.float32)
    narrow = [t.detach().bfloat16().requires_grad_() for t in inputs[:3]]
    expected, expected_lse = attend(*narrow, inputs[3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse = attend(*inputs)
        assert PATTERN.plan.problem.dtype == "bfloat16"
        out.float().sum().backward()
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(out, expected)
    assert torch.equal(lse, expected_lse)
    assert {t.grad.dtype for t in inputs} == {torch.float32}
    (du,) = torch.autograd.grad(expected.float().sum(), inputs[3])
    assert torch.equal(inputs[3].grad, du)


def test_autocast_leaves_float64_and_the_kernels_alone(generator: torch.Generator) -> None:
    inputs = leaves(generator)
    expected = attend(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attend(*inputs)
        gradients = torch.autograd.grad(found[0].sum(), inputs)
    assert torch.equal(found[0], expected[0])
    wanted = torch.autograd.grad(expected[0].sum(), inputs)
    assert all(map(torch.equal, gradients, wanted))


def test_no_grad_keeps_no_graph(generator: torch.Generator) -> None:
    inputs = leaves(generator)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            out, lse = attend(*inputs)
        assert not out.requires_grad
        assert not lse.requires_grad
    out, _ = attend(*(t.detach() for t in inputs))
    assert not out.requires_grad


def test_meta_tensors_have_shapes() -> None:
    q, k, v = (torch.empty(2, heads, 9, 16, device="meta") for heads in (4, 2, 2))
    out, lse = attend(q, k, v, torch.empty(2, 4, 9, device="meta"))
    assert (out.shape, lse.shape) == ((2, 4, 9, 16), (2, 4, 9))
    assert (out.device.type, lse.dtype) == ("meta", torch.float32)


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = attncomp.compile(SPEC)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, u: Tensor) -> Tensor:
        return self.attend(q, k, v, scores=u)


RUN_EXPORTED = """
import sys, torch, attncomp
inputs, expected = torch.load(sys.argv[2])
out = torch.export.load(sys.argv[1]).module()(*inputs)
assert torch.equal(out, expected)
print("same")
"""


def test_an_exported_graph_runs_in_another_process(
    generator: torch.Generator, tmp_path: Path
) -> None:
    inputs = tuple(t.detach() for t in leaves(generator))
    exported = torch.export.export(Layer(), inputs)
    torch.export.save(exported, tmp_path / "layer.pt2")
    torch.save((inputs, Layer()(*inputs)), tmp_path / "inputs.pt")
    done = subprocess.run(
        [sys.executable, "-c", RUN_EXPORTED, tmp_path / "layer.pt2", tmp_path / "inputs.pt"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "same\n", done.stderr


def test_problem_text_counts_the_heads_that_share_everything() -> None:
    q, v = torch.empty(1, 24, 3, 32, dtype=torch.float16), torch.empty(1, 4, 3, 48)
    for groups in (1, 2, 3, 4, 8, 24):
        text = problem_text("triton", q, v, v, [torch.empty(1, groups, 3)])
        assert text == f"triton float16 32 48 {math.gcd(6, 24 // groups)}"
    assert problem_text("torch", q, v, v, []) == "torch float16 32 48 6"
