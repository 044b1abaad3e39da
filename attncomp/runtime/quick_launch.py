"""Launches of kernels that are compiled already, without Triton's work for the first launch.

Triton's `kernel[grid](...)` looks at each argument, at options, environment and globals again at
every launch, some 25 microseconds. Generated kernels leave less open: sizes are not specialised,
globals never change, and a parameter takes one kind of argument at all launches. What is left to
tell two compilations apart is a short key. Pointers go to the driver as integers: of a tensor
Triton's launcher asks the driver whose memory it is.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from attncomp.runtime.descriptors import base_of
from attncomp.runtime.driver import Grid

ALIGNED: Final = 16  # bytes; Triton compiles anew for a tensor that starts elsewhere

Launch: TypeAlias = Callable[[Grid, int, Sequence[Any]], None]
"""Launches a kernel on a stream of the current device, without hooks; pointers are integers."""


class Compiled(NamedTuple):
    """A compiled kernel, and how it is launched."""

    kernel: Any
    launch: Launch

    @classmethod
    def of(cls, kernel: Any) -> Compiled:
        run = kernel.run
        plain = hasattr(run, "launch") and not (run.global_scratch_size or run.profile_scratch_size)
        known = plain and _triton().__version__.startswith("3.6.")
        return cls(kernel, _by_driver(kernel) if known else _by_launcher(kernel))


def _by_launcher(kernel: Any) -> Launch:
    """By Triton's launcher."""
    run, function, metadata = kernel.run, kernel.function, kernel.packed_metadata

    def launch(grid: Grid, stream: int, args: Sequence[Any]) -> None:
        run(*grid, stream, function, metadata, None, None, None, *args)

    return launch


def _by_driver(kernel: Any) -> Launch:
    """By what Triton 3.6's launcher calls, for kernels without scratch memory, in half the time."""
    run, function, metadata = kernel.run, kernel.function, kernel.packed_metadata
    launch_compiled = run.launch
    flags = run.launch_cooperative_grid, run.launch_pdl
    options = (function, *flags, None, None, metadata, None, None, None)

    def launch(grid: Grid, stream: int, args: Sequence[Any]) -> None:
        launch_compiled(*grid, stream, *options, *args)

    return launch


class Launched(NamedTuple):
    """A launch: of which kernel, and with all of its arguments; None for what only Triton knows."""

    kernel: Compiled | None
    grid: Grid
    args: tuple[Any, ...]


watcher: ContextVar[Callable[[Launched], None] | None] = ContextVar("watcher", default=None)
"""Is told of the launches of this thread, where there is one."""


class _Places(NamedTuple):
    """Which positional arguments of a kernel are tensors, and which integers; some of each.

    described: which are descriptors of tiles.
    """

    tensors: tuple[int, ...]
    integers: tuple[int, ...]
    described: tuple[int, ...]


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
        self._compiled: dict[tuple[object, ...], Compiled] = {}
        self._compiling: tuple[Future[None], ...] = ()

    def await_first(self, compiling: Future[None]) -> None:
        """Have launches that Triton might compile for wait for this, which compiles for some."""
        self._compiling += (compiling,)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *args: Any, **keywords: Any) -> None:
        values = list(args)
        key = self._key(values, keywords)
        compiled = None if key is None else self._compiled.get(key)
        x, y, z = (*grid, 1, 1)[:3]
        whole = x, y, z
        if key is None or compiled is None:
            compiled = self._first(key, grid, args, keywords)
        elif is_hooked():
            compiled.kernel[whole](*args, *self._constants(args, keywords))
        else:
            values += self._constants(args, keywords)
            compiled.launch(whole, current_stream(key[0]), values)
        told = watcher.get()
        if told is not None:
            whole_args = () if compiled is None else (*args, *self._constants(args, keywords))
            told(Launched(compiled, whole, whole_args))

    def _constants(self, args: tuple[Any, ...], keywords: dict[str, Any]) -> list[Any]:
        """The arguments behind the positional ones, in the order of the parameters."""
        return [keywords[name] for name in self.jitted.arg_names[len(args) :]]

    def _first(
        self,
        key: tuple[Any, ...] | None,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> Compiled | None:
        """Triton's own launch; what it compiled, where a key stands for that."""
        if self._compiling:
            self._await_compiling()
        kernel = self.jitted[grid](*args, **keywords)
        if not self._launched:
            self._launched = True
            self._places = _places(self.jitted, args, keywords)
            key = self._key(list(args), keywords)
        if key is None:
            return None
        return self._compiled.setdefault(key, Compiled.of(kernel))

    def _await_compiling(self) -> None:
        for compiling in self._compiling:
            # What went wrong does so again at the launch. `wait` would never see a cancellation.
            with contextlib.suppress(CancelledError):
                compiling.exception()
        self._compiling = ()

    def _key(self, args: list[Any], keywords: dict[str, Any]) -> tuple[Any, ...] | None:
        """What Triton would compile anew for, the device first; None where only Triton can tell.

        Puts addresses in place of the tensors among args.
        """
        places = self._places
        if not places:
            return None
        device = args[places.tensors[0]].get_device()
        key: list[object] = [device, *keywords, *keywords.values()]
        addresses = 0
        for place in places.tensors:
            tensor = args[place]
            args[place] = address = tensor.data_ptr()
            addresses |= address
            key.append(tensor.dtype)
        for place in places.described:
            key += [args[place].base.dtype, *args[place].block_shape]
        # No size or stride is negative beyond 32 bits.
        if addresses % ALIGNED or max([args[place] for place in places.integers]) >= 2**31:
            return None
        return tuple(key)


def _places(kernel: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> _Places | None:
    """The places of a first launch; None where no key can stand for all that Triton looks at."""
    tensors, integers, described = [], [], []
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
            case _ if base_of(value) is not None:
                described.append(place)
            case _:
                return None
    complete = all(name in keywords for name in kernel.arg_names[len(args) :])
    if not (complete and tensors and integers):
        return None
    return _Places(tuple(tensors), tuple(integers), tuple(described))


def is_hooked() -> bool:
    """Whether somebody, a profiler as a rule, wants Triton to tell of launches."""
    runtime = _triton().knobs.runtime
    enter, leave = runtime.launch_enter_hook, runtime.launch_exit_hook
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


def current_device() -> int:
    """The current CUDA device, of a process that has used one."""
    device: int = torch._C._cuda_getDevice()
    return device


def current_stream(device: int) -> int:
    """The current stream of a device by number, as Triton's launcher takes it."""
    stream: int = _triton().runtime.driver.active.get_current_stream(device)
    return stream


@functools.cache
def _triton() -> Any:
    import triton

    return triton


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
