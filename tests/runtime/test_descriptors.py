"""Tiles by descriptors: which plans and calls take them, and that they give what pointers give."""

from __future__ import annotations

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
from attncomp.ir.schedule import Problem
from attncomp.runtime import descriptors

PROBLEM = Problem(
    backend="triton",
    target="sm_90",
    dtype="bfloat16",
    head_dim=128,
    value_dim=128,
    unit_heads=2,
)
SCALE = 0.3


def takes(pattern: str, **changes: Any) -> bool:
    return "DESCRIPTORS" in render(lower(pattern, replace(PROBLEM, **changes)))


@pytest.mark.parametrize("pattern", ["causal", "window(256)", "sparsek(k=64) | window(64)"])
def test_modules_for_large_gpus_take_them(pattern: str) -> None:
    assert takes(pattern)
    for target in ("sm_90a", "sm_100", "sm_103"):
        assert takes(pattern, target=target)
    assert takes(pattern, dtype="float16", head_dim=80, value_dim=16)


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


def test_lists_of_blocks_and_of_keys_are_read_by_pointers() -> None:
    assert not takes("blocks(64) & causal | window(8)")
    assert not takes("sparsek(k=64)")


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


WIDE = Shape(batch=2, query_heads=4, kv_heads=2, n_queries=148, n_keys=148, head_dim=24)
SHAPES = {
    "causal": replace(WIDE, value_dim=16),
    "full": replace(WIDE, n_queries=20, n_keys=75, value_dim=24),
    "window(70) | first(3)": replace(WIDE, n_queries=100, value_dim=8),
    "sparsek(k=9, lag=4) | window(30)": replace(WIDE, groups=2, value_dim=32),
}


@OVERFLOWS
@pytest.mark.parametrize("pattern", SHAPES)
@pytest.mark.parametrize("inside", [False, True])
def test_gradients_are_those_of_pointers(
    pattern: str, inside: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = SHAPES[pattern]
    drawn = random_inputs(shape, generator, dtype=torch.float32)
    inputs = replace(drawn, **{name: half(getattr(drawn, name), inside) for name in "qkv"})
    inputs = replace(inputs, dout=half(drawn.dout, False))
    problem = make_problem(shape, dtype="float16", target="sm_90", crisp="sparsek" not in pattern)
    plan = lower(pattern, problem)
    described: list[int] = []
    describe = descriptors.describe
    monkeypatch.setattr(descriptors, "describe", lambda *a: described.append(1) or describe(*a))
    with interpreter():
        by_pointers = run_plan(plan, inputs, SCALE)
        assert not described
        monkeypatch.setattr(descriptors, "FEWEST_ROWS", 0)
        found = run_plan(plan, inputs, SCALE)
    assert described
    for name in Result.__dataclass_fields__:
        assert torch.equal(getattr(found, name), getattr(by_pointers, name)), name
    exact = dense_result(pattern, wide(inputs), scale=SCALE, with_lse=True)
    assert_near(found, exact, 4e-3)


def half(x: Tensor, inside: bool) -> Tensor:
    """float16, heads inside rows if asked for."""
    x = x.half()
    return x.transpose(1, 2).contiguous().transpose(1, 2) if inside else x
