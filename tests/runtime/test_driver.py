"""Launches by the driver: which kernels have them, and what the driver reads."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from launch_support import metadata

from attncomp.runtime import driver
from attncomp.runtime.driver import Entry, Layout, Place, Ready, Tiles, Unencoded, entry_of

SIGNATURE = {"x": "*bf16", "size": "i32", "ALIGN": "constexpr", "scale": "fp32"}
SIZES = [8, 4, 4, 8, 8]  # of what is no constant, and of two pointers to scratch memory


@dataclass(eq=False)
class Library:
    """A driver that notes launches: grid, block, shared, stream, function, argument values.

    sizes: of each kernel's arguments. status: what launches give; busy: called in each. A tensor
    map is a line of text, behind the address of its tensor; encoded: what encoding one gives.
    """

    sizes: list[int] = field(default_factory=list)
    status: int = 0
    busy: Callable[[], None] = lambda: None
    launched: list[tuple[Any, ...]] = field(default_factory=list)
    encoded: int = 0

    def __post_init__(self) -> None:
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        out = ctypes.POINTER(size)
        self.cuFuncGetParamInfo = ctypes.CFUNCTYPE(ctypes.c_int, pointer, size, out, out)(self.tell)
        self.cuLaunchKernelEx = ctypes.CFUNCTYPE(ctypes.c_int, *4 * [pointer])(self.launch)
        self.cuTensorMapReplaceAddress = ctypes.CFUNCTYPE(ctypes.c_int, pointer, pointer)(self.move)

    def tell(self, function: int, place: int, offset: Any, size: Any) -> int:
        if place >= len(self.sizes):
            return 1
        size[0] = self.sizes[place]
        return 0

    def cuTensorMapEncodeTiled(
        self, into: Any, element: int, rank: int, address: None, *parts: Any
    ) -> int:
        assert into.value % 64 == 0
        numbers = [list(part) if isinstance(part, ctypes.Array) else part for part in parts]
        text = repr([element, rank, numbers]).encode()
        ctypes.memmove(into.value + 8, text.ljust(120), 120)
        return self.encoded

    def move(self, tensor_map: int, address: int) -> int:
        ctypes.memmove(tensor_map, struct.pack("Q", address), 8)
        return 0

    def launch(self, config: int, function: int, arguments: int, extra: None) -> int:
        *shape, stream, attributes, count = struct.unpack("7IxxxxQQI", ctypes.string_at(config, 52))
        assert not attributes and not count
        places = struct.unpack(
            f"{len(self.sizes)}Q", ctypes.string_at(arguments, 8 * len(self.sizes))
        )
        values = [ctypes.string_at(p, n) for p, n in zip(places, self.sizes, strict=True)]
        self.launched.append((*shape, stream, function, *values))
        self.busy()
        return self.status


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setattr(driver, "_driver", lambda: found)
    return found


def kernel(signature: dict[str, str] = SIGNATURE, **changes: Any) -> SimpleNamespace:
    return SimpleNamespace(
        function=17,
        metadata=metadata(shared=512, **changes),
        src=SimpleNamespace(signature=signature),
    )


def test_the_entry_of_a_kernel(library: Library) -> None:
    library.sizes = SIZES
    assert entry_of(kernel()) == Entry(17, 128, 512, (("Q",), ("i",), (), ("f",)))


@pytest.mark.parametrize(
    "sizes", [[8, 4, 8, 8, 8], SIZES[:-1], [*SIZES, 8], SIZES[:3], []], ids=str
)
def test_kernels_that_the_driver_knows_otherwise(library: Library, sizes: list[int]) -> None:
    library.sizes = sizes
    assert entry_of(kernel()) is None


def test_drivers_that_do_not_tell(library: Library) -> None:
    library.sizes = SIZES
    del library.cuFuncGetParamInfo
    assert entry_of(kernel()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"num_ctas": 2},
        {"launch_cooperative_grid": 1},
        {"launch_pdl": 1},
        {"global_scratch_size": 64},
        {"profile_scratch_size": 64},
    ],
    ids=str,
)
def test_kernels_that_take_more(library: Library, changes: dict[str, int]) -> None:
    library.sizes = SIZES
    assert entry_of(kernel(**changes)) is None


@pytest.mark.parametrize("kind", ["tensordesc<bf16[64, 64]>", "u1", "fp64"])
def test_arguments_of_other_types(library: Library, kind: str) -> None:
    library.sizes = SIZES
    assert entry_of(kernel(SIGNATURE | {"scale": kind})) is None


TOLD = {
    "swizzle": 3, "elem_size": 2, "elem_type": 10, "block_size": [1, 64, 64], "fp4_padded": False,
}  # fmt: skip
LAYOUT = Layout(element=9, size=2, swizzle=3, box=(1, 64, 64))
DESCRIBED = ("128s", "i", "i", "i", "q", "q", "q")


@pytest.mark.parametrize(
    "kind", ["tensordesc<bf16[1, 64, 128]>", "tensordesc<bf16[1,2,3],L(a=[])>"]
)
def test_descriptors_stand_for_several_parameters(library: Library, kind: str) -> None:
    library.sizes = [8, 4, 128, 4, 4, 4, 8, 8, 8, 8, 8]
    found = kernel({"x": "*bf16", "size": "i32", "tiles": kind}, tensordesc_meta=[TOLD])
    assert entry_of(found) == Entry(17, 128, 512, (("Q",), ("i",), DESCRIBED), (LAYOUT,))


@pytest.mark.parametrize("change", [{"elem_type": 8}, {"fp4_padded": True}, {"is_im2col": True}])
def test_descriptors_that_are_not_known(library: Library, change: dict[str, Any]) -> None:
    library.sizes = [128, 4, 4, 4, 8, 8, 8, 8, 8]
    signature = {"tiles": "tensordesc<bf16[1, 64, 128]>"}
    assert entry_of(kernel(signature, tensordesc_meta=[TOLD])) is not None
    assert entry_of(kernel(signature, tensordesc_meta=[TOLD | change])) is None


ENTRY = Entry(17, 64, 256, (("Q",), ("Q",), ("i",), (), ("f",), ("q",)))


def arguments(*places: Place | int) -> tuple[Any, ...]:
    return (*places, -3, "a constant", 0.5, 2**40)


def seen(*addresses: int) -> tuple[bytes, ...]:
    """The values of `arguments` as a kernel reads them."""
    return (struct.pack("2Q", *addresses)[:8], struct.pack("Q", addresses[1]), struct.pack("i", -3),
            struct.pack("f", 0.5), struct.pack("q", 2**40), bytes(8), bytes(8))  # fmt: skip


def test_launches_read_all_addresses(library: Library, generator: torch.Generator) -> None:
    library.sizes = [8, 8, 4, 4, 8, 8, 8]
    draws = torch.randint(0, 2**20, (40,), generator=generator).tolist()
    places = [Place(i % 3, 0 if i % 4 == 0 else draw) for i, draw in enumerate(draws)]
    pairs = list(zip(places[::2], places[1::2], strict=True))
    ready = Ready(3, [(ENTRY, (i + 1, 2, 3), arguments(*pair)) for i, pair in enumerate(pairs)])
    for stream in (5, 5, 2**63 + 1):
        addresses = (torch.randint(0, 2**46, (3,), generator=generator) + 2**46).tolist()
        library.launched.clear()
        assert ready.launch(stream, addresses)
        assert library.launched == [
            (i + 1, 2, 3, 64, 1, 1, 256, stream, 17, *seen(*[addresses[t] + n for t, n in pair]))
            for i, pair in enumerate(pairs)
        ]


def test_null_pointers_and_grids_of_nothing(library: Library) -> None:
    library.sizes = [8, 8, 4, 4, 8, 8, 8]
    given = arguments(Place(0, 0), 0)
    ready = Ready(1, [(ENTRY, (4, 0, 1), given), (ENTRY, (4, 1, 1), given)])
    assert ready.launch(0, [1 << 40])
    assert library.launched == [(4, 1, 1, 64, 1, 1, 256, 0, 17, *seen(1 << 40, 0))]


def test_the_first_failure_ends_launches(library: Library) -> None:
    library.sizes, library.status = [8, 8, 4, 4, 8, 8, 8], 201
    ready = Ready(1, 3 * [(ENTRY, (1, 1, 1), arguments(Place(0, 0), Place(0, 8)))])
    assert not ready.launch(0, [1 << 40])
    assert len(library.launched) == 1
    library.status = 0
    assert ready.launch(0, [1 << 40])
    assert len(library.launched) == 4


def test_launches_at_the_same_time_go_another_way(library: Library) -> None:
    library.sizes = [8, 8, 4, 4, 8, 8, 8]
    ready = Ready(1, [(ENTRY, (1, 1, 1), arguments(Place(0, 0), Place(0, 8)))])
    found: list[bool] = []

    def launch_meanwhile() -> None:
        library.busy = lambda: None
        thread = threading.Thread(target=lambda: found.append(ready.launch(1, [1 << 41])))
        thread.start()
        thread.join()

    library.busy = launch_meanwhile
    assert ready.launch(0, [1 << 40])
    assert found == [False]
    assert len(library.launched) == 1
    assert ready.launch(0, [1 << 40])


def test_launches_of_no_arguments_inside_of_tensors(library: Library) -> None:
    library.sizes = [8, 8]
    assert Ready(0, [(Entry(3, 32, 0, ()), (1, 1, 1), ())]).launch(9, [])
    assert library.launched == [(1, 1, 1, 32, 1, 1, 0, 9, 3, bytes(8), bytes(8))]


TILES = Entry(5, 32, 0, (DESCRIBED, ("Q",), DESCRIBED), (LAYOUT, LAYOUT._replace(swizzle=1)))


def test_descriptors_follow_their_tensors(library: Library) -> None:
    library.sizes = [*(sizes := [128, 4, 4, 4, 8, 8, 8]), 8, *sizes, 8, 8]
    one = Tiles(Place(1, 0), (2, 300, 128), (38400, 128, 1))
    other = Tiles(Place(0, 64), (7, 8, 64), (512, 64, 1))
    ready = Ready(2, [(TILES, (1, 1, 1), (one, Place(0, 0), other))])
    for addresses in ([1 << 40, 1 << 41], [3 << 40, 5 << 41]):
        library.launched.clear()
        assert ready.launch(0, addresses)
        first, a, b, c, d, e, f, pointer, second, g = library.launched[0][9:19]
        assert first[:8] == struct.pack("Q", addresses[1])
        assert second[:8] == struct.pack("Q", addresses[0] + 64)
        assert pointer == struct.pack("Q", addresses[0])
        shape = [[128, 300, 2], [256, 76800], [64, 64, 1], [1, 1, 1]]
        assert first[8:].strip() == repr([9, 3, [*shape, 0, 3, 2, 0]]).encode()
        assert b"0, 1, 2, 0" in second
        assert (a, b, c) == tuple(struct.pack("i", size) for size in (2, 300, 128))
        assert (d, e, f) == tuple(struct.pack("q", stride) for stride in (38400, 128, 1))
        assert g == struct.pack("i", 7)


def test_descriptors_that_the_driver_refuses(library: Library) -> None:
    library.encoded = 1
    one = Tiles(Place(0, 0), (2, 300, 128), (38400, 128, 1))
    with pytest.raises(Unencoded, match="error 1"):
        Ready(1, [(TILES, (1, 1, 1), (one, Place(0, 0), one))])
