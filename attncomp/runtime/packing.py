"""Documents packed into one row, given by their cumulative lengths instead of an id a position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from attncomp.errors import OptionError, TensorDtypeError, TensorShapeError
from attncomp.runtime.checks import check_device, check_given, check_layout, name_of

LENGTHS: Final = "cu_seqlens"
IDS: Final = "documents"


def with_documents(
    tensors: Mapping[str, Tensor],
    needed: Sequence[str],
    n_keys: int,
    pattern: str,
    q: Tensor | None,
) -> Mapping[str, Tensor]:
    """The tensors, with `documents` [1, Nk] where `cu_seqlens` stands in its place.

    cu_seqlens [D + 1], int32 or int64: 0, n1, n1 + n2, ..., Nk, as FlashAttention has it. What it
    holds is not looked at: positions from the last entry on are a document of their own. Raises
    the CallError of a tensor that does not fit, and OptionError if both are given.
    """
    if LENGTHS not in tensors or LENGTHS in needed or IDS not in needed:
        return tensors
    lengths = tensors[LENGTHS]
    if IDS in tensors:
        raise OptionError(
            subject=LENGTHS, expected=f"none beside '{IDS}'", found="both", pattern=pattern
        )
    check_given(LENGTHS, lengths, "[D + 1]", pattern)
    if lengths.layout is not torch.strided:
        check_layout(LENGTHS, lengths, pattern)
    if lengths.ndim != 1 or lengths.shape[0] < 2:
        raise TensorShapeError(
            subject=LENGTHS,
            expected="[D + 1] with D >= 1",
            found=tuple(lengths.shape),
            pattern=pattern,
        )
    if lengths.dtype not in (torch.int32, torch.int64):
        raise TensorDtypeError(
            subject=LENGTHS,
            expected="int32 or int64",
            found=name_of(lengths.dtype),
            pattern=pattern,
        )
    if q is not None:
        check_device(LENGTHS, lengths, q, pattern)
    position = torch.arange(n_keys, device=lengths.device, dtype=lengths.dtype)
    ids = torch.searchsorted(lengths[1:].contiguous(), position, right=True)
    rest = {name: tensor for name, tensor in tensors.items() if name != LENGTHS}
    return {**rest, IDS: ids.unsqueeze(0)}
