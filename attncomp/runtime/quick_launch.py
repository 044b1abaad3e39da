"""Launches of kernels that are compiled already, without Triton's work for the first launch.

Triton's `kernel[grid](...)` looks at each argument, at options, environment and globals again at
every launch, some 25 microseconds. Generated kernels leave less open: sizes are not specialised,
globals never change, and a parameter takes one kind of argument at all launches. What is left to
tell two compilations apart is a short key.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from types import ModuleType
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

_ALIGNED: Final = 16  # bytes; Triton compiles anew for a tensor that starts elsewhere


class _Places(NamedTuple):
    """Which positional arguments of a kernel are tensors, and which integers; some of each."""

    tensors: tuple[int, ...]
    integers: tuple[int, ...]


class QuickLaunch:
    """Stands in a module in place of a kernel: `quick[grid](...)` launches as the kernel does.

    A launch of a kind not seen before, or of arguments that the key does not tell apart (unaligned
    tensors, sizes beyond 32 bits, what is neither tensor nor number), is Triton's own.

    jitted: the kernel.
    """

    def __init__(self, kernel: Any) -> None:
        self.jitted = kernel
        self._places: _Places | None = None
        self._launched = False
        self._compiled: dict[tuple[object, ...], Any] = {}
        self._compiling: tuple[Future[None], ...] = ()

    def await_first(self, compiling: Future[None]) -> None:
        """Have launches that Triton might compile for wait for this, which compiles for some."""
        self._compiling += (compiling,)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *args: Any, **keywords: Any) -> None:
        key = self._key(args, keywords)
        compiled = None if key is None else self._compiled.get(key)
        if compiled is not None:
            constants = self.jitted.arg_names[len(args) :]
            whole = grid if len(grid) == 3 else (*grid, 1, 1)[:3]
            compiled[whole](*args, *[keywords[name] for name in constants])
            return
        if self._compiling:
            self._await_compiling()
        compiled = self.jitted[grid](*args, **keywords)
        if not self._launched:
            self._launched = True
            self._places = _places(self.jitted, args, keywords)
            key = self._key(args, keywords)
        if key is not None:
            self._compiled[key] = compiled

    def _await_compiling(self) -> None:
        for compiling in self._compiling:
            # What went wrong does so again at the launch. `wait` would never see a cancellation.
            with contextlib.suppress(CancelledError):
                compiling.exception()
        self._compiling = ()

    def _key(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[object, ...] | None:
        """What Triton would compile anew for; None where only Triton can tell."""
        places = self._places
        if not places:
            return None
        addresses = 0
        key: list[object] = list(keywords.items())
        for place in places.tensors:
            tensor = args[place]
            addresses |= tensor.data_ptr()
            key.append(tensor.dtype)
        # No size or stride is negative beyond 32 bits.
        if addresses % _ALIGNED or max([args[place] for place in places.integers]) >= 2**31:
            return None
        key.append(tensor.get_device())
        return tuple(key)


def _places(kernel: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> _Places | None:
    """The places of a first launch; None where no key can stand for all that Triton looks at."""
    tensors, integers = [], []
    for place, (parameter, value) in enumerate(zip(kernel.params, args, strict=False)):
        match value:
            case Tensor():
                tensors.append(place)
            case bool():
                return None
            case int() if parameter.do_not_specialize and not parameter.is_constexpr:
                integers.append(place)
            case float() if not parameter.is_constexpr:
                pass
            case _:
                return None
    complete = all(name in keywords for name in kernel.arg_names[len(args) :])
    return _Places(tuple(tensors), tuple(integers)) if complete and tensors and integers else None


def with_quick_launches(module: ModuleType) -> ModuleType:
    """The module, its kernels replaced by quick ones where their launches on NVIDIA GPUs are known.

    AMD's compiler looks at the size of tensors' storages as well. Functions that kernels call stay
    as they are, since Triton looks them up in the module, and so do kernels that are interpreted.
    """
    if torch.version.hip is not None or not hasattr(module, "triton"):
        return module
    for name, value in vars(module).items():
        if isinstance(value, module.triton.JITFunction) and name.endswith("_kernel"):
            setattr(module, name, QuickLaunch(value))
    return module
