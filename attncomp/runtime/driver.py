"""Launches in a row by CUDA's driver, with arguments that stand ready in memory but for addresses.

Triton's launcher takes a Python object for each argument and looks at each one at every launch.
Between two calls of a kind addresses are all that differs: everything else is written once.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import struct
import threading
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

_SLOT: Final = 8  # bytes of the place of an argument
_WARP: Final = 32  # threads
_POINTER: Final = "Q"
# How struct writes arguments of Triton's types, beside pointers.
_CODES: Final = {"i32": "i", "i64": "q", "fp32": "f"}

Grid: TypeAlias = tuple[int, int, int]


class Place(NamedTuple):
    """An address: bytes behind the start of one of the tensors that a call has."""

    tensor: int
    offset: int


class Entry(NamedTuple):
    """A kernel as the driver launches it.

    threads: of a block; shared: bytes; codes: of struct, one for each argument of Triton's, None
    for those that are compiled in.
    """

    function: int
    threads: int
    shared: int
    codes: tuple[str | None, ...]


def entry_of(kernel: Any) -> Entry | None:
    """The entry of what Triton compiled; None where the driver says otherwise, or does not say.

    Kernels have two more arguments, pointers to scratch memory, which are 0 if they need none.
    """
    metadata = kernel.metadata
    extra = (
        metadata.num_ctas > 1,
        metadata.launch_cooperative_grid,
        metadata.launch_pdl,
        metadata.global_scratch_size,
        metadata.profile_scratch_size,
    )
    codes = [_code(kind) for kind in kernel.src.signature.values()]
    if any(extra) or "" in codes:
        return None
    sizes = [struct.calcsize(code) for code in (*codes, *2 * _POINTER) if code is not None]
    if _argument_sizes(kernel.function, len(sizes) + 1) != sizes:
        return None
    return Entry(kernel.function, metadata.num_warps * _WARP, metadata.shared, tuple(codes))


def _code(kind: str) -> str | None:
    """How an argument of a type is written; None if not at all, empty if that is not known."""
    if kind == "constexpr":
        return None
    return _POINTER if kind.startswith("*") else _CODES.get(kind, "")


def _argument_sizes(function: int, most: int) -> list[int]:
    """Bytes of the first arguments of a function; none from drivers before 12.4."""
    ask = getattr(_driver(), "cuFuncGetParamInfo", None)
    if ask is None:
        return []
    offset, size, sizes = ctypes.c_size_t(), ctypes.c_size_t(), []
    for i in range(most):
        into = ctypes.byref(offset), ctypes.byref(size)
        if ask(ctypes.c_void_p(function), ctypes.c_size_t(i), *into):
            break
        sizes.append(size.value)
    return sizes


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", 3 * ctypes.c_uint),
        ("block", 3 * ctypes.c_uint),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("n_attributes", ctypes.c_uint),
    )


class _Lanes(NamedTuple):
    """Addresses inside of a tensor as one number, 64 bits each: its own times ones, plus offsets.

    They stand in a part of the memory.
    """

    tensor: int
    ones: int
    offsets: int
    part: slice


class Ready:
    """Launches whose arguments are written, but for the addresses of the tensors of a call.

    Each is of an entry, with its grid and arguments: places of tensors, of which there are
    n_tensors, and numbers.
    """

    def __init__(
        self, n_tensors: int, launches: Sequence[tuple[Entry, Grid, Sequence[Any]]]
    ) -> None:
        launches = [launch for launch in launches if math.prod(launch[1])]
        rows = [_slots(entry, arguments) for entry, _, arguments in launches]
        used = dict.fromkeys(slot for row in rows for slot in row)
        starts = [Place(i, 0) for i in range(n_tensors)]
        inside = sorted({slot for slot in used if isinstance(slot, Place)}.difference(starts))
        constants = [slot for slot in used if isinstance(slot, bytes)]
        slots: list[Place | bytes] = [*starts, *inside, *constants]
        at = {slot: i * _SLOT for i, slot in enumerate(slots)}
        self._memory = bytearray().join(constant.ljust(_SLOT, b"\0") for constant in constants)
        self._memory[:0] = bytes(_SLOT * (len(starts) + len(inside)))
        self._write_starts = struct.Struct(n_tensors * _POINTER).pack_into
        found = itertools.groupby(inside, itemgetter(0))
        self._lanes = [_lanes(list(places), at) for _, places in found]
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._arguments = [
            (ctypes.c_void_p * len(row))(*[begin + at[slot] for slot in row]) for row in rows
        ]
        self._configs = [
            _Config(grid=grid, block=(entry.threads, 1, 1), shared=entry.shared)
            for entry, grid, _ in launches
        ]
        # Objects of ctypes are passed on faster than numbers.
        self._calls = [
            (
                ctypes.c_void_p(ctypes.addressof(config)),
                ctypes.c_void_p(entry.function),
                ctypes.c_void_p(ctypes.addressof(arguments)),
                None,
            )
            for (entry, *_), config, arguments in zip(
                launches, self._configs, self._arguments, strict=True
            )
        ]
        self._stream = 0
        self._unused = threading.Lock()
        self._call = _driver().cuLaunchKernelEx

    def launch(self, stream: int, addresses: Sequence[int]) -> bool:
        """Launch on a stream of the current device, with the addresses of the tensors.

        False where that cannot be done, and perhaps only some was launched: in another thread at
        the same time, in one without a context, and where the driver has an error to report.
        """
        if not self._unused.acquire(blocking=False):
            return False
        try:
            if stream != self._stream:
                self._stream = stream
                for config in self._configs:
                    config.stream = stream
            self._write_starts(self._memory, 0, *addresses)
            for tensor, ones, offsets, part in self._lanes:
                inside = addresses[tensor] * ones + offsets
                self._memory[part] = inside.to_bytes(part.stop - part.start, "little")
            return not any(itertools.starmap(self._call, self._calls))
        finally:
            self._unused.release()


def _slots(entry: Entry, arguments: Sequence[Any]) -> list[Place | bytes]:
    """What the driver reads for each argument of a launch; the last two are scratch memory."""
    given = zip(arguments, entry.codes, strict=True)
    slots = [
        value if isinstance(value, Place) else struct.pack(code, value)
        for value, code in given
        if code is not None
    ]
    return slots + 2 * [struct.pack(_POINTER, 0)]


def _lanes(places: Sequence[Place], at: Mapping[Place | bytes, int]) -> _Lanes:
    """All places inside of one tensor, which stand in a row."""
    start = at[places[0]]
    ones = sum(1 << (8 * (at[place] - start)) for place in places)
    offsets = sum(place.offset << (8 * (at[place] - start)) for place in places)
    return _Lanes(places[0].tensor, ones, offsets, slice(start, start + _SLOT * len(places)))
