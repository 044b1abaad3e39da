"""Interpreted kernels of generated modules that launch as compiled ones do: with addresses."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from triton.runtime.interpreter import InterpretedFunction
from triton_support import interpreter

from attncomp.runtime import driver, program, quick_launch, replay
from attncomp.runtime.quick_launch import QuickLaunch


@dataclass
class Launches:
    """What was launched: by Triton's own work, by addresses alone, and those by the driver.

    clusters: blocks of each, of which only one is the driver's. idle: whether launches by addresses
    leave out the kernels themselves. compiled: what was compiled; its function is its place.
    """

    clusters: int = 1
    slow: list[str] = field(default_factory=list)
    quick: list[str] = field(default_factory=list)
    driven: list[str] = field(default_factory=list)
    idle: bool = False
    compiled: list[Compiled] = field(default_factory=list)


class Compiled:
    """What Triton gives for a launch. like: the arguments of the first one."""

    packed_metadata = (4, 1, 0)

    def __init__(self, kernel: Kernel, like: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._kernel = kernel
        self._like = like
        self._options = options
        constants = [parameter.is_constexpr for parameter in kernel.params]
        kinds = map(kind_of, like, constants)
        self.src = SimpleNamespace(signature=dict(zip(kernel.arg_names, kinds, strict=True)))
        self.metadata = metadata(num_ctas=kernel.launches.clusters)
        self.function = len(kernel.launches.compiled)
        kernel.launches.compiled.append(self)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *args: self._kernel.interpret(grid, args, self._options)

    def run(
        self,
        x: int,
        y: int,
        z: int,
        stream: int,
        function: int,
        metadata: object,
        told: None,
        enter: None,
        leave: None,
        *args: Any,
    ) -> None:
        """As Triton's launcher: pointers are integers."""
        assert (function, metadata) == (self.function, self.packed_metadata)
        self._kernel.launches.quick.append(self._kernel.name)
        if self._kernel.launches.idle:
            return
        given = [
            at(a, b) if isinstance(b, Tensor) else a for a, b in zip(args, self._like, strict=False)
        ]
        self._kernel.interpret((x, y, z), (*given, *args[len(given) :]), self._options)

    def run_ready(self, grid: tuple[int, ...], arguments: Sequence[int]) -> None:
        """As the driver launches: with an address for each argument that is no constant."""
        self._kernel.launches.driven.append(self._kernel.name)
        places = iter(arguments)
        codes = {"i32": "i", "fp32": "f"}
        given = [
            value
            if kind == "constexpr"
            else struct.unpack(codes.get(kind, "Q"), read(next(places), codes.get(kind, "Q")))[0]
            for kind, value in zip(self.src.signature.values(), self._like, strict=True)
        ]
        assert [read(place, "Q") for place in places] == 2 * [bytes(8)]
        nothing = None, None, None
        self.run(*grid, 0, self.function, self.packed_metadata, *nothing, *given)


def metadata(**changes: Any) -> SimpleNamespace:
    """What Triton tells of a compiled kernel."""
    none = "launch_cooperative_grid", "launch_pdl", "global_scratch_size", "profile_scratch_size"
    told = {"num_warps": 4, "num_ctas": 1, "shared": 0} | dict.fromkeys(none, 0)
    return SimpleNamespace(**(told | changes))


def kind_of(value: object, constant: bool) -> str:
    """The type of an argument, in Triton's words."""
    if constant:
        return "constexpr"
    if isinstance(value, Tensor):
        return "*i8"
    return "i32" if isinstance(value, int) else "fp32"


def read(address: int, code: str) -> bytes:
    """A value in memory as struct writes it."""
    return ctypes.string_at(address, struct.calcsize(code))


class Driver:
    """What is called of CUDA's driver."""

    def __init__(self, launches: Launches) -> None:
        pointer = ctypes.c_void_p
        self._launches = launches
        self.cuFuncGetParamInfo = ctypes.CFUNCTYPE(
            ctypes.c_int, pointer, ctypes.c_size_t, *2 * [ctypes.POINTER(ctypes.c_size_t)]
        )(self._tell)
        self.cuLaunchKernelEx = ctypes.CFUNCTYPE(ctypes.c_int, *4 * [pointer])(self._run)

    def _sizes(self, function: int | None) -> list[int]:
        signature = self._launches.compiled[function or 0].src.signature.values()
        kinds = [kind for kind in signature if kind != "constexpr"]
        return [*[8 if kind.startswith("*") else 4 for kind in kinds], 8, 8]

    def _tell(self, function: int | None, place: int, offset: Any, size: Any) -> int:
        sizes = self._sizes(function)
        if place >= len(sizes):
            return 1
        size[0] = sizes[place]
        return 0

    def _run(self, config: int, function: int | None, arguments: int, extra: None) -> int:
        if self._launches.idle:
            return 0
        *grid, threads, _, _, shared = struct.unpack("7I", ctypes.string_at(config, 28))
        assert (threads, shared) == (128, 0)
        count = len(self._sizes(function))
        places = struct.unpack(f"{count}Q", ctypes.string_at(arguments, 8 * count))
        self._launches.compiled[function or 0].run_ready(tuple(grid), places)
        return 0


def at(address: int, like: Tensor) -> Tensor:
    """The tensor of a dtype at an address."""
    memory = (ctypes.c_char * like.element_size()).from_address(address)
    return torch.frombuffer(memory, dtype=like.dtype)


class Kernel:
    """An interpreted kernel with what `QuickLaunch` reads of a compiled one."""

    def __init__(self, kernel: InterpretedFunction[Any], launches: Launches) -> None:
        plain = triton.JITFunction(kernel.fn, do_not_specialize=kernel.kwargs["do_not_specialize"])
        self.arg_names, self.params, self.name = plain.arg_names, plain.params, kernel.fn.__name__
        self.launches = launches
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **keywords: Any) -> Compiled:
            self.launches.slow.append(self.name)
            names = self.arg_names[len(args) :]
            options = {name: value for name, value in keywords.items() if name not in names}
            whole = (*args, *[keywords[name] for name in names])
            self.interpret(grid, whole, options)
            return Compiled(self, whole, options)

        return launch

    def interpret(
        self, grid: tuple[int, ...], args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        """Run the kernel, unseen by modes."""
        with _disable_current_modes():
            self._kernel[grid](*args, **options)


@contextmanager
def addressed_launches(patch: pytest.MonkeyPatch, *, clusters: int = 1) -> Iterator[Launches]:
    """Within it, calls on backend triton launch as on a GPU."""
    launches = Launches(clusters)
    replaced: list[tuple[ModuleType, str, Any]] = []  # modules outlive the caches of programs

    def substitute(module: ModuleType) -> ModuleType:
        for name, value in vars(module).items():
            if isinstance(value, InterpretedFunction) and name.endswith("_kernel"):
                replaced.append((module, name, value))
                setattr(module, name, QuickLaunch(Kernel(value, launches)))
        return module

    patch.setattr(program, "with_quick_launches", substitute)
    found = Driver(launches)
    patch.setattr(driver, "_driver", lambda: found)
    for space in (quick_launch, replay):
        patch.setattr(space, "current_stream", lambda device: 0)
    caches = (program.program, program._kernels)
    for cache in caches:
        cache.cache_clear()
    try:
        with interpreter():
            yield launches
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)
        for cache in caches:
            cache.cache_clear()
