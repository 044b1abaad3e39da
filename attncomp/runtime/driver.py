"""Launches in a row by CUDA's driver, with arguments that stand ready in memory but for addresses.

Triton's launcher takes a Python object for each argument and looks at each one at every launch.
Between two calls of a kind addresses are all that differs: everything else is written once.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import re
import struct
import threading
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

_SLOT: Final = 8  # bytes of the place of an argument
_WARP: Final = 32  # threads
_POINTER: Final = "Q"
# How struct writes arguments of Triton's types, beside pointers and descriptors of tiles.
_CODES: Final = {"i32": "i", "i64": "q", "fp32": "f"}
_TENSOR_MAP: Final = "128s"
_MAP_BYTES: Final = 128
# CUtensorMapDataType of what Triton has as types of elements: float16, float32, bfloat16.
_ELEMENTS: Final = {6: 6, 7: 7, 10: 9}
_L2_128_BYTES: Final = 2  # CUtensorMapL2promotion

Grid: TypeAlias = tuple[int, int, int]


class Place(NamedTuple):
    """An address: bytes behind the start of one of the tensors that a call has."""

    tensor: int
    offset: int


class Unencoded(ValueError):
    """A descriptor that the driver does not encode."""


class Layout(NamedTuple):
    """How a kernel takes tiles by a descriptor, in numbers of the driver; size: of an element."""

    element: int
    size: int
    swizzle: int
    box: tuple[int, ...]


class Tiles(NamedTuple):
    """A descriptor of a tensor's tiles: where it begins, and its shape, strides in elements."""

    place: Place
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Entry(NamedTuple):
    """A kernel as the driver launches it.

    threads: of a block; shared: bytes; codes: of struct, for each argument of Triton's those of the
    parameters that it stands for, none for what is compiled in; layouts: of its descriptors.
    """

    function: int
    threads: int
    shared: int
    codes: tuple[tuple[str, ...], ...]
    layouts: tuple[Layout, ...] = ()


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
    layouts = [_layout(told) for told in getattr(metadata, "tensordesc_meta", None) or ()]
    codes = [_codes(kind) for kind in kernel.src.signature.values()]
    described = sum(_TENSOR_MAP in parts for parts in codes)
    if any(extra) or ("",) in codes or None in layouts or described != len(layouts):
        return None
    flat = [code for parts in codes for code in parts] + 2 * [_POINTER]
    sizes = [struct.calcsize(code) for code in flat]
    if _argument_sizes(kernel.function, len(sizes) + 1) != sizes:
        return None
    threads = metadata.num_warps * _WARP
    known = tuple(layout for layout in layouts if layout is not None)
    return Entry(kernel.function, threads, metadata.shared, tuple(codes), known)


def _codes(kind: str) -> tuple[str, ...]:
    """How an argument of a type is written; an empty code if that is not known.

    Behind a descriptor come the sizes and the strides of its tensor.
    """
    if kind == "constexpr":
        return ()
    described = re.match(r"tensordesc<\w+\[([^]]*)\]", kind)
    if described is not None:
        rank = described[1].count(",") + 1
        return (_TENSOR_MAP, *rank * "i", *rank * "q")
    return (_POINTER if kind.startswith("*") else _CODES.get(kind, ""),)


def _layout(told: Mapping[str, Any]) -> Layout | None:
    """What Triton tells of a descriptor that a kernel takes; None for those that are not known."""
    if told["elem_type"] not in _ELEMENTS or told["fp4_padded"] or told.get("is_im2col", False):
        return None
    element = _ELEMENTS[told["elem_type"]]
    return Layout(element, told["elem_size"], told["swizzle"], tuple(told["block_size"]))


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


class _Described(NamedTuple):
    """A descriptor of tiles that stands for a tensor map."""

    tiles: Tiles
    layout: Layout


_Slot: TypeAlias = "Place | bytes | _Described"
"""What a parameter of a kernel is read from."""


class _TensorMaps:
    """Descriptors as the driver encodes them, each CUtensorMap but for the address of its tensor.

    addresses: where they stand.
    """

    def __init__(self, described: Sequence[_Described]) -> None:
        self._memory = ctypes.create_string_buffer((len(described) + 1) * _MAP_BYTES)
        begin = -(-ctypes.addressof(self._memory) // _MAP_BYTES) * _MAP_BYTES
        self.addresses = {one: begin + i * _MAP_BYTES for i, one in enumerate(described)}
        self._places = []
        for one, address in self.addresses.items():
            _encode(address, one.tiles, one.layout)
            self._places.append((ctypes.c_void_p(address), *one.tiles.place))
        self._replace = _driver().cuTensorMapReplaceAddress if described else None

    def move(self, addresses: Sequence[int]) -> bool:
        """Give them the addresses of the tensors of a call; whether the driver did."""
        replace: Any = self._replace
        return not any(
            [
                replace(tensor_map, ctypes.c_void_p(addresses[tensor] + offset))
                for tensor_map, tensor, offset in self._places
            ]
        )


def _encode(address: int, tiles: Tiles, layout: Layout) -> None:
    """Write a CUtensorMap of no tensor in particular; the driver has dimensions the other way."""
    rank = len(tiles.shape)
    bytes_apart = [stride * layout.size for stride in tiles.strides[-2::-1]]
    strides = (ctypes.c_uint64 * len(bytes_apart))(*bytes_apart)
    status = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(address), layout.element, rank, None,
        (ctypes.c_uint64 * rank)(*tiles.shape[::-1]), strides,
        (ctypes.c_uint32 * rank)(*layout.box[::-1]), (ctypes.c_uint32 * rank)(*rank * [1]),
        0, layout.swizzle, _L2_128_BYTES, 0,
    )  # fmt: skip
    if status:
        raise Unencoded(f"no descriptor of {tiles}, {layout}: the driver's error {status}")


class Ready:
    """Launches whose arguments are written, but for the addresses of the tensors of a call.

    Each is of an entry, with its grid and arguments: places of tensors, of which there are
    n_tensors, descriptors of their tiles, and numbers. Raises Unencoded for other descriptors than
    the driver has.
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
        offsets = {slot: i * _SLOT for i, slot in enumerate(slots)}
        self._memory = bytearray().join(constant.ljust(_SLOT, b"\0") for constant in constants)
        self._memory[:0] = bytes(_SLOT * (len(starts) + len(inside)))
        self._write_starts = struct.Struct(n_tensors * _POINTER).pack_into
        found = itertools.groupby(inside, itemgetter(0))
        self._lanes = [_lanes(list(places), offsets) for _, places in found]
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._maps = _TensorMaps([slot for slot in used if isinstance(slot, _Described)])
        at = {slot: begin + offset for slot, offset in offsets.items()} | self._maps.addresses
        self._arguments = [
            (ctypes.c_void_p * len(row))(*[at[slot] for slot in row]) for row in rows
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
            moved = self._maps.move(addresses)
            return moved and not any(itertools.starmap(self._call, self._calls))
        finally:
            self._unused.release()


def _slots(entry: Entry, arguments: Sequence[Any]) -> list[_Slot]:
    """What the driver reads for each parameter of a launch; the last two are scratch memory."""
    layouts = iter(entry.layouts)
    slots: list[_Slot] = []
    for value, codes in zip(arguments, entry.codes, strict=True):
        if isinstance(value, Tiles):
            slots.append(_Described(value, next(layouts)))
            numbers = zip(codes[1:], (*value.shape, *value.strides), strict=True)
            slots += [struct.pack(code, number) for code, number in numbers]
        else:
            pointer = isinstance(value, Place)
            slots += [value if pointer else struct.pack(code, value) for code in codes]
    return slots + 2 * [struct.pack(_POINTER, 0)]


def _lanes(places: Sequence[Place], at: Mapping[Place | bytes, int]) -> _Lanes:
    """All places inside of one tensor, which stand in a row."""
    start = at[places[0]]
    ones = sum(1 << (8 * (at[place] - start)) for place in places)
    offsets = sum(place.offset << (8 * (at[place] - start)) for place in places)
    return _Lanes(places[0].tensor, ones, offsets, slice(start, start + _SLOT * len(places)))
