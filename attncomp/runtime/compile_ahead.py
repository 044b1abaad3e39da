"""Kernels of a call compiled side by side, ahead of their launches, which come one by one.

Triton compiles a kernel when it is first launched, and so one after the other. Nine tenths of that
are spent in MLIR, LLVM, ptxas and the C compiler, none of which holds Python's lock. What a call
will launch is known before: its host functions run on meta tensors, which takes milliseconds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import FunctionType
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor

from attncomp.codegen.plan import KernelPlan
from attncomp.runtime.quick_launch import QuickLaunch
from attncomp.runtime.stand_in import StandIn
from attncomp.runtime.strides import Kernels, composed

T = TypeVar("T")

SLOWEST: Final = (
    "forward_kernel",
    "hopper_key_kernel",
    "hopper_forward_kernel",
    "backward_query_kernel",
    "backward_key_kernel",
    "hopper_query_kernel",
    "part_interval_kernel",
    "backward_gathered",
    "checkpoint_kernel",
)
"""Kernels, or what their names begin with, by how long they take once parsed: 5.7 s to 2.0 s for
`sm_90` and the pattern `sparsek(k=512, lag=256) | window(256)`, where no other takes 0.8 s."""


class Launch(NamedTuple):
    """A launch of a kernel, with tensors that have shapes and dtypes but no memory."""

    kernel: QuickLaunch
    args: tuple[Any, ...]
    keywords: dict[str, Any]

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for launches that Triton compiles once; nearly, as it looks closer."""
        kinds = [arg.dtype if isinstance(arg, Tensor) else type(arg) for arg in self.args]
        return (self.kernel, *kinds, *self.keywords.items())


class Ahead:
    """Compiles what the functions of a program launch, each function's kernels once.

    load: the functions of each module of the plan, whose kernels are `QuickLaunch`es.
    """

    def __init__(
        self, plan: KernelPlan, load: Callable[[KernelPlan], Kernels], device: torch.device
    ) -> None:
        self._plan = plan
        self._load = load
        self._device = device
        self._started: set[str] = set()
        # While the module of the plan is made and imported, which comes next.
        self._triton = _in_background(_start_triton, device)

    def call(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scores: Sequence[Tensor],
        tensors: Sequence[Tensor],
        scale: float,
        *,
        gradients: bool,
    ) -> None:
        """Start on the kernels of a call, and of its gradients if they are wanted.

        tensors: what stands in the state behind the selections. Takes inputs for aligned, and lse
        for an output without a gradient, as they usually are: others compile at their launch.
        """
        used = ["select"] * bool(scores) + ["forward"] + ["backward"] * gradients
        if self._started.issuperset(used):
            return
        launches: dict[str, list[Launch]] = {name: [] for name in used}
        run = {name: getattr(self._noting(launches[name]), name) for name in used}
        q, k, v, scores, state = _twins((q, k, v, tuple(scores), tuple(tensors)))
        if scores:
            state = (*_contiguous(run["select"](scores, q.shape[2])), *state)
        out, lse = _contiguous(run["forward"](q, k, v, state, scale))
        if gradients:
            run["backward"](torch.empty_like(out), None, q, k, v, out, lse, state, scale)
        self._start(launches)

    def function(self, name: str, args: tuple[Any, ...]) -> None:
        """Start on the kernels of one function, called with these arguments."""
        if name not in self._started:
            launches: list[Launch] = []
            getattr(self._noting(launches), name)(*_twins(args))
            self._start({name: launches})

    def _noting(self, launches: list[Launch]) -> Kernels:
        return composed(self._plan, lambda part: _noting(self._load(part), launches))

    def _start(self, launches: dict[str, list[Launch]]) -> None:
        new = [x for name, found in launches.items() if name not in self._started for x in found]
        self._started.update(launches)
        wait([self._triton])  # what went wrong there does so again at the launch
        compile_side_by_side(new, self._device)


def _in_background(task: Callable[[torch.device], None], device: torch.device) -> Future[None]:
    """Start a task in a thread of its own."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="attncomp-start")
    started = pool.submit(task, device)
    pool.shutdown(wait=False)
    return started


def _start_triton(device: torch.device) -> None:
    """What Triton does before its first kernel, most of it without Python's lock.

    It compiles a C module of its driver's, and sums up its own files: half a gigabyte.
    """
    from triton.runtime import driver
    from triton.runtime.cache import triton_key

    with torch.cuda.device(device):
        driver.active.get_current_target()
    triton_key()


def cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compile_side_by_side(launches: Sequence[Launch], device: torch.device) -> None:
    """Compile the kernels of launches in threads; the slowest first, then the last ones.

    Returns when all have been parsed, or are in the cache: parsing holds Python's lock, and Triton
    3.6 changes the filters of warnings meanwhile, which are all threads'. So threads parse one by
    one while the caller waits. Nothing is left in a queue for a process that ends. What goes wrong
    does so again at the launch, which then raises it.
    """
    pool = ThreadPoolExecutor(cores(), thread_name_prefix="attncomp-compile")
    try:
        for launch in _in_order({launch.kind: launch for launch in launches}.values()):
            parsed = threading.Event()
            launch.kernel.await_first(pool.submit(_compile, launch, device, parsed))
            parsed.wait()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # in the queue after an interrupt only


def _in_order(launches: Iterable[Launch]) -> list[Launch]:
    """As they are to be parsed, one by one: first what takes longest from then on."""

    def place(launch: Launch) -> int:
        name = launch.kernel.jitted.__name__
        return next((i for i, slow in enumerate(SLOWEST) if name.startswith(slow)), len(SLOWEST))

    return sorted(reversed(list(launches)), key=place)


def _compile(launch: Launch, device: torch.device, parsed: threading.Event) -> None:
    from triton.runtime import driver

    try:
        with torch.cuda.device(device):  # a thread's own
            compiled = _warm_up(launch, parsed)
        # Up to Triton 3.6 the C compiler makes a launcher; the cache keeps it for the launch.
        driver.active.launcher_cls(compiled.src, compiled.metadata)
    finally:
        parsed.set()


def _warm_up(launch: Launch, parsed: threading.Event) -> Any:
    """What Triton compiles for a launch; the event is set as soon as it holds no Python."""
    from triton.runtime import driver

    kernel = launch.kernel.jitted
    kernel.device_caches[driver.active.get_current_device()]  # makes it, and sets ASTSource
    original = kernel.ASTSource  # of Triton, or of Gluon

    class Source(original):  # type: ignore[misc, valid-type]
        def make_ir(self, *args: Any, **keywords: Any) -> Any:
            kernel.ASTSource = original
            try:
                return super().make_ir(*args, **keywords)
            finally:
                parsed.set()

    kernel.ASTSource = Source
    try:
        return kernel.warmup(*launch.args, grid=(1,), **launch.keywords)
    finally:
        if kernel.ASTSource is Source:  # it is compiled already, or could not be parsed
            kernel.ASTSource = original


def _noting(kernels: Kernels, launches: list[Launch]) -> Kernels:
    """Copies of a module's functions that note launches; the module itself serves all threads."""

    def noted(kernel: QuickLaunch) -> StandIn:
        return StandIn(lambda args, keywords: launches.append(Launch(kernel, args, keywords)))

    module = kernels.forward.__globals__
    copy = dict(module)
    for name, value in module.items():
        if isinstance(value, QuickLaunch):
            copy[name] = noted(value)
        elif isinstance(value, FunctionType) and value.__globals__ is module:
            copy[name] = FunctionType(value.__code__, copy, name, value.__defaults__)
    return Kernels(copy["select"], copy["forward"], copy["backward"])


def _twins(value: T) -> T:
    """The same value, tensors replaced by meta ones."""
    result: Any = value
    match value:
        case Tensor():
            result = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device="meta"
            )
        case tuple():
            result = tuple(map(_twins, value))
    return result


def _contiguous(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in tensors)
