"""Runs generated Gluon kernels on the CPU, which has no interpreter for them.

Each partition of a warp-specialised kernel is a thread, shared memory and registers are tensors
without layouts. Barriers are mbarriers, with phases and counts. A matrix product reads its slots
when it is waited for, no sooner, so that a slot that is freed too early is filled anew before; an
access outside of its tensor is an IndexError, a partition that waits in vain a TimeoutError.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from dense import Inputs, Shape, random_inputs
from torch import Tensor
from triton_support import make_problem, untraced

from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.ir.schedule import DtypeName

PATIENCE = 20.0  # seconds that a partition waits for the others
WARPGROUP = 128  # threads
FORWARD = "# The forward for Hopper."  # where the text of each begins
QUERY = "# The backward's dq for Hopper,"
KEYS = "# The key-major backward for Hopper."
_program = threading.local()


def plan_for(
    pattern: str, shape: Shape, *, target: str = "sm_90", dtype: DtypeName = "float16"
) -> KernelPlan:
    """The plan of a pattern for Hopper; without scores, of all heads that read the same keys."""
    plan = lower(pattern, make_problem(shape, dtype=dtype, target=target))
    crisp = make_problem(shape, dtype=dtype, target=target, crisp=True)
    return plan if plan.scores else lower(pattern, crisp)


def halves(shape: Shape, generator: torch.Generator) -> Inputs:
    """Random inputs in float16, scores and the gradient of lse in float32."""
    inputs = random_inputs(shape, generator, dtype=torch.float32)
    return replace(inputs.to(torch.float16), scores=inputs.scores, dlse=inputs.dlse)


def learned_tensors(plan: KernelPlan, heads: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Random tensors for the modifiers of a plan, in the order of the state."""
    return tuple(
        torch.randn(heads, *([] if width is None else [width]), generator=generator)
        for _, width in plan.modifiers.tensors
    )


def poisoned(inputs: Inputs) -> Inputs:
    """The same inputs, but for what no query of other heads may see: the second KV head's."""
    k, v = inputs.k.clone(), inputs.v.clone()
    k[:, 1], v[:, 1] = torch.nan, torch.inf
    return replace(inputs, k=k, v=v)


def with_nan_score(inputs: Inputs, place: int) -> Inputs:
    """The same inputs, but for one score of the first group."""
    scores = inputs.scores.clone()
    scores[0, 0, place] = torch.nan
    return replace(inputs, scores=scores)


class Pointer:
    """Addresses into a tensor's storage, in elements from its first one."""

    def __init__(self, memory: Tensor, offsets: Tensor) -> None:
        self.memory, self.offsets = memory, offsets

    @classmethod
    def to(cls, tensor: Tensor) -> Pointer:
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        start = tensor.storage_offset()
        return cls(tensor.as_strided((size - start,), (1,), start), torch.tensor(0))

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.memory, self.offsets + offset)

    def __getitem__(self, places: Any) -> Pointer:
        return Pointer(self.memory, self.offsets[places])

    def used(self, mask: Any) -> tuple[Tensor, Tensor]:
        places, used = torch.broadcast_tensors(self.offsets, torch.as_tensor(mask))
        wrong = used & ((places < 0) | (places >= len(self.memory)))
        if wrong.any():
            raise IndexError(f"address {int(places[wrong][0])} of {len(self.memory)} elements")
        return places, used


def load(pointer: Pointer, mask: Any = True, other: Any = 0) -> Tensor:
    places, used = pointer.used(mask)
    return torch.where(used, pointer.memory[torch.where(used, places, 0)], other).to(
        pointer.memory.dtype
    )


def store(pointer: Pointer, value: Tensor, mask: Any = True) -> None:
    places, used = pointer.used(mask)
    pointer.memory[places[used]] = value.expand(places.shape)[used]


class Slots:
    """Shared memory."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory

    def index(self, place: Any) -> Any:
        return Slots(self.memory[int(place)])

    def permute(self, order: tuple[int, ...]) -> Slots:
        return Slots(self.memory.permute(order))

    def reshape(self, shape: tuple[int, ...]) -> Slots:
        return Slots(self.memory.view(shape))

    def load(self, layout: object) -> Tensor:
        return self.memory.clone()

    def store(self, value: Tensor) -> None:
        self.memory.copy_(value)


class Descriptor:
    """A descriptor of a tensor's tiles."""

    layout = "layout"

    def __init__(self, given: Any) -> None:
        self.tensor, self.tile_shape = given.base, given.block_shape

    def tile(self, start: list[Any]) -> Tensor:
        """The tile that begins there, zeros outside of the tensor."""
        tile = torch.zeros(self.tile_shape, dtype=self.tensor.dtype)
        places = [slice(int(i), int(i) + n) for i, n in zip(start, tile.shape, strict=True)]
        assert all(place.start >= 0 for place in places)
        inside = self.tensor[tuple(places)]
        tile[tuple(slice(n) for n in inside.shape)] = inside
        return tile


class Barrier:
    """An mbarrier: a phase ends with as many arrivals as it was made for, and bytes as expected."""

    def __init__(self, changed: threading.Condition) -> None:
        self.changed, self.count, self.missing, self.phases = changed, 0, 0, 0
        self.bytes = 0

    def arrive(self, count: int, expected: int = 0) -> None:
        with self.changed:
            assert 0 < count <= self.missing, "more arrivals than a phase has"
            self.missing -= count
            self.bytes += expected
            self._end_phase()

    def receive(self, size: int) -> None:
        with self.changed:
            assert size <= self.bytes, "more bytes than were expected"
            self.bytes -= size
            self._end_phase()

    def _end_phase(self) -> None:
        if not (self.missing or self.bytes):
            self.missing, self.phases = self.count, self.phases + 1
            self.changed.notify_all()

    def wait(self, parity: int) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: self.phases % 2 != parity, PATIENCE):
                raise TimeoutError("a barrier was waited for in vain")


class Barriers:
    def __init__(self, count: int) -> None:
        changed = threading.Condition()
        self.all = [Barrier(changed) for _ in range(count)]

    def index(self, place: Any) -> Barrier:
        return self.all[int(place)]


class Product:
    """A matrix product under way; `value` once it was waited for."""

    def __init__(self, a: Any, b: Slots, accumulator: Any, use_acc: Any) -> None:
        self.operands, self.value = (a, b, accumulator, bool(use_acc)), None

    def finish(self) -> None:
        a, b, accumulator, use_acc = self.operands
        a = a.memory if isinstance(a, Slots) else a
        total = a.float() @ b.memory.float()
        self.value = total + accumulator if use_acc else total


def _multiply(a: Any, b: Slots, acc: Any, *, use_acc: Any = True, is_async: bool) -> Product:
    product = Product(a, b, acc, use_acc)
    _program.products = [*getattr(_program, "products", []), product]
    return product


def _wait_for_products(pending: int, deps: list[Product]) -> Any:
    time.sleep(1e-3)  # slots that were freed too early are filled meanwhile
    done = len(_program.products) - pending
    for product in _program.products[:done]:
        product.finish()
    _program.products = _program.products[done:]
    values = [product.value for product in deps]
    assert all(value is not None for value in values), "a product is used before its end"
    return values[0] if len(values) == 1 else tuple(values)


def _specialise(partitions: list[tuple[Callable[..., None], tuple[Any, ...]]], *_: Any) -> None:
    errors: list[BaseException] = []
    program = _program.number, _program.count

    def run(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        _program.number, _program.count = program
        try:
            function(*arguments)
            assert not getattr(_program, "products", []), "a product was not waited for"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=partition) for partition in partitions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _allocate(dtype: torch.dtype, shape: list[int], layout: object) -> Slots | Barriers:
    if layout == "barrier":
        return Barriers(shape[0])
    what = float("nan") if dtype.is_floating_point else -(1 << 30)
    return Slots(torch.full(shape, what, dtype=dtype))


def _both(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Tensor]:
    return lambda a, b: function(torch.as_tensor(a), torch.as_tensor(b))


def _init(barrier: Barrier, count: int) -> None:
    barrier.count = barrier.missing = count


def _arrive(barrier: Barrier, count: int = 1, pred: Any = True) -> None:
    if pred:
        barrier.arrive(count)


def _wait(barrier: Barrier, parity: Any) -> None:
    barrier.wait(int(parity))


def _where(condition: Any, a: Any, b: Any) -> Tensor:
    return torch.where(torch.as_tensor(condition), torch.as_tensor(a), torch.as_tensor(b))


def _clamp(x: Tensor, low: float, high: float) -> Tensor:
    return torch.where(x.isnan(), low, x).clamp(low, high)


def _copy(slots: Slots, pointer: Pointer, mask: Any = True) -> None:
    slots.store(load(pointer, mask))


def _copy_tile(descriptor: Descriptor, start: list[Any], ready: Barrier, slots: Slots) -> None:
    tile = descriptor.tile(start)
    slots.store(tile)
    ready.receive(tile.numel() * tile.element_size())


def _layout(*_: object) -> str:
    return "layout"


LANGUAGE = SimpleNamespace(
    constexpr=lambda value: value,
    int32=torch.int32, uint32=torch.int64, int64=torch.int64, float32=torch.float32,
    float16=torch.float16, bfloat16=torch.bfloat16,
    program_id=lambda axis: _program.number, num_programs=lambda axis: _program.count,
    static_range=range, to_tensor=lambda value: value, where=_where, load=load, store=store,
    maximum=_both(torch.maximum), minimum=_both(torch.minimum),
    cdiv=lambda a, b: (a + b - 1) // b, exp2=torch.exp2, log2=torch.log2, abs=torch.abs,
    max=lambda x, axis: x.amax(axis), sum=lambda x, axis: x.sum(axis), clamp=_clamp,
    PropagateNan=SimpleNamespace(ALL="all"),
    zeros=lambda shape, dtype, layout: torch.zeros(shape, dtype=dtype),
    full=lambda shape, value, dtype, layout: torch.full(shape, value, dtype=dtype),
    arange=lambda start, stop, layout: torch.arange(start, stop),
    convert_layout=lambda x, layout, assert_trivial=False: x,
    NVMMADistributedLayout=_layout, DotOperandLayout=_layout, SliceLayout=_layout,
    BlockedLayout=_layout, DistributedLinearLayout=_layout, NVMMASharedLayout=_layout,
    SwizzledSharedLayout=_layout,
    allocate_shared_memory=_allocate, warp_specialize=_specialise,
)  # fmt: skip


class _Kernel:
    """Launches programs one after another: `kernel[grid](...)`."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def launch(*args: Any, num_warps: int, enable_fp_fusion: bool, **constants: Any) -> None:
            given = [_argument(value) for value in args]
            with untraced():
                for number in range(grid[0]):
                    _program.number, _program.count = number, grid[0]
                    self.function(*given, **constants)

        return launch


def _argument(value: Any) -> Any:
    """Pointers, descriptors, sizes as a kernel has them, and numbers."""
    if isinstance(value, Tensor):
        return Pointer.to(value)
    if hasattr(value, "block_shape"):
        return Descriptor(value)
    return torch.tensor(value) if isinstance(value, int) else value


def emulate(module: ModuleType, patch: pytest.MonkeyPatch, *, programs: int) -> None:
    """Makes the Gluon kernels of a generated module run here, in as many programs."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    kernel = "@triton.jit(do_not_specialize=SIZES)\ndef "
    kernels = (FORWARD, "forward_kernel"), (QUERY, "backward_query_kernel")
    kernels += ((KEYS, "backward_key_kernel"),)
    text = ""
    for begin, end in kernels:
        if begin in source:
            text += source[source.index(begin) : source.index(f"{kernel}{end}(")]
    space = {name: getattr(value, "value", value) for name, value in vars(module).items()}
    space |= {
        "gluon": SimpleNamespace(jit=lambda function=None, **_: function or (lambda f: _Kernel(f))),
        "gl": LANGUAGE,
        "tl": LANGUAGE,
        "floor_divide": lambda x, divisor: x // divisor,
        "remainder": lambda x, divisor: x % divisor,
        "copy_async": _copy,
        "copy_tile": _copy_tile,
        "fence_async_shared": lambda: None,
        "warpgroup_mma": _multiply,
        "warpgroup_mma_wait": _wait_for_products,
        "async_copy": SimpleNamespace(
            mbarrier_arrive=lambda barrier, increment_count: barrier.arrive(WARPGROUP)
        ),
        "mbarrier": SimpleNamespace(
            init=_init, arrive=_arrive, MBarrierLayout=lambda: "barrier",
            expect=lambda barrier, size: barrier.arrive(1, size),
            wait=_wait,
        ),
    }  # fmt: skip
    exec(compile(text, f"{module.__name__}_hopper", "exec"), space)
    space["both_heads"] = lambda x, layout: x.reshape(4, 1, 8).expand(4, 2, 8).reshape(64)
    patch.setattr(module.launch, "programs", lambda items, device: min(items, programs))
    for name in ("hopper_forward", "hopper_query_kernel", "hopper_key_kernel"):
        if name in space:
            patch.setattr(module, name, space[name])
