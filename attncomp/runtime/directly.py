"""Whether a call may pass by torch's dispatcher, which takes longer than all the rest of it."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.autograd import forward_ad, profiler

from attncomp.errors import BackendError

PLAIN: Final = (Tensor, torch.nn.Parameter)
"""The types of tensors whose operators nobody overrides."""


def runs_directly(*tensors: Tensor) -> bool:
    """Whether nobody looks at ops on these tensors: their kernels may be called as they are.

    Modes (fake tensors, selective checkpoints, default devices), transforms, traces and profilers
    look, and so do subclasses, lazy negation and the device meta.
    """
    if torch.compiler.is_compiling() or profiler._is_profiler_enabled:
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    if torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state() is not None:
        return False
    # A list is faster than a generator.
    return all([type(t) in PLAIN and not (t.is_neg() or t.is_meta) for t in tensors])


def wants_gradients(*tensors: Tensor) -> bool:
    """Whether autograd records what is done with any of these tensors."""
    return torch.is_grad_enabled() and any([tensor.requires_grad for tensor in tensors])


def saves_plainly() -> bool:
    """Whether nobody looks at what is saved for backward.

    Those who do, such as checkpoints, want every call to save the same.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def refuse_tangents(*tensors: Tensor) -> None:
    """Raise BackendError for forward-mode derivatives, which would come out as zero."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise BackendError(
            "forward-mode derivatives of attention are not available on this backend: "
            "use backend 'reference'"
        )
