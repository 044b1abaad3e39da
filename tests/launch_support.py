"""Interpreted kernels of generated modules that launch as compiled ones do: with addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from triton.runtime.interpreter import InterpretedFunction
from triton_support import interpreter

from attncomp.runtime import program, quick_launch, replay
from attncomp.runtime.quick_launch import QuickLaunch


@dataclass
class Launches:
    """What was launched: by Triton's own work, and by addresses alone.

    idle: whether the latter leave out the kernels themselves.
    """

    slow: list[str] = field(default_factory=list)
    quick: list[str] = field(default_factory=list)
    idle: bool = False


class Compiled:
    """What Triton gives for a launch. like: the arguments of the first one."""

    function = 7
    packed_metadata = (4, 1, 0)

    def __init__(self, kernel: Kernel, like: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._kernel = kernel
        self._like = like
        self._options = options

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
def addressed_launches(patch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """Within it, calls on backend triton launch as on a GPU."""
    launches = Launches()
    replaced: list[tuple[ModuleType, str, Any]] = []  # modules outlive the caches of programs

    def substitute(module: ModuleType) -> ModuleType:
        for name, value in vars(module).items():
            if isinstance(value, InterpretedFunction) and name.endswith("_kernel"):
                replaced.append((module, name, value))
                setattr(module, name, QuickLaunch(Kernel(value, launches)))
        return module

    patch.setattr(program, "with_quick_launches", substitute)
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
