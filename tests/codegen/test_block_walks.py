"""Sweeps that walk lists of blocks: the lists, what is visited, and both backends' kernels."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from typing import Any

import pytest
import torch
from dense import Inputs, Shape, dense_result, random_inputs
from torch import Tensor
from torch_modules import make_plan, module_of, run_module
from triton_support import assert_near, interpreter, make_problem, run_plan, wide

import attncomp
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.plan_text import plan_text
from attncomp.errors import TensorShapeError
from attncomp.frontend.parser import parse
from attncomp.ir.affine import Drawn
from attncomp.ir.build import build
from attncomp.ir.oracle import tensor_entries
from attncomp.runtime.extents import Call
from attncomp.runtime.launch import inverse_lists
from attncomp.runtime.tables import BlockParts, block_lists, block_state, draws, with_all_heads
from attncomp.runtime.words import transposed_words, unpacked

CPU = torch.device("cpu")
SHAPE = Shape(query_heads=4, kv_heads=2, groups=2, n_queries=1, n_keys=1, head_dim=16, value_dim=16)


def shaped(n_queries: int, n_keys: int, batch: int = 2) -> Shape:
    return dataclasses.replace(SHAPE, batch=batch, n_queries=n_queries, n_keys=n_keys)


def triton_plan(pattern: str, shape: Shape, heads: int) -> KernelPlan:
    """heads: for how many heads the tensors of blocks have lists."""
    problem = make_problem(shape)
    unit = math.gcd(shape.query_heads // shape.kv_heads, shape.query_heads // heads)
    return lower(pattern, dataclasses.replace(problem, unit_heads=unit))


def tables(size: int, n_keys: int, heads: int, generator: torch.Generator) -> dict[str, Tensor]:
    n_blocks = -(-n_keys // size)
    size_of = (2 if heads == 2 else 1, heads, n_blocks, n_blocks)
    mask = torch.rand(size_of, generator=generator) < 0.3
    return {"block_mask": mask.int(), "block_scores": torch.randn(size_of, generator=generator)}


def pairs_of(spans: Tensor, lists: Tensor) -> Tensor:
    """Lists as a matrix [B', H', T, T]."""
    if lists.dtype == torch.int64:
        found = unpacked(lists.unflatten(2, (spans.shape[2], -1)))
        assert torch.equal(found.sum(-1), spans[..., 1] - spans[..., 0])
        assert not found[..., spans.shape[2] :].any()
        return found[..., : spans.shape[2]]
    found = torch.zeros(*spans.shape[:3], spans.shape[2], dtype=torch.bool)
    for b, h, block in itertools.product(*map(range, spans.shape[:3])):
        begin, end = spans[b, h, block].tolist()
        listed = lists[b, h, begin:end].tolist()
        assert listed == sorted(set(listed))
        found[b, h, block, listed] = True
    return found


@pytest.mark.parametrize("n_keys", [1, 5, 64, 101, 900])
@pytest.mark.parametrize("pattern", ["blocks(16)", "topk_blocks(3, 7)", "random_blocks(4, 5, 9)"])
def test_lists_and_their_inverse(pattern: str, n_keys: int, generator: torch.Generator) -> None:
    plan = lower(pattern, make_problem(SHAPE))
    (walk,) = plan.walks
    given = tables(walk.size, n_keys, 2, generator)
    spans, lists = block_lists(walk, given, n_keys, CPU)
    inverse = transposed_words if walk.packed else inverse_lists
    assert (spans.dtype, lists.dtype) == (torch.int32, (torch.int32, torch.int64)[walk.packed])
    found = pairs_of(spans, lists)
    place = torch.arange(0, n_keys, walk.size)
    gates = attncomp.compile(pattern).mask(
        n_keys, heads=2, batch=2, **{name: given[name] for name in plan.inputs}
    )
    assert torch.equal(found.expand(*gates.shape[:2], -1, -1), gates[:, :, place][..., place] > 0)
    assert torch.equal(pairs_of(*inverse(spans, lists)), found.mT)


def test_lists_leave_out_what_the_sweep_has_no_pairs_of(generator: torch.Generator) -> None:
    full = {"block_mask": torch.ones(1, 1, 8, 8, dtype=torch.int32)}
    block = torch.arange(8)
    for pattern, kept in (
        ("blocks(16) & causal", block <= block[:, None]),
        ("blocks(16) & window(17)", (block <= block[:, None]) & (block >= block[:, None] - 1)),
        ("blocks(16) & window(18)", (block <= block[:, None]) & (block >= block[:, None] - 2)),
        ("blocks(16) & first(33)", (block <= block[:, None]) & (block < 3)),
        ("blocks(16) - first(33) - causal", block >= block[:, None]),
    ):
        plan = lower(pattern, make_problem(SHAPE))
        found = [pairs_of(*block_lists(walk, full, 128, CPU))[0, 0] for walk in plan.walks]
        assert torch.equal(torch.stack(found).any(0), kept), pattern


def test_plans() -> None:
    """What a list makes sure of is no part of the mask."""
    plan = lower("blocks(64) & causal", make_problem(SHAPE))
    assert lower("where(block_mask[b, h, q // 64, k // 64] != 0) & causal", plan.problem) == plan
    text = plan_text(plan)
    assert "walk blocks of 64 keys with block_mask[b, h, q // 64, k // 64] != 0\n" in text
    assert "where" not in text and plan.tensors == () and plan.inputs == ("block_mask",)
    small = lower("blocks(8)", plan.problem)  # lists of so small blocks would not pay
    assert small.walks == () and small.tensors == ("block_mask",)
    assert lower("topk_blocks(4, 8)", plan.problem).walks
    assert not lower("~topk_blocks(4, 8)", plan.problem).walks


@pytest.mark.parametrize(
    ("size", "queries", "keys"),
    [(16, 16, 16), (48, 16, 16), (64, 32, 64), (100, 16, 16), (3, 16, 16)],
)
def test_tiles_lie_within_blocks(size: int, queries: int, keys: int) -> None:
    problem = dataclasses.replace(make_problem(SHAPE), target="sm_90", dtype="bfloat16")
    tile = lower(f"topk_blocks(4, {size})", dataclasses.replace(problem, unit_heads=4)).schedule
    assert (tile.forward.queries, tile.forward.keys) == (queries, keys)


@pytest.mark.parametrize(
    "pattern",
    [
        "blocks(16) - sparsek(k=5, lag=9, gate='hard')",
        "blocks(16) | sparsek(k=5, lag=9, gate='logit')",
    ],
)
def test_torch_selection_beside_lists(pattern: str, generator: torch.Generator) -> None:
    """The state of the selection ends where the lists begin."""
    inputs = random_inputs(shaped(37, 40), generator)
    leaves = [tensor.requires_grad_() for tensor in (inputs.q, inputs.k, inputs.v)]
    mask = tables(16, 40, 1, generator)["block_mask"]
    assert lower(pattern, make_problem(shaped(37, 40))).walks
    found, expected = (
        attncomp.compile(pattern, backend=backend)(*leaves, scores=inputs.scores, block_mask=mask)
        for backend in ("torch", "reference")
    )
    gradients = [torch.autograd.grad(out, leaves, inputs.dout) for out in (found, expected)]
    for one, other in zip((found, *gradients[0]), (expected, *gradients[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_torch_rows_of_several_words(generator: torch.Generator) -> None:
    """107 blocks: rows of three words, of which some list nothing."""
    shape = dataclasses.replace(shaped(610, 1700, 1), query_heads=2, kv_heads=1, groups=1)
    inputs = random_inputs(shape, generator)
    mask = torch.rand((1, 1, 107, 107), generator=generator) < 0.03
    inputs = dataclasses.replace(inputs, given={"block_mask": mask})
    found, _ = run_module(make_plan("blocks(16) & causal", shape), inputs, scale=0.3)
    both = dataclasses.replace(inputs, given={"block_mask": mask.expand(-1, 2, -1, -1)})
    assert_near(found, dense_result("blocks(16) & causal", both, scale=0.3), 1e-12)


@pytest.mark.parametrize("size", [16, 24])
def test_only_listed_keys_are_visited(
    size: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of keys that the torch module reads: those of each block's list, once a tile."""
    shape = dataclasses.replace(shaped(96, 96, batch=1), query_heads=1, kv_heads=1, groups=1)
    plan = make_plan(f"blocks({size})", shape, tile=(8, 4))
    inputs = random_inputs(shape, generator)
    given = tables(size, 96, 1, generator)
    given["block_mask"][..., 0, 0] = 1
    read: list[Tensor] = []
    module = module_of(plan)
    pick = module.pick

    def counted(tensor: Tensor, rows: Tensor) -> Tensor:
        read.append(rows.flatten())
        return pick(tensor, rows)

    monkeypatch.setattr(module, "pick", counted)
    run_module(plan, dataclasses.replace(inputs, given=given), scale=0.25)
    visits = torch.cat(read).bincount(minlength=96)
    tiles = 96 // 8 // (96 // size)  # of a block
    # k and v, forward and backward
    expected = given["block_mask"][0, 0].sum(0).repeat_interleave(size) * tiles * 4
    assert torch.equal(visits, expected)


class TestTriton:
    """Generated Triton modules, interpreted, against the definition in float64."""

    @pytest.mark.parametrize(
        ("pattern", "size", "n_queries", "n_keys", "heads"),
        [
            ("blocks({s})", 16, 70, 70, 4),
            ("blocks({s})", 16, 33, 60, 2),
            ("blocks({s})", 64, 90, 70, 1),
            ("blocks({s})", 48, 120, 130, 2),
            ("topk_blocks(2, {s}) & causal", 48, 75, 100, 2),
            ("topk_blocks(2, {s}) & causal", 3, 20, 20, 1),
            ("random_blocks(2, {s})", 16, 50, 50, 1),
            ("sparsek(k=5) | blocks({s})", 16, 37, 40, 1),
            ("sparsek(k=5) - random_blocks(1, {s})", 5, 30, 30, 1),
            ("random_blocks(1, {s}) & causal | topk_blocks(1, {s})", 16, 40, 40, 4),
        ],
    )
    def test_attention_and_gradients(
        self,
        pattern: str,
        size: int,
        n_queries: int,
        n_keys: int,
        heads: int,
        generator: torch.Generator,
    ) -> None:
        pattern = pattern.format(s=size)
        shape = shaped(n_queries, n_keys)
        inputs = random_inputs(shape, generator, dtype=torch.float32)
        inputs = dataclasses.replace(inputs, given=tables(size, n_keys, heads, generator))
        with interpreter():
            found = run_plan(triton_plan(pattern, shape, heads), inputs, 0.25)
        assert_near(found, self.expected(pattern, inputs), 2e-6)

    @pytest.mark.parametrize(("n_queries", "n_keys"), [(900, 900), (37, 1610)])
    def test_rows_of_several_words(
        self, n_queries: int, n_keys: int, generator: torch.Generator
    ) -> None:
        """Rows of two or three words, of which some list nothing; a column is full."""
        shape = dataclasses.replace(shaped(n_queries, n_keys, 1), query_heads=2, kv_heads=1)
        shape = dataclasses.replace(shape, groups=1)
        inputs = random_inputs(shape, generator, dtype=torch.float32)
        n_blocks = -(-n_keys // 16)
        mask = torch.rand((1, 2, n_blocks, n_blocks), generator=generator) < 0.01
        mask[..., torch.randint(n_blocks, (), generator=generator)] = True
        mask[..., -1, 40:60] = True
        inputs = dataclasses.replace(inputs, given={"block_mask": mask})
        with interpreter():
            found = run_plan(triton_plan("blocks(16)", shape, 2), inputs, 0.25)
        assert_near(found, self.expected("blocks(16)", inputs), 2e-6)

    def expected(self, pattern: str, inputs: Inputs) -> Any:
        graph = build(parse(pattern))
        entries, heads = tensor_entries(graph), inputs.q.shape[1]
        needed = {name: inputs.given[name] for name in entries}
        given = with_all_heads(needed, entries, heads)
        return dense_result(graph, dataclasses.replace(wide(inputs), given=given), scale=0.25)


def test_a_million_positions_need_little() -> None:
    """Lists of random blocks: no table of T x T, no long wait."""
    plan = lower("random_blocks(3, 64) & causal | window(512)", make_problem(SHAPE))
    n_keys = 1 << 20
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        state = block_state(BlockParts.of(plan), Call(1, 4, 2, n_keys, n_keys, CPU, {}))
        best = min(best, time.perf_counter() - start)
    assert sum(tensor.nbytes for tensor in state) < 1 << 20
    assert best < 0.05
    table = draws(Drawn(3, 64, 0), n_keys // 64, CPU)
    assert table.shape == (n_keys // 64, 3) and int(table.max()) < n_keys // 64


@pytest.mark.parametrize(
    ("pattern", "scored"),
    [("topk_blocks(4, 64) & causal", True), ("random_blocks(3, 64) & causal | window(64)", False)],
)
def test_time_is_linear_in_the_listed_blocks(
    pattern: str, scored: bool, generator: torch.Generator
) -> None:
    """32,768 positions in at most 3 times the time of 16,384: the torch backend, both passes."""
    attend = attncomp.compile(pattern, backend="torch")
    best = {16384: math.inf, 32768: math.inf}
    for n in (*best, *best):  # twice, as neighbours on the machine slow single runs
        q, k, v = torch.randn(3, 1, 1, n, 16, generator=generator, requires_grad=True)
        n_blocks = n // 64
        scores = torch.randn(1, 1, n_blocks, n_blocks, generator=generator)
        given = {"block_scores": scores} if scored else {}
        start = time.process_time()
        out = attend(q, k, v, **given)
        torch.autograd.grad(out.sum(), (q, k, v))
        best[n] = min(best[n], time.process_time() - start)
    assert best[32768] <= 3 * best[16384] + 1
    assert best[32768] < 15  # all 2^30 pairs would take minutes


@pytest.mark.parametrize("pattern", ["blocks(16) & causal", "topk_blocks(2, 16) | window(3)"])
def test_rows_for_the_queries_alone(pattern: str, generator: torch.Generator) -> None:
    """Fewer queries than keys may bring a table with as many rows of blocks as they have."""
    attend = attncomp.compile(pattern)
    q = torch.randn(2, 2, 37, 16, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, 101, 16, generator=generator, dtype=torch.float64)
    drawn = tables(16, 101, 2, generator)
    name = attend.tensors[0]
    whole, last = drawn[name], drawn[name][..., -3:, :]
    assert whole.shape[-2:] == (7, 7)
    assert torch.equal(attend(q, k, v, **{name: last}), attend(q, k, v, **{name: whole}))
    reference = attncomp.compile(pattern, backend="reference")
    assert torch.equal(reference(q, k, v, **{name: last}), reference(q, k, v, **{name: whole}))
    masks = [attend.mask(37, 101, heads=2, batch=2, **{name: table}) for table in (last, whole)]
    assert torch.equal(*masks)
    # 38 queries begin within a block, whose row would be ambiguous
    with pytest.raises(TensorShapeError, match=r"expected shape \[.*, 7, 7\], found \[.*, 3, 7\]"):
        attend.mask(38, 101, heads=2, batch=2, **{name: last})
