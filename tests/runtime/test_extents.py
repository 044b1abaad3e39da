"""Extents: what the tables say is the least that holds all pairs, and what that saves."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import torch
from dense import Shape, dense_result, random_inputs
from torch import Tensor
from torch_modules import make_plan, module_of, run_module
from triton_support import assert_near, interpreter, run_plan, wide
from triton_support import make_plan as make_triton_plan

import attncomp
from attncomp.codegen.plan import KernelPlan
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.ops import Condition
from attncomp.ir.oracle import tensor_entries
from attncomp.ir.pairs import Pairs
from attncomp.runtime.extents import Call, Extent, extent_tables
from attncomp.runtime.tables import BlockParts, block_state, with_all_heads

CPU = torch.device("cpu")
SHAPE = Shape(
    batch=2, query_heads=8, kv_heads=4, groups=2, n_queries=1, n_keys=1, head_dim=16, value_dim=16
)
# Each has one extent; tensors of N positions, for all heads, 4, 2 or 1 of them.
PATTERNS = {
    "documents": {"documents": "sorted"},
    "documents & causal": {"documents": "shuffled"},
    "prefix_lm": {"prefix_lengths": "lengths"},
    "lifetime": {"evict": "evict 8"},
    "lifetime | window(4)": {"evict": "evict 4"},
    "lifetime & window(60)": {"evict": "evict 2"},
    "where(t[b, q] == s[k] and u[q] < k)": {"t": "sorted", "s": "one row", "u": "one row"},
    "where(t[b, q] == t[b, k] or rare[b, k] == 1)": {"t": "sorted", "rare": "rare"},
    "where(t[b, q // 4] * 2 <= s[k] % 5 + n - h)": {"t": "sorted", "s": "one row"},
    "where(rare[b, q] == 1) & causal": {"rare": "rare"},
    "where(rare[b, k])": {"rare": "rare"},
    "where(3 <= k < n - 5 and t[b, q] == t[b, k])": {"t": "sorted"},
    "where((q + k) % 4 < 3 and q % 3 != k % 7 and rare[b, k] == 0)": {"rare": "rare"},
    "where(t[b, q] != t[b, k]) & causal": {"t": "sorted"},
    "where(t[b, q] != t[b, k] * 2 - 3)": {"t": "shuffled"},
    "where(t[b, q + 3] - t[b, q] != s[k] and h * rare[b, k] >= 2)": {
        "t": "sorted",
        "s": "one row",
        "rare": "rare",
    },
    # One side of each is in order by itself, rising or falling.
    "where(t[b, q] == k // 4)": {"t": "sorted"},
    "where(t[b, q] != k // 9 + h)": {"t": "shuffled"},
    "where(t[b, q] + k // 7 != 4)": {"t": "shuffled"},
    "where(t[b, q] + t[b, 3] >= k // 8 - 1)": {"t": "shuffled"},
    "where(8 * t[b, k] + n // 10 >= q - q // 3)": {"t": "shuffled"},
    "where(2 * s[k] - t[b, q] != 1 - (-q) // 3)": {"t": "sorted", "s": "one row"},
    "where(q // 8 != k // 8 and k // 3 != 7 and rare[b, k])": {"rare": "rare"},
    "where(rare[b, k] or rare[b, q] or q // 8 == k // 8)": {"rare": "rare"},
}


def drawn(kind: str, n_keys: int, generator: torch.Generator) -> Tensor:
    def integers(high: int, *size: int) -> Tensor:
        return torch.randint(0, high, size, generator=generator, dtype=torch.int32)

    kind, _, heads = kind.partition(" ")
    match kind:
        case "sorted":
            return integers(5, 2, n_keys).sort(-1).values
        case "shuffled":
            return integers(5, 2, n_keys)
        case "lengths":
            return integers(n_keys + 1, 2)
        case "one":
            return integers(max(2, n_keys // 6), n_keys)
        case "rare":
            return (torch.rand(2, n_keys, generator=generator) < 0.05).int()
        case _:
            return torch.arange(n_keys) + integers(1 + n_keys // 5, 2, int(heads), n_keys)


def shaped(n_queries: int, n_keys: int) -> Shape:
    return dataclasses.replace(SHAPE, n_queries=n_queries, n_keys=n_keys)


def tensors_of(pattern: str, n_keys: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: drawn(kind, n_keys, generator) for name, kind in PATTERNS[pattern].items()}


def pairs_within(extent: Condition, pattern: str, call: Call) -> Tensor:
    """The pairs [B, Hq, Nq, Nk] that meet an extent's requirements, one by one."""
    given = with_all_heads(call.tensors, tensor_entries(build(parse(pattern))), call.heads)
    pairs = Pairs.of(call.n_queries, call.n_keys, given, call.heads, call.batch, CPU)
    return pairs.meeting(extent).expand(call.batch, call.heads, -1, -1)


def ends_of(pairs: Tensor, n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """First, last + 1 and no gap of each row of pairs, over all heads that share one of n_heads."""
    count = pairs.shape[3]
    rows = pairs.unflatten(1, (n_heads, -1))
    place = torch.arange(count)
    lower = torch.where(rows, place, count).amin(-1)
    upper = torch.where(rows, place + 1, 0).amax(-1)
    alike = (lower.amin(2) == lower.amax(2)) & (upper.amin(2) == upper.amax(2))
    solid = (rows.sum(-1) == (upper - lower).clamp(min=0)).all(2) & alike
    return lower.amin(2), upper.amax(2), solid


def extent_of(pattern: str) -> Condition:
    plan: KernelPlan = make_plan(pattern, SHAPE)
    (extent,) = plan.extents
    return extent


@pytest.mark.parametrize("size", [(40, 40), (23, 40), (47, 40), (1, 40), (3, 1)], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_tables_are_tight(pattern: str, size: tuple[int, int], generator: torch.Generator) -> None:
    """A single requirement has the ends and gaps of its pairs; more than one hold them."""
    call = Call(2, 8, 4, *size, CPU, tensors_of(pattern, size[1], generator))
    extent = extent_of(pattern)
    pairs = pairs_within(extent, pattern, call)
    exact = sum(map(len, extent)) == 1
    for table, reached in zip(
        extent_tables(Extent.of(extent), call), (pairs, pairs.mT), strict=True
    ):
        assert table.dtype == torch.int32 and 4 % table.shape[1] == 0
        lower, upper = table.long().expand(2, -1, -1, -1).unbind(2)
        solid = upper >= 0
        upper = torch.maximum(upper, ~upper)
        first, last, filled = ends_of(reached, table.shape[1])
        if exact:
            assert torch.equal(lower, first) and torch.equal(upper, last)
            assert torch.equal(solid, filled)
        some = first < last
        assert (lower <= first)[some].all() and (upper >= last)[some].all()
        full = filled & (lower == first) & (upper == last) | (lower >= upper)
        assert full[solid].all()


@pytest.mark.parametrize("pattern", ["documents & causal", "lifetime"])
def test_an_empty_batch(pattern: str) -> None:
    q, k, v = torch.randn(3, 0, 8, 5, 16)
    given = {"documents": torch.zeros(0, 5).int(), "evict": torch.zeros(0, 4, 5).int()}
    attend = attncomp.compile(pattern)
    out = attend(q, k, v, **{name: given[name] for name in attend.tensors})
    assert out.shape == (0, 8, 5, 16)


@pytest.mark.parametrize("n_keys", [1, 1023, 1024, 1025, 2500])
@pytest.mark.parametrize(
    "pattern", ["where(t[q] >= u[k])", "where(t[q] != u[k])", "where(t[q] == u[k])"]
)
def test_rows_of_many_blocks(pattern: str, n_keys: int, generator: torch.Generator) -> None:
    """Running maxima are made of blocks of 1,024; most rows reach beyond their own."""
    t, u = torch.randint(-99, 99, (2, n_keys), generator=generator, dtype=torch.int32)
    u = u.clamp(max=t.sort().values[n_keys // 2])
    call = Call(1, 1, 1, n_keys, n_keys, CPU, {"t": t, "u": u})
    extent = extent_of(pattern)
    pairs = pairs_within(extent, pattern, call)
    for table, reached in zip(
        extent_tables(Extent.of(extent), call), (pairs, pairs.mT), strict=True
    ):
        lower, upper = table.long().unbind(2)
        first, last, filled = ends_of(reached, 1)
        assert torch.equal(lower, first) and torch.equal(torch.maximum(upper, ~upper), last)
        assert torch.equal(upper >= 0, filled)


@pytest.mark.parametrize("tile", [(8, 4), (16, 8)], ids=str)
@pytest.mark.parametrize("size", [(70, 70), (31, 70), (75, 70)], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_torch_backend(
    pattern: str, size: tuple[int, int], tile: tuple[int, int], generator: torch.Generator
) -> None:
    shape = shaped(*size)
    given = tensors_of(pattern, shape.n_keys, generator)
    inputs = dataclasses.replace(random_inputs(shape, generator), given=given)
    actual, _ = run_module(make_plan(pattern, shape, tile=tile), inputs, scale=0.3)
    assert_near(actual, expected(pattern, inputs), 1e-12)


def expected(pattern: str, inputs: Any) -> Any:
    entries = tensor_entries(build(parse(pattern)))
    given = with_all_heads(inputs.given, entries, inputs.q.shape[1])
    return dense_result(pattern, dataclasses.replace(wide(inputs), given=given), scale=0.3)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("pattern", list(PATTERNS)[:7])
def test_the_triton_backend(pattern: str, generator: torch.Generator) -> None:
    """Documents of about 40 keys hold full tiles of 16 x 16, and so do prefixes."""
    shape = dataclasses.replace(shaped(70, 75), query_heads=2, kv_heads=1, groups=1)
    kinds = {name: kind.replace("evict 8", "evict 2") for name, kind in PATTERNS[pattern].items()}
    kinds = {name: kind.replace("evict 4", "evict 1") for name, kind in kinds.items()}
    given = {name: drawn(kind, shape.n_keys, generator) for name, kind in kinds.items()}
    inputs = random_inputs(shape, generator, dtype=torch.float32)
    inputs = dataclasses.replace(inputs, given=given)
    with interpreter():
        actual = run_plan(_small_tiles(make_triton_plan(pattern, shape)), inputs, 0.3)
    assert_near(actual, expected(pattern, inputs), 1e-5)


def _small_tiles(plan: KernelPlan) -> KernelPlan:
    names = ("forward", "backward_query", "backward_gathered", "backward_contiguous")
    tiles = {
        name: dataclasses.replace(getattr(plan.schedule, name), queries=16, keys=16)
        for name in names
    }
    sweeps = tuple(
        dataclasses.replace(s, full_tiles=s.bounds is not None and s.bounds.full_keys is not None)
        for s in plan.sweeps
    )
    schedule = dataclasses.replace(plan.schedule, **tiles)
    return dataclasses.replace(plan, sweeps=sweeps, schedule=schedule)


def blocks_visited(pattern: str, n_keys: int, **given: Tensor) -> tuple[int, int]:
    """How many blocks of keys all tiles of queries visit, and how many of them without a mask."""
    shape = dataclasses.replace(shaped(n_keys, n_keys), batch=1, query_heads=1, kv_heads=1)
    plan = make_plan(pattern, dataclasses.replace(shape, groups=1), tile=(16, 16))
    module = module_of(plan)
    inputs = random_inputs(dataclasses.replace(shape, groups=1), torch.Generator())
    state = block_state(BlockParts.of(plan), Call.of(inputs.q, inputs.k, given))
    reach = module.extent(state[len(plan.tensors)])
    masks = [
        mask
        for tile in module.tiles(n_keys, n_keys, CPU, 1, 1)
        for _, mask in module.sweep_0(tile, n_keys, reach, state[0])
    ]
    return len(masks), sum(mask is None for mask in masks)


def test_packed_documents_cost_what_they_hold() -> None:
    """Of documents of 64 keys a tile of 16 queries visits 4 blocks, the causal ones 2.5."""
    for n_keys in (256, 1024):
        documents = (torch.arange(n_keys) // 64)[None].int()
        assert blocks_visited("documents", n_keys, documents=documents) == (
            n_keys // 4,
            n_keys // 4,
        )
        causal = blocks_visited("documents & causal", n_keys, documents=documents)
        assert causal == (n_keys // 64 * 10, n_keys // 64 * 6)


def test_short_lives_cost_a_window() -> None:
    for n_keys in (256, 1024):
        evict = (torch.arange(n_keys) + 32)[None, None].int()
        visited, _ = blocks_visited("lifetime", n_keys, evict=evict)
        assert visited <= 3 * n_keys // 16


def test_extents_of_a_million_positions() -> None:
    """Linear: no table of N x N, no long wait."""
    n_keys = 1 << 20
    documents = torch.randint(0, 500, (1, n_keys)).sort().values.int()
    plan = make_plan("documents & causal", SHAPE, tile=None)
    call = Call(1, 32, 8, n_keys, n_keys, CPU, {"documents": documents})
    start = time.perf_counter()
    state = block_state(BlockParts.of(plan), call)
    assert time.perf_counter() - start < 10
    assert sum(tensor.nbytes for tensor in state) <= 20 << 20
