"""What stands in for a GPU's compiler and its calls where kernels are compiled ahead of these."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attncomp.codegen.emit import render
from attncomp.codegen.plan import KernelPlan
from attncomp.ir.schedule import Problem
from attncomp.runtime.compile_ahead import Ahead
from attncomp.runtime.loader import load_module
from attncomp.runtime.quick_launch import with_quick_launches
from attncomp.runtime.strides import Kernels, composed

PROBLEM = Problem(
    backend="triton", target="sm_90", dtype="bfloat16", head_dim=64, value_dim=64, unit_heads=2
)
DEVICE = torch.device("cuda", 0)
HEADS, KV_HEADS, N = 4, 2, 300


@dataclass
class Compiler:
    """Stands in for Triton's; notes what it compiles in which thread.

    make: what comes after parsing, of a kernel by its name.
    """

    launchers: list[str]
    make: Callable[[str], object] = lambda name: None
    parse: Callable[[], None] = lambda: None
    compiled: list[str] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)

    def __call__(self, src: Any, target: Any, options: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        src.make_ir()
        self.make(src.name)
        self.compiled.append(src.name)
        return Compiled(src)

    @property
    def ahead(self) -> list[bool]:
        return [name.startswith("attncomp-compile") for name in self.threads]


class Compiled:
    """What a compiler gives: a kernel that runs nowhere."""

    function = packed_metadata = metadata = None

    def __init__(self, src: Any) -> None:
        self.src = src

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self.run

    def run(self, *args: object) -> None:
        """Launch."""

    launch_metadata = run


@dataclass
class Served:
    """A plan with modules that nothing has compiled, and a call of it."""

    plan: KernelPlan
    directory: Path
    ahead: Ahead = field(init=False)
    functions: Kernels = field(init=False)

    def __post_init__(self) -> None:
        load = functools.cache(self._load)
        self.ahead = Ahead(self.plan, load, DEVICE)
        self.functions = composed(self.plan, load)

    def _load(self, plan: KernelPlan) -> Kernels:
        path = self.directory / f"module_{len(list(self.directory.iterdir()))}.py"
        path.write_text(render(plan), encoding="utf-8")
        return Kernels.of(with_quick_launches(load_module(path, f"{path.parent.name}_{path.stem}")))

    @functools.cached_property
    def given(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """q, k, v; scores; learned tensors."""
        inputs = [empty(heads, N, 64) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        scores = [empty(KV_HEADS, N, dtype=torch.float32) for _ in self.plan.scores]
        learned = [
            torch.empty(HEADS, *([] if width is None else [width]), device="meta")
            for _, width in self.plan.modifiers.tensors
        ]
        return tuple(inputs), tuple(scores), tuple(learned)

    def start(self, *, gradients: bool) -> None:
        """Compile ahead of a call."""
        inputs, scores, learned = self.given
        self.ahead.call(*inputs, scores, learned, 0.1, gradients=gradients)

    def run(self, *, gradients: bool) -> None:
        """The call."""
        inputs, scores, learned = self.given
        state = (*(self.functions.select(scores, N) if scores else ()), *learned)
        out, lse = self.functions.forward(*inputs, state, 0.1)
        if gradients:
            self.functions.backward(torch.empty_like(out), None, *inputs, out, lse, state, 0.1)


def empty(*size: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty((1, *size), dtype=dtype, device="meta")
