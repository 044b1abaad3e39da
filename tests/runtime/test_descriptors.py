"""Tiles by descriptors: which plans and calls take them, and that they give what pointers give."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from dense import Result, Shape, dense_result, random_inputs
from torch import Tensor
from torch.nn.functional import pad
from triton_support import OVERFLOWS, assert_near, interpreter, make_problem, run_plan, wide

from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.ir.schedule import Problem
from attncomp.runtime import descriptors

PROBLEM = Problem(
    backend="triton",
    target="sm_100",
    dtype="bfloat16",
    head_dim=128,
    value_dim=128,
    unit_heads=2,
)
SCALE = 0.3


def takers(plan: KernelPlan) -> list[str]:
    """The kernels of a plan that may take descriptors."""
    return re.findall(r"^(\w+)_tiles_kernel = ", render(plan), re.MULTILINE)


def takes(pattern: str, **changes: Any) -> bool:
    found = lower(pattern, replace(PROBLEM, **changes))
    assert ("DESCRIPTORS" in render(found)) == bool(takers(found))
    return bool(takers(found))


@pytest.mark.parametrize("pattern", ["causal", "window(256)", "sparsek(k=64) | window(64)"])
def test_modules_for_large_gpus_take_them(pattern: str) -> None:
    assert takes(pattern)
    for target in ("sm_90a", "sm_103"):
        assert takes(pattern, target=target)
    assert takes(pattern, target="sm_90", dtype="float16", head_dim=80, value_dim=16)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": "sm_80"},
        {"target": "sm_89"},
        {"target": "sm_120"},
        {"target": "gfx942"},
        {"target": "cpu"},
        {"dtype": "float32"},
        {"head_dim": 20},
        {"value_dim": 20},
        {"head_dim": 256},
    ],
    ids=str,
)
def test_modules_for_others_do_not(changes: dict[str, Any]) -> None:
    assert not takes("causal", **changes)
    assert not takes("sparsek(k=64)", **changes)


def test_rows_of_queries_beside_listed_keys_but_no_listed_blocks() -> None:
    def found(pattern: str) -> list[str]:
        return takers(lower(pattern, PROBLEM))

    assert not found("blocks(64) & causal | window(8)")
    assert found("sparsek(k=64)") == ["backward_gathered_0"]
    assert found("sparsek(k=64) | window(64)") == ["backward_gathered_0", "backward_key"]
    assert found("sparsek(k=64) | blocks(64) & causal") == ["backward_gathered_0"]
    two = 'sparsek(k=64) | sparsek(k=32, scores="near")'
    assert found(two) == ["backward_gathered_0", "backward_gathered_1"]


def test_the_kernel_for_hopper_has_its_own() -> None:
    hopper = replace(PROBLEM, target="sm_90")
    assert not takers(lower("causal", hopper))
    assert takers(lower("sparsek(k=64) | window(64)", hopper)) == ["backward_gathered_0"]
    for pattern in ("causal", "sparsek(k=64) | window(64)"):
        assert "describe_for_gluon" in render(lower(pattern, hopper))


@pytest.mark.parametrize(("queries", "wanted"), [(2, False), (4, True), (32, True)])
def test_rows_start_at_multiples_of_16_bytes(queries: int, wanted: bool) -> None:
    """Those are four rows' entries of lse."""
    problem = replace(PROBLEM, unit_heads=8)
    schedule = lower("sparsek(k=64)", problem).schedule
    assert schedule.packed_heads == 8
    tile = replace(schedule.backward_gathered, queries=queries)
    schedule = replace(schedule, backward_gathered=tile)
    assert bool(takers(lower("sparsek(k=64)", problem, schedule=schedule))) == wanted


def call(length: int = 4096) -> list[Tensor]:
    """q, k, v, dout, lse and delta, without memory, of just as many rows as there must be."""
    heads = descriptors.FEWEST_ROWS // 4096
    sizes = [(1, heads), (1, 2), (1, 2), (1, heads)]
    tiles = [torch.empty(*size, length, 128, dtype=torch.bfloat16, device="meta") for size in sizes]
    return [*tiles, *[torch.empty(1, heads, length, device="meta") for _ in range(2)]]


LAYOUTS: dict[str, tuple[bool, Callable[[Tensor], Tensor]]] = {
    "contiguous": (True, lambda x: x),
    "heads inside rows": (True, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)),
    "padded rows": (True, lambda x: pad(x, (0, 8))[..., :-8]),
    "odd rows": (False, lambda x: pad(x, (0, 1))[..., :-1]),
    "one row for all": (False, lambda x: x[:, :, :1].expand(x.shape)),
    "one head for all": (False, lambda x: x[:, :1].expand(x.shape)),
}


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, place: int) -> None:
    wanted, lay = LAYOUTS[name]
    given = call()
    given[place] = lay(given[place])
    assert descriptors.can_describe(*given) == wanted


def test_an_odd_start() -> None:
    given = [torch.empty(x.shape, dtype=x.dtype) for x in call()]
    for place, tensor in enumerate(given):
        assert descriptors.can_describe(*given)
        odd = torch.empty(tensor.numel() + 2, dtype=tensor.dtype)[2:].view(tensor.shape)
        assert not descriptors.can_describe(*given[:place], odd, *given[place + 1 :])


def test_lengths() -> None:
    assert not descriptors.can_describe(*call(4092))
    assert descriptors.can_describe(*call(4100))
    assert not descriptors.can_describe(*call(4098))
    q, k, v, *rest = call()
    assert not descriptors.can_describe(q, k[:, :, :0], v[:, :, :0], *rest)


def test_blocks() -> None:
    found = descriptors.describe(*call(), 64, 32, 128, 16)
    assert [x.block_shape for x in found] == [
        [1, 1, 64, 128],
        [1, 1, 32, 128],
        [1, 1, 32, 16],
        [1, 1, 64, 16],
        [1, 1, 64],
        [1, 1, 64],
    ]


def test_blocks_for_gluon() -> None:
    q, k, v, *rest = call()
    found = descriptors.describe_for_gluon(q, k, v[..., :64], *rest, 64, 32)
    tiles = [64, 128], [32, 128], [32, 64], [64, 128], [64], [64]
    assert [x.block_shape for x in found] == [[1, 1, *tile] for tile in tiles]
    layouts = [(x.layout.swizzle_byte_width, x.layout.element_bitwidth) for x in found]
    assert layouts == [(128, 16)] * 4 + [(0, 32)] * 2
    assert all(x.layout.rank == len(x.block_shape) for x in found)


def test_blocks_of_several_heads() -> None:
    q, _, _, dout, lse, row_deltas = call()
    found = descriptors.describe_rows(q, dout, lse, row_deltas, 4, 8, 128, 16)
    wanted = [[1, 4, 8, 128], [1, 4, 8, 16], [1, 4, 8], [1, 4, 8]]
    assert [x.block_shape for x in found] == wanted
    given = q, dout, lse, row_deltas
    assert all(x.base is tensor for x, tensor in zip(found, given, strict=True))


WIDE = Shape(batch=2, query_heads=4, kv_heads=2, n_queries=148, n_keys=148, head_dim=24)
NARROW = Shape(query_heads=2, n_queries=76, n_keys=76, head_dim=16, value_dim=16)
SHAPES = {
    "causal": replace(WIDE, value_dim=16),
    "full": replace(WIDE, n_queries=20, n_keys=75, value_dim=24),
    "window(70) | first(3)": replace(WIDE, n_queries=100, value_dim=8),
    "sparsek(k=9, lag=4) | window(30)": replace(WIDE, n_queries=100, groups=2, value_dim=32),
    "sparsek(k=9)": replace(NARROW, n_queries=52),
    'sparsek(k=9, lag=4, gate="logit")': replace(NARROW, query_heads=1, n_queries=140, n_keys=140),
    'sparsek(k=9, gate="hard") - window(8)': replace(NARROW, query_heads=6, value_dim=8),
    'sparsek(k=9, gate="value") & chunk(64)': replace(NARROW, query_heads=16),
    "sparsek(k=9) | sparsek(k=5, lag=20)": NARROW,
    "sparsek(k=9, lag=4) | blocks(16) & causal": NARROW,
}
INSIDE = ("causal", "sparsek(k=9, lag=4) | window(30)", "sparsek(k=9)")


@OVERFLOWS
@pytest.mark.parametrize(
    ("pattern", "inside"), [*((p, False) for p in SHAPES), *((p, True) for p in INSIDE)]
)
def test_gradients_are_those_of_pointers(
    pattern: str, inside: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = SHAPES[pattern]
    drawn = random_inputs(shape, generator, dtype=torch.float32)
    inputs = replace(drawn, **{name: half(getattr(drawn, name), inside) for name in "qkv"})
    inputs = replace(inputs, dout=half(drawn.dout, False))
    problem = make_problem(shape, dtype="float16", target="sm_90", crisp="sparsek" not in pattern)
    schedule = lower(pattern, problem).schedule
    segment = max(64, schedule.forward.queries)  # queries are of more than one
    plan = lower(pattern, problem, schedule=replace(schedule, segment=segment))
    described: list[object] = []
    make = descriptors._descriptor
    monkeypatch.setattr(
        descriptors, "_descriptor", lambda *a, **k: described.append(a) or make(*a, **k)
    )
    with interpreter():
        by_pointers = run_plan(plan, inputs, SCALE)
        assert not described
        monkeypatch.setattr(descriptors, "FEWEST_ROWS", 0)
        found = run_plan(plan, inputs, SCALE)
    kernels = takers(plan)
    assert len(described) == 6 * ("backward_key" in kernels) + 4 * (kernels[0] != "backward_key")
    for name in Result.__dataclass_fields__:
        assert torch.equal(getattr(found, name), getattr(by_pointers, name)), name
    exact = dense_result(pattern, wide(inputs), scale=SCALE, with_lse=True)
    assert_near(found, exact, 4e-3)


def half(x: Tensor, inside: bool) -> Tensor:
    """float16, heads inside rows if asked for."""
    x = x.half()
    return x.transpose(1, 2).contiguous().transpose(1, 2) if inside else x
