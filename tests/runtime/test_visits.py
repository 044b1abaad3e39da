"""Counts of visited and attended keys, against what kernels multiply and what the oracle says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch_modules
import triton_support
from dense import Inputs, Shape, blocks_of, mask_tensors, random_inputs
from hypothesis import given
from hypothesis import strategies as st
from strategies import SCORE_KINDS, patterns, score_tensor
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

import attncomp
from attncomp.codegen.plan import KernelPlan
from attncomp.frontend.ast import Expr, to_text
from attncomp.ir.build import build
from attncomp.ir.passes import stride
from attncomp.pictures.picture import picture
from attncomp.runtime import attended
from attncomp.runtime.strides import Kernels
from attncomp.runtime.visits import Visits, count_visits

HEADS = 2
# The plan tells exactly what of them is visited; lengths of 60 fill all classes of steps 3 and 4.
KNOWN = (
    "window(7)",
    "causal",
    "full - window(6)",
    "first(3) | window(5)",
    "chunk(5) & causal",
    "window(before=3, after=9)",
    "where(q // 6 >= k // 6)",
    "where(2 * k <= q) - chunk(3)",
    "dilated(5, 3) | first(2)",
    "strided(4)",
    "strided(3) - window(5) | window(3)",
    "dilated(9, 4) | strided(4) - window(50) | first(1)",
    "random_blocks(2, 8) & causal",
    "random_blocks(3, 4, seed=5) - window(20)",
    "random_blocks(1, 16) | window(9)",
    "neighborhood(5)",
    "window(4) - full",
)
# Of these it tells a limit, which ascending scores, one document and tables of ones reach.
LIMITED = (
    "sparsek(k=6)",
    "sparsek(k=6, lag=9) | window(9)",
    "sparsek(k=3, lag=40)",
    "sparsek(k=50)",
    "sparsek(k=6) - window(4)",
    "sparsek(k=4) | sparsek(k=9, lag=6)",
    "documents & causal",
    "lifetime | window(5)",
    "blocks(16) & causal",
    "blocks(16) & window(20)",
    "blocks(3)",
    "topk_blocks(2, 5) & causal",
    "topk_blocks(9, 16) - window(6)",
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small patterns go by classes too."""
    monkeypatch.setattr(stride, "MIN_SPAN", 1)
    attncomp.api._compile_text.cache_clear()
    yield
    attncomp.api._compile_text.cache_clear()


def inputs_for(n: int, generator: torch.Generator, *, most: bool = False) -> Inputs:
    """Inputs of n positions; most: with which everything is visited that may be."""
    shape = Shape(query_heads=HEADS, n_queries=n, n_keys=n, head_dim=16, value_dim=16)
    scores = torch.randn(1, 1, n, generator=generator, dtype=torch.float64)
    given = random_inputs(shape, generator, scores=scores.sort(-1).values if most else scores)
    by = {size: -(-n // size) for size in (3, 5, 16)}
    tensors = {
        "documents": torch.randint(0, 3, (1, n), generator=generator),
        "evict": torch.randint(0, 2 * n, (1, 1, n), generator=generator),
        **{f"mask_{s}": torch.rand(1, 1, t, t, generator=generator) < 0.4 for s, t in by.items()},
        **{f"scores_{s}": torch.randn(1, 1, t, t, generator=generator) for s, t in by.items()},
    }
    if most:
        masks = {name: torch.ones_like(t) for name, t in tensors.items() if t.dtype == torch.bool}
        tensors |= {"documents": torch.zeros(1, n).long(), **masks}
        tensors["evict"] = torch.full((1, 1, n), n)
    return replace(given, given=tensors)


def for_pattern(pattern: str, inputs: Inputs) -> Inputs:
    """The inputs, with the tables of the blocks that a pattern has."""
    size = next((s for s in (16, 5, 3) if f"{s})" in pattern), 3)
    names = {"block_mask": f"mask_{size}", "block_scores": f"scores_{size}"}
    tables = {name: inputs.given[table].int() for name, table in names.items()}
    tables["block_scores"] = inputs.given[names["block_scores"]]
    return replace(inputs, given={**inputs.given, **tables})


def forward(kernels: Kernels, plan: KernelPlan, inputs: Inputs) -> None:
    state = kernels.select((inputs.scores,) * len(plan.scores), inputs.q.shape[2])
    state = (*state, *blocks_of(plan, inputs))
    kernels.forward(inputs.q, inputs.k, inputs.v, state, 0.3)


def torch_products(plan: KernelPlan, inputs: Inputs, patch: pytest.MonkeyPatch) -> float:
    """Keys that the torch backend multiplies with a query, in the mean."""
    pairs = []
    for module in {id(m): m for m in map(torch_modules.module_of, plan.modules)}.values():
        if not hasattr(module, "dots"):
            continue  # no sweeps

        def dots(
            left: Tensor, right: Tensor, units: tuple[int, int], original=module.dots
        ) -> Tensor:
            pairs.append(left.shape[:2].numel() * right.shape[1])
            return original(left, right, units)

        patch.setattr(module, "dots", dots)
    forward(torch_modules.kernels_of(plan), plan, inputs)
    return sum(pairs) / (HEADS * inputs.q.shape[2])


def total(found: list[Visits]) -> float:
    return sum(visits.visited.keys for visits in found)


@pytest.mark.parametrize("pattern", [*KNOWN, *LIMITED])
def test_visits_are_those_of_the_torch_kernels(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most in (True, False):
        inputs = for_pattern(pattern, inputs_for(60, generator, most=most))
        shape = Shape(query_heads=HEADS, n_queries=60, n_keys=60, head_dim=16, value_dim=16)
        plan = torch_modules.make_plan(pattern, shape)
        found = count_visits(plan, 60)
        with monkeypatch.context() as patch:
            products = torch_products(plan, inputs, patch)
        assert (pattern in LIMITED) is any(visits.visited.kind for visits in found)
        # Torch lists leave out selected keys at no distance of the sweep from any query of a tile.
        if (pattern in KNOWN or most) and pattern != "sparsek(k=6) - window(4)":
            assert products == pytest.approx(total(found))
        else:
            assert products <= total(found) * (1 + 1e-9)


@pytest.mark.parametrize("pattern", [*KNOWN[:-1], *LIMITED[:4], *LIMITED[6:9]])
def test_visits_are_those_of_the_triton_kernels(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of the interpreter, two a step, in tiles of 32 queries: 32 of each class, or 96.

    Those of the selection are in float16.
    """
    shape = Shape(query_heads=HEADS, n_queries=96, n_keys=96, head_dim=16, value_dim=16)
    plan = triton_support.make_plan(pattern, shape)
    n = 32 * max([3, *(part.step for part in plan.strided)])
    inputs = for_pattern(pattern, inputs_for(n, generator, most=True)).to(torch.float32)
    products = []
    create_dot = InterpreterBuilder.create_dot

    def counting(builder: InterpreterBuilder, a: object, b: object, *others: object) -> object:
        if a.data.dtype == np.float32:
            products.append(a.data.shape[0] * b.data.shape[1])
        return create_dot(builder, a, b, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", counting)
    with triton_support.interpreter():
        forward(triton_support.kernels_of(plan), plan, inputs)
    # q . k is rows by keys, weights . v is rows by 16, and a step has both
    keys = {tile.schedule.forward.keys for tile in plan.modules}
    assert keys == {16}
    assert sum(products) / 2 / (HEADS * n) == pytest.approx(total(count_visits(plan, n)))


def owners(expr: Expr, plan: KernelPlan, n: int, tensors: dict[str, Tensor]) -> Tensor:
    """Which sweep attends each pair [n, n] of the first head, -1 for none."""
    drawn = picture(build(expr), plan, n, n, tensors, (HEADS, 1), (0, 0), tile=(8, 4), caption="")
    return drawn.sweep


@given(
    expr=patterns(max_leaves=5),
    n=st.integers(1, 60),
    kind=st.sampled_from(SCORE_KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_attended_keys_are_the_oracles(expr: Expr, n: int, kind: str, seed: int) -> None:
    """Sweep by sweep, exactly where it says so and no more than the limit elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    shape = Shape(query_heads=HEADS, n_queries=n, n_keys=n)
    tensors = mask_tensors(shape, generator)
    tensors["scores"] = score_tensor(kind, (1, HEADS, n), generator)
    plan = torch_modules.make_plan(expr, shape)
    owner = owners(expr, plan, n, tensors)
    found = count_visits(plan, n)
    assert sorted(i for visits in found for i in visits.sweeps) == [*range(len(plan.all_sweeps))]
    for visits in found:
        own = torch.isin(owner, torch.tensor(visits.sweeps)).sum().item() / n
        where = f"sweeps {visits.sweeps} of {to_text(expr)}, which attend {own}: {visits}"
        assert bool(visits.depends) is (visits.attended.kind == "at most"), where
        assert visits.attended.kind != "about", where
        if visits.depends:
            assert own <= visits.attended.keys * (1 + 1e-9), where
        else:
            assert own == pytest.approx(visits.attended.keys), where
        assert visits.attended.keys <= visits.visited.keys * (1 + 1e-9), where


RANGES = (
    "where(q // 5 != k // 5) & causal",
    "where(q // 5 != k // 5 and k // 9 != q // 9 and (q - k) % 4 == 1) - first(3)",
    "where(k % 6 >= 4 and q % 4 != 2) & causal",
    "sparse_transformer_fixed(16, 3)",
    "where((q - k) % 5 == 2) & causal",
    "where((q + k) % 7 != 3) & window(20)",
    "where(k % 6 >= 4) & full",
    "where((k - 3 * q) % 4 < 2) - window(3)",
    "where((q // 3 - k) % 9 <= 6) & chunk(30)",
    "where((n - k) % 8 == 0) | window(2)",
    "dilated(5, 3)",
)


@pytest.mark.parametrize("pattern", RANGES)
def test_ranges_and_remainders_are_counted_without_pairs(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pairs(*given: object) -> None:
        raise AssertionError("expected no pair to be looked at")

    monkeypatch.setattr(stride, "MIN_SPAN", 1000)
    monkeypatch.setattr(attended, "_of_pairs", pairs)
    n = int(torch.randint(1, 90, (), generator=generator))
    attend = attncomp.compile(pattern)
    found = sum(visits.attended.keys for visits in count_visits(attend.plan, n))
    assert found == pytest.approx(attend.mask(n).sum().item() / n)


SAMPLED = (
    "where(k % 16 >= 13 and k % 7 > 2) & causal",
    "where(k % 5 == 1 or (q + k) % 3 == 0) & causal",
    "where(q % 4 == 1 or k % 64 == 3) & causal",
    "where(q * k % 7 < 3) & window(600)",
    "where(q % 50 == 1 and q * k % 7 < 3)",
    "random_blocks(40, 16) & where((q - k) % 2 == 0)",
)


@pytest.mark.parametrize("pattern", SAMPLED)
def test_samples_are_near(
    pattern: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attended, "_SAMPLED_PAIRS", 1 << 16)  # 1024 queries
    n = int(torch.randint(1200, 1600, (), generator=generator))
    attend = attncomp.compile(pattern)
    found = count_visits(attend.plan, n)
    assert any(visits.attended.kind == "about" for visits in found)
    keys = attend.mask(n).sum().item() / n
    assert sum(visits.attended.keys for visits in found) == pytest.approx(keys, rel=0.25)


def test_queries_that_see_nothing_are_no_sample(generator: torch.Generator) -> None:
    """However few queries pass a test of theirs, all that they attend is counted."""
    n = int(torch.randint(1200, 1600, (), generator=generator))
    rest = int(torch.randint(0, 700, (), generator=generator))
    attend = attncomp.compile(f"where(q % 700 == {rest}) & causal - window(9)")
    (found,) = count_visits(attend.plan, n)
    assert found.attended.kind == ""
    assert found.attended.keys == pytest.approx(attend.mask(n).sum().item() / n)


def test_nothing_but_positions_is_counted_exactly() -> None:
    """What of a call decides how many keys are attended is named."""
    expected = {
        "sparsek(k=5)": (),
        "sparsek(k=5) | window(3)": ("scores",),
        'causal - sparsek(k=5, gate="hard")': ("scores",),
        "sparsek(k=5) & sparsek(k=6, lag=2)": ("scores",),
        "documents & causal": ("documents",),
        "documents & sparsek(k=3, scores='near')": ("documents", "near"),
        "blocks(16)": ("block_mask",),
        "topk_blocks(2, 5)": ("block_scores",),
        "random_blocks(2, 5)": (),
        "random_blocks(2, 5) & random_blocks(3, 5)": ("the drawn blocks",),
        "where(h % 2 == 0 and k < q + b)": ("the head", "the row of the batch"),
    }
    found = {
        pattern: tuple(
            dict.fromkeys(
                name
                for visits in count_visits(attncomp.compile(pattern).plan, 50)
                for name in visits.depends
            )
        )
        for pattern in expected
    }
    assert found == expected
