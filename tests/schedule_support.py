"""Calls of shipped patterns without scores at a million positions, one row and one head each."""

from __future__ import annotations

import torch
from torch import Tensor

import attncomp
from attncomp.codegen.plan import KernelPlan
from attncomp.runtime.extents import Call
from attncomp.runtime.program import usual_problem

N = 1 << 20
MIB = 1 << 20


def plan_of(spec: str, device: str) -> KernelPlan:
    """The plan of a pattern for a usual problem of 32 over 8 heads."""
    on_gpu = device != "cpu"
    problem = usual_problem("triton" if on_gpu else "torch", on_gpu=on_gpu)
    return attncomp.compile(spec).plan_for(problem)


def call_of(plan: KernelPlan, generator: torch.Generator, device: str) -> Call:
    """A call with fresh random tensors of the plan's names."""
    given = {name: _drawn(name, generator).to(device) for name in plan.inputs}
    return Call(1, 32, 8, N, N, torch.device(device), given)


def _drawn(name: str, generator: torch.Generator) -> Tensor:
    match name:
        case "documents":
            return torch.randint(0, 1024, (1, N), generator=generator).sort().values.int()
        case "evict":
            stay = torch.randint(0, 8192, (1, 1, N), generator=generator)
            return (torch.arange(N) + stay).int()
        case "passed":
            return torch.rand((1, 1, N), generator=generator) < 1 / 8
        case "ancestors":
            return torch.rand((1, 64, 64), generator=generator) < 0.5
        case "block_mask":
            size = (1, 1, N // 64, N // 64)
            return torch.rand(size, generator=generator, dtype=torch.float16) < 0.002
        case _:
            return torch.randint(0, N, (1,), generator=generator).int()
