"""Compile the kernels of a plan for a GPU that need not be there, and report what they take.

The host functions of the generated module run once on meta tensors with every kernel replaced by a
recorder. What they would have launched gives each kernel's signature, constants, alignments and
options, as a launch on the device would: nothing here repeats the templates.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any, Final, Literal

import torch
from torch import Tensor

from attncomp.codegen.emit import render
from attncomp.codegen.plan import KernelPlan
from attncomp.errors import BackendError
from attncomp.ir.affine import Passing, Top, index
from attncomp.ir.shared_memory import SHARED_KIB
from attncomp.runtime.cache import private_directory
from attncomp.runtime.extents import Call
from attncomp.runtime.loader import load_module
from attncomp.runtime.stand_in import StandIn
from attncomp.runtime.tables import BlockParts, block_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a target offers: shared memory in bytes a block, 32-bit registers a thread."""

    vendor: Literal["cuda", "hip"]
    shared: int
    registers: int
    lanes: int  # threads of a warp or wavefront


def _limits(target: str, kibibytes: int) -> Limits:
    if target.startswith("sm_"):
        return Limits(vendor="cuda", shared=kibibytes * 1024, registers=255, lanes=32)
    return Limits(vendor="hip", shared=kibibytes * 1024, registers=512, lanes=64)


LIMITS: Final[Mapping[str, Limits]] = MappingProxyType(
    {target: _limits(target, kibibytes) for target, kibibytes in SHARED_KIB.items()}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelReport:
    """One compiled kernel.

    registers: 32-bit registers a thread. spills: bytes of local memory (AMD: scratch) a thread,
    where values go that no register holds. shared: bytes a block, allocated at launch. stages: of
    software pipelines. text: PTX, or AMD's assembly.
    """

    name: str
    registers: int
    spills: int
    shared: int
    warps: int
    stages: int
    text: str


def limits(target: str) -> Limits:
    """The limits of a target; BackendError for one that kernels are not compiled for here."""
    if target not in LIMITS:
        known = ", ".join(LIMITS)
        raise BackendError(f"ahead-of-time target: expected one of {known}, found {target!r}")
    return LIMITS[target]


def compile_plan(
    plan: KernelPlan, target: str, *, names: Collection[str] | None = None
) -> list[KernelReport]:
    """Compile all kernels that `select`, `forward` and `backward` of a Triton plan launch.

    One report a kernel, in the order of their first launch; a kernel launched with different
    constants has one for each, numbered from the second on. names: of the reports that are wanted;
    no other kernel is compiled. Needs no GPU. Raises BackendError for a plan of another backend, an
    unknown target, a name of no kernel, Triton missing or in its interpreter, and for a kernel that
    does not compile.
    """
    if plan.problem.backend != "triton":
        raise BackendError(
            f"ahead of time: expected a plan of backend 'triton', found {plan.problem.backend!r}"
        )
    found = limits(target)
    _require_compiler()
    launches = _named(launch for module in plan.modules for launch in _record(module, target))
    wanted = launches if names is None else names
    for name in wanted:
        if name not in launches:
            known = ", ".join(launches)
            raise BackendError(f"ahead-of-time kernel: expected one of {known}, found {name!r}")
    return [
        _compile(launch, name, target, found) for name, launch in launches.items() if name in wanted
    ]


def _named(launches: Iterable[_Launch]) -> dict[str, _Launch]:
    """Launches by the names of their reports."""
    counts: dict[str, int] = {}
    named: dict[str, _Launch] = {}
    for launch in launches:
        name = launch.kernel.__name__
        counts[name] = counts.get(name, 0) + 1
        named[name if counts[name] == 1 else f"{name}#{counts[name]}"] = launch
    return named


def _require_compiler() -> None:
    try:
        import triton
        import triton.language as tl
    except ImportError as error:
        raise BackendError(f"ahead of time: Triton cannot be imported: {error}") from error
    # The flag counts when a function is decorated, Triton's own ones at its import.
    if triton.knobs.runtime.interpret or not isinstance(tl.cdiv, triton.JITFunction):
        raise BackendError(
            "ahead of time: Triton runs in its interpreter; unset TRITON_INTERPRET and start again"
        )


@dataclass(frozen=True, slots=True)
class _Launch:
    """What the compiler is given for one kernel; arguments are numbered as in its signature."""

    kernel: Any
    signature: dict[str, str]
    constants: dict[tuple[int, ...], object]
    attributes: dict[tuple[int, ...], list[list[object]]]
    options: dict[str, object]


def _specialise(
    kernel: Any, backend: Any, args: tuple[object, ...], keywords: dict[str, object]
) -> _Launch:
    """A launch's arguments as types, constants and alignments, the way Triton's launcher does."""
    bound = dict(zip(kernel.arg_names, args, strict=False))
    bound.update({name: value for name, value in keywords.items() if name in kernel.arg_names})
    options = {name: value for name, value in keywords.items() if name not in kernel.arg_names}
    # Left open, Triton's choice depends on its version and on the environment.
    options.setdefault("enable_fp_fusion", True)
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], object] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for number, parameter in enumerate(kernel.params):
        value = bound.get(parameter.name, parameter.default)
        signature[parameter.name] = kind = _kind(parameter, value)
        if kind == "constexpr":
            constants[number,] = value
        elif not parameter.do_not_specialize:
            facts = _facts(backend, value, not parameter.do_not_specialize_on_alignment)
            if facts:
                attributes[number,] = facts
    return _Launch(kernel, signature, constants, attributes, options)


_DTYPES: Final[Mapping[torch.dtype, str]] = MappingProxyType(
    {
        torch.bfloat16: "bf16",
        torch.float16: "fp16",
        torch.float32: "fp32",
        torch.float64: "fp64",
        torch.int64: "i64",
        torch.int32: "i32",
        torch.int16: "i16",
        torch.int8: "i8",
        torch.uint8: "u8",
        torch.bool: "i1",
    }
)


def _kind(parameter: Any, value: object) -> str:
    from triton.experimental.gluon.nvidia import hopper
    from triton.tools.tensor_descriptor import TensorDescriptor

    if parameter.is_constexpr or value is None:
        return "constexpr"
    match value:
        case Tensor():
            return f"*{_DTYPES[value.dtype]}"
        case TensorDescriptor():
            return f"tensordesc<{_DTYPES[value.base.dtype]}{list(value.block_shape)}>"
        case hopper.TensorDescriptor():
            tile = f"{_DTYPES[value.base.dtype]}{list(value.block_shape)}"
            return f"tensordesc<{tile},{value.layout!r}>"
        case bool():
            return "u1"
        case int():
            if value == 1 and not parameter.do_not_specialize:
                return "constexpr"
            return "i32" if -(2**31) <= value < 2**31 else "i64"
        case float():
            return "fp32"
        case _:
            raise TypeError(f"{parameter.name}: cannot launch with a {type(value).__name__}")


def _facts(backend: Any, value: object, align: bool) -> list[list[object]]:
    """What the compiler may assume of an argument, for instance divisibility by 16."""
    if isinstance(value, Tensor):
        return list(backend.parse_attr(backend.get_tensor_specialization(value, align=align)))
    if isinstance(value, int) and not isinstance(value, bool):
        return list(backend.parse_attr(backend.get_int_specialization(value, align=align)))
    return []


_recording = threading.Lock()  # loaded modules are shared by all threads


def _record(plan: KernelPlan, target: str) -> list[_Launch]:
    """The different launches of a forward and a backward pass of 4096 positions.

    Behind them those of further kernels, which calls take that do not fit the ones for Hopper.
    """
    from triton.compiler import make_backend

    source = render(plan)
    digest = hashlib.sha256(source.encode()).hexdigest()[:32]
    path = private_directory() / f"ahead_of_time_{digest}.py"
    launches: list[_Launch] = []
    others: list[_Launch] = []
    with _recording:
        path.write_text(source, encoding="utf-8")
        module = load_module(path, f"attncomp_ahead_of_time_{digest}")
        backend = make_backend(_gpu(target))
        with _recorders(module, backend, launches):
            _run(module, plan, kv_heads=32)  # as many rows as make kernels take descriptors
        with _recorders(module, backend, others):
            _run(module, plan, kv_heads=1, sign=-1)
    known = {launch.kernel.__name__ for launch in launches}
    return [*launches, *(launch for launch in others if launch.kernel.__name__ not in known)]


@contextmanager
def _recorders(module: ModuleType, backend: Any, launches: list[_Launch]) -> Iterator[None]:
    """Within it, the kernels of a module note their launches instead of running."""
    import triton

    def noted(kernel: Any) -> StandIn:
        def note(args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            launch = _specialise(kernel, backend, args, keywords)
            if launch not in launches:
                launches.append(launch)

        return StandIn(note)

    kernels = {
        n: value for n, value in vars(module).items() if isinstance(value, triton.JITFunction)
    }
    try:
        for name, kernel in kernels.items():
            setattr(module, name, noted(kernel))
        yield
    finally:
        vars(module).update(kernels)


def _run(module: Any, plan: KernelPlan, kv_heads: int, sign: int = 1) -> None:
    """Call the host functions with tensors that have shapes and dtypes but no memory."""
    problem = plan.problem
    length = 4096
    heads = kv_heads * problem.unit_heads
    dtype = getattr(torch, problem.dtype)

    def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    scores = tuple(empty(1, kv_heads, length, dtype=torch.float32) for _ in plan.scores)
    q = empty(1, heads, length, problem.head_dim)
    k = empty(1, kv_heads, length, problem.head_dim)
    v = empty(1, kv_heads, length, problem.value_dim)
    scale = sign * problem.head_dim**-0.5
    of_all = index("b"), index("h")
    shapes = {
        e.tensor: [1 if position in of_all else 16 for position in e.indices]
        for e in plan.entries.values()
    }
    for walk in plan.walks:
        n_blocks = -(-length // walk.size)
        shapes[walk.entry.tensor] = [1] * (len(walk.entry.indices) - 2) + [n_blocks, n_blocks]
    real = {e.tensor for e in plan.block_entries if isinstance(e.table, Top | Passing)}
    given = {
        name: empty(*shapes[name], dtype=torch.float32 if name in real else torch.int32)
        for name in plan.inputs
    }
    blocks = block_state(BlockParts.of(plan), Call.of(q, k, given))
    learned = [
        empty(heads, *([] if width is None else [width]), dtype=torch.float32)
        for _, width in plan.modifiers.tensors
    ]
    state = (*module.select(scores, length), *blocks, *learned)
    out, lse = module.forward(q, k, v, state, scale)
    dout, dlse = torch.empty_like(out), torch.empty_like(lse)
    module.backward(dout, dlse, q, k, v, out, lse, state, scale)


def _gpu(target: str) -> Any:
    from triton.backends.compiler import GPUTarget

    found = limits(target)
    arch = int(target.removeprefix("sm_")) if found.vendor == "cuda" else target
    return GPUTarget(found.vendor, arch, found.lanes)


def _compile(launch: _Launch, name: str, target: str, found: Limits) -> KernelReport:
    import triton

    source = _source_type(launch.kernel)(
        launch.kernel, launch.signature, launch.constants, launch.attributes
    )
    try:
        compiled = triton.compile(source, target=_gpu(target), options=launch.options)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise BackendError(f"kernel {name} does not compile for {target}: {reason}") from error
    nvidia = found.vendor == "cuda"
    text = compiled.asm["ptx" if nvidia else "amdgcn"]
    registers, spills = _nvidia_usage(compiled.asm["cubin"]) if nvidia else _amd_usage(text)
    return KernelReport(
        name=name,
        registers=registers,
        spills=spills,
        shared=compiled.metadata.shared,
        warps=compiled.metadata.num_warps,
        stages=compiled.metadata.num_stages,
        text=text,
    )


def _source_type(kernel: Any) -> Any:
    """The class of what the compiler is given, of a kernel in Triton or in Gluon."""
    if kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource
    from triton.compiler import ASTSource

    return ASTSource


def _nvidia_usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack a thread, from the tool that comes with Triton."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return _number(r"\bREG:(\d+)", text), _number(r"\bSTACK:(\d+)", text)


def _amd_usage(assembly: str) -> tuple[int, int]:
    """Vector registers (accumulation registers included) and bytes of scratch a thread."""
    registers = _number(r"\.vgpr_count:\s*(\d+)", assembly)
    return registers, _number(r"\.private_segment_fixed_size:\s*(\d+)", assembly)


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise BackendError(f"ahead of time: found no {pattern!r} in the compiler's report")
    return int(match[1])
