"""Helpers of tests of generated Triton modules: how to interpret them and how to weigh results."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
import triton.experimental.gluon.language.nvidia.hopper  # copies triton.language as it is then
from dense import Inputs, Result, Shape, blocks_of
from interpreter_speed import hasten
from torch import Tensor
from triton.language import core as _core
from triton.runtime import interpreter as machinery

from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.frontend.ast import Expr
from attncomp.ir.schedule import DtypeName, Problem
from attncomp.runtime import selection
from attncomp.runtime.loader import load_module
from attncomp.runtime.strides import Kernels, composed

# For tests in the interpreter: numbers that are not attended may overflow before the mask drops
# them, here as on a GPU.
OVERFLOWS = pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning"
)

# The interpreter takes as long for a wide tile as for a narrow one.
WIDE_TILES = {
    "PROGRAMS": 1,
    "FEWEST": 3,
    "LIST_ITEMS": 512,
    "FEW": 512,
    "PART_ITEMS": 512,
    "ITEMS": 128,
    "TIMES": 32,
    "RUN": 4,
    "SPANS": 8,
}


@contextmanager
def interpreter() -> Iterator[None]:
    """Within it, Triton kernels are interpreted on the CPU, after it they are compiled again.

    TRITON_INTERPRET counts when a function is decorated, which those of triton.language were at
    their import: they are decorated anew for the while. What the interpreter patches, partly for
    good, is put back, so that one process can interpret and compile.
    """
    before = [(space, dict(vars(space))) for space in _language()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for space, members in before:
            for name, member in members.items():
                if isinstance(member, triton.JITFunction):
                    setattr(space, name, _interpreted(member.fn))
        _patch_once_a_launch(patch)
        hasten(patch)
        for name, size in WIDE_TILES.items():
            patch.setattr(selection, name, size)
        try:
            yield
        finally:
            for space, members in before:
                _restore(space, members)


def _patch_once_a_launch(patch: pytest.MonkeyPatch) -> None:
    """The interpreter patches the language anew at every call of a function from a kernel.

    That takes a millisecond, most of the time of kernels with small tiles: once a launch will do.
    """
    patch_language, launch = machinery._patch_lang, machinery.GridExecutor.__call__
    patched: set[tuple[str, ...]] = set()

    def once(function: Any) -> Any:
        names = sorted(module.__name__ for module in _modules_seen(function))
        if tuple(names) in patched:
            return None
        patched.add(tuple(names))
        return patch_language(function)

    def launched(executor: Any, *args: Any, **keywords: Any) -> Any:
        patched.clear()
        with untraced():
            return launch(executor, *args, **keywords)

    patch.setattr(machinery, "_patch_lang", once)
    patch.setattr(machinery.GridExecutor, "__call__", launched)


@contextmanager
def untraced() -> Iterator[None]:
    """Within it, coverage traces no thread: it measures no kernel, and takes longer than one."""
    here, elsewhere = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        yield
    finally:
        sys.settrace(here)
        threading.settrace(elsewhere)


def _modules_seen(function: Any) -> list[ModuleType]:
    """The modules of the language that a function's globals hold."""
    return [x for x in function.__globals__.values() if x is triton.language or x is _core]


def _language() -> list[Any]:
    """The modules of triton.language, and the classes that they hold."""
    modules = [m for name, m in sys.modules.items() if name.startswith("triton.language")]
    classes = {
        id(member): member
        for module in modules
        for member in vars(module).values()
        if isinstance(member, type) and member.__module__.startswith("triton.language")
    }
    return [*modules, *classes.values()]


@functools.cache
def _interpreted(function: Any) -> Any:
    """One object a function, for the interpreter knows reductions by their combining function."""
    return triton.jit(function)


def _restore(space: Any, members: Mapping[str, object]) -> None:
    for name, member in members.items():
        if vars(space).get(name) is not member:
            setattr(space, name, member)
    # What is new in a module are the interpreter's names, which rewritten functions go on using.
    if isinstance(space, type):
        for name in set(vars(space)) - set(members):
            delattr(space, name)


def make_problem(
    shape: Shape,
    *,
    dtype: DtypeName = "float32",
    target: str = "cpu",
    crisp: bool = False,
) -> Problem:
    """The Triton problem of a call; crisp: of a pattern without scores, so without groups."""
    shared = shape.query_heads // shape.kv_heads
    return Problem(
        backend="triton",
        target=target,
        dtype=dtype,
        head_dim=shape.head_dim,
        value_dim=shape.value_dim,
        unit_heads=shared if crisp else math.gcd(shared, shape.query_heads // shape.groups),
    )


def make_plan(pattern: str | Expr, shape: Shape) -> KernelPlan:
    """The plan of a pattern for the interpreter."""
    plan = lower(pattern, make_problem(shape))
    return plan if plan.scores else lower(pattern, make_problem(shape, crisp=True))


@functools.cache
def load_plan(plan: KernelPlan) -> ModuleType:
    """The plan's module; to be called inside `interpreter()` if it is for that."""
    source = render(plan)
    name = f"triton_support_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    path = Path(os.environ["ATTNCOMP_CACHE_DIR"]) / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    return load_module(path, name)


def kernels_of(plan: KernelPlan) -> Kernels:
    """The functions of the plan's modules."""
    return composed(plan, lambda module_plan: Kernels.of(load_plan(module_plan)))


def run_plan(plan: KernelPlan, inputs: Inputs, scale: float, *, with_lse: bool = True) -> Result:
    """Outputs and gradients of a plan whose selections all rank by `inputs.scores`."""
    module = kernels_of(plan)
    state = module.select((inputs.scores,) * len(plan.scores), inputs.q.shape[2])
    state = (*state, *blocks_of(plan, inputs))
    out, lse = module.forward(inputs.q, inputs.k, inputs.v, state, scale)
    dlse = inputs.dlse if with_lse else None
    dq, dk, dv, *dscores = module.backward(
        inputs.dout, dlse, inputs.q, inputs.k, inputs.v, out, lse, state, scale
    )
    assert len(dscores) == (len(plan.scores) if plan.differentiable_scores else 0)
    total = sum(dscores, torch.zeros_like(inputs.scores))
    return Result(out=out, lse=lse, dq=dq, dk=dk, dv=dv, dscores=total)


def wide(inputs: Inputs) -> Inputs:
    """The same numbers in float64."""
    return inputs.to(torch.float64)


def error_norm(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of `expected`, which counts as at least one an element.

    Inputs are of size one, so that results near zero are sums of numbers of that size. Infinite if
    NaN and infinities do not stand at the same places.
    """
    return _distance(actual, expected, math.sqrt(expected.numel()))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of `expected`; infinite as `error_norm`."""
    return _distance(actual, expected, 0.0)


def _distance(actual: Tensor, expected: Tensor, floor: float) -> float:
    assert actual.shape == expected.shape
    x, y = actual.detach().double(), expected.detach().double()
    finite = x.isfinite() & y.isfinite()
    if not bool((finite | (x == y) | (x.isnan() & y.isnan())).all()):
        return math.inf
    x, y = torch.where(finite, x, 0.0), torch.where(finite, y, 0.0)
    difference = torch.linalg.vector_norm(x - y).item()
    size = max(torch.linalg.vector_norm(y).item(), floor)
    if not difference:
        return 0.0
    return difference / size if size else math.inf


def assert_near(actual: Result, expected: Result, tolerance: float) -> None:
    """Fail unless each tensor's `error_norm` is at most `tolerance`; the message names them all."""
    errors = {
        name: error_norm(getattr(actual, name), getattr(expected, name))
        for name in Result.__dataclass_fields__
    }
    # `not <=` rather than `>`: NaN must fail too.
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not wrong, f"expected errors of at most {tolerance:g}, found {wrong}"
