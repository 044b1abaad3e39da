"""From a call to the generated module that serves it; every step is remembered.

A call is described by two short strings, the pattern's canonical text and the problem's, and by
the device: what custom ops can carry as arguments, and what another process can start from.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from attncomp import knobs
from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.plan_text import plan_text
from attncomp.errors import BackendError
from attncomp.frontend.ast import Expr
from attncomp.ir.schedule import BackendName, DtypeName, Problem, schedule_from
from attncomp.runtime.cache import cache_key, default_cache
from attncomp.runtime.compile_ahead import Ahead, cores
from attncomp.runtime.loader import load_generated
from attncomp.runtime.quick_launch import with_quick_launches
from attncomp.runtime.strides import Kernels, composed

_DTYPES: Final[dict[torch.dtype, DtypeName]] = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
}
_PROBLEM_WORDS: Final = 5  # of a problem's text, behind which a tuned schedule may stand


@dataclass(eq=False)
class Program:
    """The functions that serve a plan, and the plan.

    ahead: compiles their kernels side by side, where that is worth it.
    """

    plan: KernelPlan
    select: Callable[..., tuple[Tensor, ...]]
    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., tuple[Tensor, ...]]
    ahead: Ahead | None = None

    def __post_init__(self) -> None:
        if self.ahead is not None:
            for name in Kernels._fields:
                setattr(self, name, self._first(name, self.ahead))

    def _first(self, name: str, ahead: Ahead) -> Callable[..., Any]:
        """A function that takes its own place, so that calls but the first cost nothing more."""
        function = getattr(self, name)

        def first(*args: Any) -> Any:
            setattr(self, name, function)
            ahead.function(name, args)
            return function(*args)

        return first


@functools.cache
def program(pattern: str, problem: str, device: torch.device) -> Program:
    """The module for a pattern and a problem text on a device, generated if it has to be.

    Raises BackendError and CacheError where that is not possible.
    """
    plan = device_plan(pattern, problem, device)
    ahead = Ahead(plan, _kernels, device) if _compiles_quickly(plan, device) else None
    return Program(plan, *composed(plan, _kernels), ahead)


def _compiles_quickly(plan: KernelPlan, device: torch.device) -> bool:
    """Whether kernels are `QuickLaunch`es, which may be compiled ahead, on several cores."""
    nvidia = device.type == "cuda" and torch.version.hip is None
    return nvidia and plan.problem.backend == "triton" and cores() > 1


@functools.cache
def _kernels(plan: KernelPlan) -> Kernels:
    """The functions of the module of a plan without strided parts."""
    key = cache_key(plan_text(plan), plan.problem.target)
    module = load_generated(default_cache(), key, lambda: render(plan))
    return Kernels.of(with_quick_launches(module))


@functools.cache
def device_plan(pattern: str, problem: str, device: torch.device) -> KernelPlan:
    """The plan for a pattern and a problem text on a device."""
    return plan_of_call(pattern, problem, device)


def plan_of_call(pattern: str | Expr, problem: str, device: torch.device) -> KernelPlan:
    """As `device_plan`, of a pattern as text or tree; made anew."""
    word = problem.split()[_PROBLEM_WORDS:]
    schedule = schedule_from(*word) if word else None
    return lower(pattern, problem_from(problem, device), schedule=schedule)


def problem_text(
    backend: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Iterable[Tensor],
    list_heads: Iterable[int] = (),
) -> str:
    """All of a call's problem but the target, which the device tells: `triton bfloat16 128 128 4`.

    The last number is how many consecutive query heads share a KV head, the group of each score
    tensor and each list of blocks, of which there are list_heads.
    """
    # To torch.compile sizes may be symbols; these it has to specialise on.
    heads, head_dim, value_dim = map(operator.index, (q.shape[1], q.shape[3], v.shape[3]))
    counts = (*(tensor.shape[1] for tensor in (k, *scores)), *list_heads)
    shared = [heads // operator.index(count) for count in counts]
    return f"{backend} {_DTYPES[q.dtype]} {head_dim} {value_dim} {math.gcd(*shared)}"


def problem_from(text: str, device: torch.device) -> Problem:
    """The problem that `problem_text` describes, on a device; a schedule behind it is not read."""
    backend, dtype, head_dim, value_dim, unit_heads = text.split()[:_PROBLEM_WORDS]
    return Problem(
        backend=cast(BackendName, backend),
        target=target_of(device),
        dtype=cast(DtypeName, dtype),
        head_dim=int(head_dim),
        value_dim=int(value_dim),
        unit_heads=int(unit_heads),
    )


@functools.cache
def target_of(device: torch.device) -> str:
    """`sm_90` for a CUDA device, `gfx942` for a ROCm device, else the device's type."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


# A constant to torch.compile, which need not look into the environment and into triton.
@torch.compiler.assume_constant_result
def backend_for(wanted: str | None, device_type: str, dtype: torch.dtype) -> str:
    """The backend of a call: the one wanted, else ATTNCOMP_BACKEND's, else the device's own.

    Raises BackendError if it cannot run there or on this dtype of q, OptionError if the variable
    names none.
    """
    name = wanted if wanted is not None else knobs.BACKEND.read()
    if name is None:
        name = "triton" if device_type == "cuda" else "torch"
    if name == "triton":
        _require_triton(device_type, dtype)
    return name


def _require_triton(device_type: str, dtype: torch.dtype) -> None:
    if not _has_triton():
        raise BackendError(
            "backend 'triton' needs the package triton, which is not installed: "
            "install it, or use backend 'torch'"
        )
    if device_type != "cuda" and not (device_type == "cpu" and _is_interpreting()):
        raise BackendError(
            f"backend 'triton' cannot run on {device_type} tensors: expected CUDA or ROCm tensors, "
            "or CPU tensors in a process started with TRITON_INTERPRET=1; use backend 'torch'"
        )
    # It holds them as 16-bit integers, and multiplies those.
    if dtype == torch.bfloat16 and _is_interpreting():
        raise BackendError(
            "backend 'triton' cannot run on bfloat16 tensors under TRITON_INTERPRET=1: Triton's "
            "interpreter multiplies bfloat16 matrices wrongly; use float16 or float32, or backend "
            "'torch'"
        )


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _is_interpreting() -> bool:
    from triton import knobs as triton_knobs

    return bool(triton_knobs.runtime.interpret)


def local_problem(backend: str | None) -> Problem:
    """A usual problem on this machine."""
    return usual_problem(backend, on_gpu=torch.cuda.is_available())


def usual_problem(backend: str | None, *, on_gpu: bool) -> Problem:
    """A usual problem: bfloat16 and D = 128 for Triton, float32 and 64 for torch.

    Triton is for this machine's GPU, or for sm_90 where it is asked for and there is none.
    """
    on_triton = backend == "triton" or (backend is None and on_gpu)
    target = target_of(torch.device("cuda", 0)) if on_gpu else "sm_90" if on_triton else "cpu"
    size = 128 if on_triton else 64
    return Problem(
        backend="triton" if on_triton else "torch",
        target=target,
        dtype="bfloat16" if on_triton else "float32",
        head_dim=size,
        value_dim=size,
        unit_heads=4,
    )
