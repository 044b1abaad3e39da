"""Launches that leave out Triton's own work: which compiled kernel each one runs."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from attncomp.runtime.quick_launch import QuickLaunch


class Compiled:
    """What Triton gives for a launch; notes its own launches."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[int, ...], tuple[object, ...]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args: self.launches.append((grid, args))


@dataclass(eq=False)
class Kernel:
    """A jitted function with the parameters x, size, scale and ALIGN; compiles at every launch."""

    specialised: bool = False

    def __post_init__(self) -> None:
        self.compiled: list[Compiled] = []
        self.arg_names = ["x", "size", "scale", "ALIGN"]
        self.params = [
            SimpleNamespace(
                do_not_specialize=name == "size" and not self.specialised,
                is_constexpr=name == "ALIGN",
            )
            for name in self.arg_names
        ]

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: object, **keywords: object) -> Compiled:
            self.compiled.append(Compiled())
            return self.compiled[-1]

        return launch


@pytest.fixture
def x() -> Tensor:
    return torch.zeros(64, dtype=torch.bfloat16)


def test_the_second_launch_is_quick(x: Tensor) -> None:
    kernel = Kernel()
    quick = QuickLaunch(kernel)
    quick[(7,)](x, 5, 0.5, ALIGN=8, num_warps=4)
    quick[(9,)](x, 6, 0.25, ALIGN=8, num_warps=4)
    quick[(9, 2)](x, 1, 0.25, ALIGN=8, num_warps=4)
    assert len(kernel.compiled) == 1
    assert kernel.compiled[0].launches == [
        ((9, 1, 1), (x, 6, 0.25, 8)),
        ((9, 2, 1), (x, 1, 0.25, 8)),
    ]


def test_what_triton_compiles_anew_for(x: Tensor) -> None:
    kernel = Kernel()
    quick = QuickLaunch(kernel)
    for _ in range(2):
        quick[(1,)](x, 5, 0.5, ALIGN=8, num_warps=4)
        quick[(1,)](x.float(), 5, 0.5, ALIGN=8, num_warps=4)
        quick[(1,)](x, 5, 0.5, ALIGN=1, num_warps=4)
        quick[(1,)](x, 5, 0.5, ALIGN=8, num_warps=8)
    assert len(kernel.compiled) == 4
    assert all(len(compiled.launches) == 1 for compiled in kernel.compiled)


def test_what_the_key_does_not_tell_apart_is_tritons(x: Tensor) -> None:
    kernel = Kernel()
    quick = QuickLaunch(kernel)
    quick[(1,)](x, 5, 0.5, ALIGN=8)
    for _ in range(2):
        quick[(1,)](x[1:], 5, 0.5, ALIGN=8)  # not at a multiple of 16 bytes
        quick[(1,)](x, 2**31, 0.5, ALIGN=8)
    assert len(kernel.compiled) == 5
    assert not any(compiled.launches for compiled in kernel.compiled)


@pytest.mark.parametrize("other", [None, True, "text"])
def test_other_arguments_are_tritons(x: Tensor, other: object) -> None:
    kernel = Kernel()
    quick = QuickLaunch(kernel)
    for _ in range(3):
        quick[(1,)](x, 5, other, ALIGN=8)
    assert len(kernel.compiled) == 3


def test_specialised_sizes_are_tritons(x: Tensor) -> None:
    kernel = Kernel(specialised=True)
    quick = QuickLaunch(kernel)
    for _ in range(3):
        quick[(1,)](x, 5, 0.5, ALIGN=8)
    assert len(kernel.compiled) == 3
