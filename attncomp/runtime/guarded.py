"""What stands between torch and the functions of a program, so that these may take it easy."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def guarded(kernel: Callable[P, R]) -> Callable[P, R]:
    """The kernel as torch's own would run: on its tensors' device, without torch.autocast.

    Triton launches on the current device, whatever the tensors'; and precision is part of a plan.
    """

    @functools.wraps(kernel)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        device = (first if isinstance(first, Tensor) else first[0]).device
        casts = torch.is_autocast_enabled(device.type)
        elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
        if not casts and not elsewhere:
            return kernel(*args, **kwargs)
        on_device = torch.cuda.device(device) if elsewhere else contextlib.nullcontext()
        with on_device, torch.autocast(device.type, enabled=False):
            return kernel(*args, **kwargs)

    return run


def unaliased(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors, contiguous, each with memory of its own, as results of an op have to be."""
    seen: set[int] = set()
    results = []
    for tensor in tensors:
        tensor = tensor.contiguous()
        storage = tensor.untyped_storage()._cdata
        results.append(tensor.clone() if storage in seen else tensor)
        seen.add(storage)
    return results
