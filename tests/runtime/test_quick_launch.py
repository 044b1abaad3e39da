"""Launches that leave out Triton's own work: which compiled kernel each one runs."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from attncomp.runtime import quick_launch
from attncomp.runtime.quick_launch import QuickLaunch


class Compiled:
    """What Triton gives for a launch; notes its own launches, those by the driver apart."""

    function = 17
    packed_metadata = (4, 1, 0)

    def __init__(self, scratch: int = 0) -> None:
        self.launches: list[tuple[tuple[int, ...], tuple[object, ...]]] = []
        self.hooked: list[tuple[object, ...]] = []
        self.by_driver: list[tuple[object, ...]] = []
        self.run = Launcher(self, scratch)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args: self.hooked.append(args)


@dataclass(eq=False)
class Launcher:
    """Triton's launcher, with the attributes of that of version 3.6."""

    compiled: Compiled
    global_scratch_size: int
    profile_scratch_size: int = 0
    launch_cooperative_grid: bool = False
    launch_pdl: bool = False

    def __call__(self, x: int, y: int, z: int, stream: int, function: int, *args: Any) -> None:
        metadata, *hooks = args[:4]
        assert (stream, function, metadata, hooks) == (3, 17, (4, 1, 0), [None] * 3)
        self.compiled.launches.append(((x, y, z), args[4:]))

    def launch(self, *args: object) -> None:
        self.compiled.by_driver.append(args)


@dataclass(eq=False)
class Kernel:
    """A jitted function with the parameters x, size, scale and ALIGN; compiles at every launch."""

    specialised: bool = False
    scratch: int = 0

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
            self.compiled.append(Compiled(self.scratch))
            return self.compiled[-1]

        return launch


@pytest.fixture
def x() -> Tensor:
    return torch.zeros(64, dtype=torch.bfloat16)


class Machine:
    """What is read of Triton beside kernels."""

    def __init__(self, version: str, *hooks: object) -> None:
        self.__version__ = version
        chains = [SimpleNamespace(calls=[]), SimpleNamespace(calls=list(hooks))]
        runtime = SimpleNamespace(launch_enter_hook=chains[0], launch_exit_hook=chains[1])
        self.knobs = SimpleNamespace(runtime=runtime)
        active = SimpleNamespace(get_current_stream=lambda device: device + 4)
        self.runtime = SimpleNamespace(driver=SimpleNamespace(active=active))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_launch, "_triton", lambda: Machine("3.9.0"))


def test_the_second_launch_is_quick(x: Tensor) -> None:
    kernel = Kernel()
    quick = QuickLaunch(kernel)
    quick[(7,)](x, 5, 0.5, ALIGN=8, num_warps=4)
    quick[(9,)](x, 6, 0.25, ALIGN=8, num_warps=4)
    quick[(9, 2)](x, 1, 0.25, ALIGN=8, num_warps=4)
    assert len(kernel.compiled) == 1
    assert kernel.compiled[0].launches == [
        ((9, 1, 1), (x.data_ptr(), 6, 0.25, 8)),
        ((9, 2, 1), (x.data_ptr(), 1, 0.25, 8)),
    ]


@pytest.mark.parametrize(
    ("version", "scratch", "known"), [("3.6.1", 0, True), ("3.6.1", 8, False), ("3.60.0", 0, False)]
)
def test_the_driver_is_called_where_its_function_is_known(
    x: Tensor, version: str, scratch: int, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick_launch, "_triton", lambda: Machine(version))
    kernel = Kernel(scratch=scratch)
    quick = QuickLaunch(kernel)
    for _ in range(2):
        quick[(7,)](x, 5, 0.5, ALIGN=8)
    flags = (False, False, None, None, (4, 1, 0), None, None, None)
    launched = [(7, 1, 1, 3, 17, *flags, x.data_ptr(), 5, 0.5, 8)]
    assert kernel.compiled[0].by_driver == (launched if known else [])
    assert len(kernel.compiled[0].launches) == (not known)


def test_hooks_see_quick_launches(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    quick = QuickLaunch(kernel)
    quick[(7,)](x, 5, 0.5, ALIGN=8)
    monkeypatch.setattr(quick_launch, "_triton", lambda: Machine("3.9.0", print))
    quick[(7,)](x, 5, 0.5, ALIGN=8)
    assert kernel.compiled[0].hooked == [(x, 5, 0.5, 8)] and len(kernel.compiled) == 1


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


def test_descriptors_of_tiles(x: Tensor) -> None:
    """Triton encodes them at each launch; their tiles' shapes are compiled in."""
    kernel = Kernel()
    quick = QuickLaunch(kernel)
    small, large = (SimpleNamespace(base=x, block_shape=[1, rows]) for rows in (32, 64))
    for _ in range(2):
        quick[(1,)](x, 5, small, ALIGN=8)
        quick[(1,)](x, 5, large, ALIGN=8)
    launches = [compiled.launches for compiled in kernel.compiled]
    assert launches == [[((1, 1, 1), (x.data_ptr(), 5, tiles, 8))] for tiles in (small, large)]


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
