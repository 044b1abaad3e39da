"""A call like an earlier one, as the memory that it takes and the launches that it makes.

Host functions of generated modules go by shapes, strides, dtypes and numbers alone: of a kind of
call that fixes these, every call allocates and launches the same. `record` runs one under watch,
and gives what it came down to where nothing but allocations, views and launches were seen. All that
is left for the next call is to fill in addresses.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attncomp.runtime.descriptors import base_of
from attncomp.runtime.driver import Grid, Place, Ready, Tiles, Unencoded, entry_of
from attncomp.runtime.quick_launch import (
    ALIGNED,
    Compiled,
    Launch,
    Launched,
    current_device,
    current_stream,
    is_hooked,
    watcher,
)

_BYTES: Final = 512  # what parts of a buffer start at a multiple of, as torch's own do
_aten = torch.ops.aten
_ALLOCATIONS: Final = frozenset(
    (
        _aten.empty.memory_format,
        _aten.empty_strided.default,
        _aten.empty_like.default,
        _aten.new_empty.default,
        _aten.new_empty_strided.default,
    )
)

Result: TypeAlias = tuple[Sequence[Tensor], Sequence[Tensor]]
"""What a call gives: outputs, and the state that its backward reads."""

Call: TypeAlias = Callable[[Sequence[Tensor]], Result]


class Field(NamedTuple):
    """A tensor of the state in the buffer that holds them all; offset and strides in elements."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


class Made(NamedTuple):
    """A tensor that a call makes, contiguous."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class Step(NamedTuple):
    """A launch; pick takes its arguments from the values of a call."""

    launch: Launch
    grid: Grid
    pick: Callable[[Sequence[Any]], tuple[Any, ...]]


class Steps(NamedTuple):
    """Launches by Triton's launchers.

    Their values are the addresses of the tensors, of places inside of them, by tensor, and
    constants.
    """

    places: tuple[tuple[int, tuple[int, ...]], ...]
    constants: tuple[Any, ...]
    steps: tuple[Step, ...]

    def launch(self, stream: int, addresses: Sequence[int]) -> bool:
        """As `Ready.launch`, which takes less time; errors are raised."""
        values: list[Any] = [*addresses]
        for tensor, offsets in self.places:
            start = values[tensor]
            values += [start + offset for offset in offsets]
        values += self.constants
        for launch, grid, pick in self.steps:
            launch(grid, stream, pick(values))
        return True


class Record(NamedTuple):
    """All of a call.

    Its tensors are the given ones, then those of made: outputs, of which there are n_outputs, the
    buffer with the fields of the state, if any, and that of all in between. empty makes them, on
    the current device, from what is in made.
    """

    empty: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor]
    made: tuple[Made, ...]
    n_outputs: int
    fields: tuple[Field, ...]
    launches: Ready | Steps

    def run(self, given: Sequence[Tensor]) -> list[Tensor] | None:
        """Outputs, and the buffer of the state behind them, if any; of tensors of the same kind.

        On the current stream. None where launches have to go another way: of unaligned tensors,
        on another device than the current one, or where a hook wants to know of them.
        """
        number = given[0].get_device()
        if is_hooked() or (number >= 0 and number != current_device()):
            return None
        addresses = [*map(Tensor.data_ptr, given)]
        if functools.reduce(operator.or_, addresses) % ALIGNED:
            return None
        empty = self.empty
        made = [empty(*one) for one in self.made]
        addresses += map(Tensor.data_ptr, made)
        if not self.launches.launch(current_stream(number), addresses):
            return None
        return made[: self.n_outputs + bool(self.fields)]

    def state(self, buffer: Tensor) -> list[Tensor]:
        """The fields of the state that a buffer holds."""
        typed = {dtype: buffer.view(dtype) for dtype in {field.dtype for field in self.fields}}
        return [
            typed[dtype].as_strided(shape, strides, offset)
            for dtype, shape, strides, offset in self.fields
        ]


class Replayed(NamedTuple):
    """What a call gave; with a record, the state is the buffer that `Record.state` reads."""

    outputs: Sequence[Tensor]
    state: Sequence[Tensor]
    record: Record | None


class Records:
    """The records of the calls of one kind, one for each step: forward, with a state or without it,
    and backward.

    A kind fixes all that host functions go by: a pattern and its problem, shapes, strides, dtypes
    and the device of tensors, numbers, and how products of float32 are formed.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, Record | None] = {}

    def again(self, given: Sequence[Tensor], step: Hashable) -> Replayed | None:
        """What a recorded step gives; None where there is none, or its record cannot be used."""
        known = self._found.get(step)
        made = None if known is None else known.run(given)
        if known is None or made is None:
            return None
        count = known.n_outputs
        return Replayed(made[:count], made[count:], known if known.fields else None)

    def run(self, call: Call, given: Sequence[Tensor], step: Hashable) -> Replayed:
        """What the step gives, by its record where there is one; else one is made.

        call: the step, of the given tensors; the same one for the same step.
        """
        if step in self._found:
            return self.again(given, step) or Replayed(*call(given), None)
        if any([tensor.data_ptr() % ALIGNED for tensor in given]):
            return Replayed(*call(given), None)
        result, self._found[step] = record(call, given)
        return Replayed(*result, None)


def record(call: Call, given: Sequence[Tensor]) -> tuple[Result, Record | None]:
    """What the call gives, and its record; None where another call might do something else."""
    given = [tensor.detach() for tensor in given]  # each a tensor of its own, if one is given twice
    watch = _Watch(given)
    with watch, _watched(watch.launches.append):
        outputs, state = call(given)
    if watch.others or not watch.launches:
        return (outputs, state), None
    try:
        return (outputs, state), _record(watch, len(given), outputs, state)
    except (_Unknown, Unencoded):
        return (outputs, state), None


@contextlib.contextmanager
def _watched(tell: Callable[[Launched], None]) -> Iterator[None]:
    token = watcher.set(tell)
    try:
        yield
    finally:
        watcher.reset(token)


class _Watch(TorchDispatchMode):
    """Sees the ops of a call. others: whether there are some beside allocations and views."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.device_type = given[0].device.type
        self.launches: list[Launched] = []
        self.made: list[Tensor] = []
        self.others = False
        # Where views of the given tensors are; they are kept, as others would get their numbers.
        self.views = {id(tensor): (tensor, Place(i, 0)) for i, tensor in enumerate(given)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _ALLOCATIONS:
            self.made.append(result)
        elif not func.is_view or not isinstance(result, Tensor):
            self.others = True
        elif id(args[0]) in self.views:
            base, (index, offset) = self.views[id(args[0])]
            behind = result.data_ptr() - base.data_ptr()
            self.views[id(result)] = result, Place(index, offset + behind)
        return result


class _Unknown(LookupError):
    """Memory that a call was not given and did not make, or a launch that only Triton can make."""


def _record(
    watch: _Watch, n_given: int, outputs: Sequence[Tensor], state: Sequence[Tensor]
) -> Record:
    """The record of what was watched; raises _Unknown."""
    memory = _Memory(watch, n_given)
    for output in outputs:
        memory.add_output(output)
    memory.add_buffer([(_storage(field), 0, 0) for field in state], packed=False)
    fields = tuple(memory.field(field) for field in state)
    memory.add_buffer(_lifetimes(watch.launches), packed=True)
    arguments = [[memory.argument(value) for value in launch.args] for launch in watch.launches]
    n_tensors = n_given + len(memory.made)
    return Record(
        empty=getattr(torch._C._dynamo.guards, f"_empty_strided_{watch.device_type}"),
        made=tuple(memory.made),
        n_outputs=len(outputs),
        fields=fields,
        launches=_again(watch.launches, arguments, n_tensors),
    )


def _again(
    launches: Sequence[Launched], arguments: Sequence[Sequence[Argument]], n_tensors: int
) -> Ready | Steps:
    """The launches with other addresses of the tensors, of which there are n_tensors."""
    kernels = [_known(launch) for launch in launches]
    grids = [launch.grid for launch in launches]
    entries = [entry_of(kernel.kernel) for kernel in kernels]
    found = [entry for entry in entries if entry is not None]
    if len(found) == len(kernels):
        plain = [[x.value if isinstance(x, _Constant) else x for x in row] for row in arguments]
        return Ready(n_tensors, list(zip(found, grids, plain, strict=True)))
    if any(isinstance(x, Tiles) for row in arguments for x in row):
        raise _Unknown
    return _steps([kernel.launch for kernel in kernels], grids, arguments, n_tensors)


def _known(launch: Launched) -> Compiled:
    if launch.kernel is None:
        raise _Unknown
    return launch.kernel


def _steps(
    launches: Sequence[Launch],
    grids: Sequence[Grid],
    arguments: Sequence[Sequence[Argument]],
    n_tensors: int,
) -> Steps:
    flat = [argument for row in arguments for argument in row]
    places = sorted({x for x in flat if isinstance(x, Place) and x.offset})
    inside = itertools.groupby(places, key=itemgetter(0))
    constants = dict.fromkeys(x for x in flat if isinstance(x, _Constant))
    order: list[Argument] = [Place(i, 0) for i in range(n_tensors)]
    index = {value: i for i, value in enumerate([*order, *places, *constants])}
    return Steps(
        places=tuple((tensor, tuple(x.offset for x in found)) for tensor, found in inside),
        constants=tuple(constant.value for constant in constants),
        steps=tuple(
            Step(launch, grid, itemgetter(*[index[x] for x in row]))
            for launch, grid, row in zip(launches, grids, arguments, strict=True)
        ),
    )


class _Constant(NamedTuple):
    """An argument that is no address; of numbers that are equal, those of one type are the same."""

    type: type
    value: Any


Argument: TypeAlias = Place | _Constant | Tiles
"""What a launch takes."""


class _Memory:
    """Where each address of a watched call is in another one."""

    def __init__(self, watch: _Watch, n_given: int) -> None:
        self.made: list[Made] = []
        self._n_given = n_given
        self._views = watch.views
        self._sizes = {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in watch.made}
        self._placed: dict[int, Place] = {}

    def add_output(self, output: Tensor) -> None:
        """Memory of its own for an output, which has to have been made so."""
        storage = _storage(output)
        alone = storage in self._sizes and storage not in self._placed
        if not alone or output.storage_offset() or not output.is_contiguous():
            raise _Unknown
        self._placed[storage] = self._make(output.shape, output.stride(), output.dtype)

    def add_buffer(self, used: Sequence[tuple[int, int, int]], *, packed: bool) -> None:
        """One buffer for all storages that have no place yet, each with its first and last use.

        If packed, storages share memory where no use of one is between those of another.
        """
        starts: dict[int, tuple[int, int, int, int]] = {}
        for storage, first, last in used:
            if storage in self._placed or storage in starts or storage not in self._sizes:
                continue
            size = -(-self._sizes[storage] // _BYTES) * _BYTES
            start = 0
            for begin, end, other_first, other_last in sorted(starts.values()):
                if packed and (last < other_first or other_last < first):
                    continue
                if start + size <= begin:
                    break
                start = max(start, end)
            starts[storage] = start, start + size, first, last
        total = max([end for _, end, _, _ in starts.values()], default=0)
        if total:
            index = self._make((total,), (1,), torch.uint8).tensor
            self._placed |= {at: Place(index, start) for at, (start, *_) in starts.items()}

    def _make(self, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Place:
        self.made.append(Made(tuple(shape), strides, dtype))
        return Place(self._n_given + len(self.made) - 1, 0)

    def field(self, tensor: Tensor) -> Field:
        """A tensor of the state."""
        offset = self.place(tensor).offset // tensor.element_size() if tensor.numel() else 0
        return Field(tensor.dtype, tuple(tensor.shape), tensor.stride(), offset)

    def argument(self, value: Any) -> Argument:
        """An argument of a launch."""
        base = base_of(value)
        if base is None:
            return _Constant(type(value), value)
        if base is not value:
            return Tiles(self.place(base), tuple(value.shape), tuple(value.strides))
        return self.place(value) if value.data_ptr() else _Constant(int, 0)

    def place(self, tensor: Tensor) -> Place:
        """Where a tensor starts."""
        if id(tensor) in self._views:
            return self._views[id(tensor)][1]
        storage = _storage(tensor)
        if storage not in self._placed:
            raise _Unknown
        index, offset = self._placed[storage]
        return Place(index, offset + tensor.data_ptr() - storage)


def _storage(tensor: Tensor) -> int:
    """Where the memory begins that a tensor is in: another number for each that there is."""
    return tensor.untyped_storage().data_ptr()


def _lifetimes(launches: Sequence[Launched]) -> list[tuple[int, int, int]]:
    """For each storage the first and the last launch that has it, by falling length of the two."""
    uses: dict[int, list[int]] = {}
    for i, launch in enumerate(launches):
        for value in launch.args:
            tensor = base_of(value)
            if tensor is not None and tensor.data_ptr():
                uses.setdefault(_storage(tensor), []).append(i)
    return [(storage, found[0], found[-1]) for storage, found in uses.items()]
