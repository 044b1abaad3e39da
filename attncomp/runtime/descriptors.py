"""Descriptors of tiles, by which GPUs of compute capability 9 and up copy tiles on their own.

A load by a descriptor takes one thread and no addresses, where one by pointers takes an instruction
for every 16 bytes, and registers. Rows outside of a tensor are read as 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from attncomp.runtime.launch import alignment

if TYPE_CHECKING:
    from triton.tools.tensor_descriptor import TensorDescriptor

# Rows of queries, of all heads, from which on kernels take descriptors. Triton's own launch, which
# encodes them anew each time, costs the host more than shorter kernels gain.
FEWEST_ROWS: Final = 1 << 17


def can_describe(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, lse: Tensor, row_deltas: Tensor
) -> bool:
    """Whether tensors [B, H, N, D], and [B, H, N] float32 for the last two, have descriptors.

    Those take addresses and strides that are multiples of 16 bytes, which no row may share with
    another; and they are worth it from `FEWEST_ROWS` on.
    """
    tiles = q, k, v, dout
    return (
        lse.numel() >= FEWEST_ROWS
        and lse.shape[2] % 4 == 0
        and all([tensor.numel() and 0 not in tensor.stride() for tensor in tiles])
        and alignment(*tiles) > 1
        and lse.data_ptr() % 16 == row_deltas.data_ptr() % 16 == 0
    )


def base_of(value: Any) -> Tensor | None:
    """A tensor, or the one that a descriptor of tiles is of; None for anything else."""
    if isinstance(value, Tensor):
        return value
    return value.base if hasattr(value, "block_shape") else None


def describe(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    lse: Tensor,
    row_deltas: Tensor,
    queries: int,
    keys: int,
    head_dim: int,
    value_dim: int,
) -> tuple[TensorDescriptor, ...]:
    """Descriptors of tiles of rows of one head: by queries or keys, and by padded head dims."""
    tiles = (
        (q, queries, head_dim),
        (k, keys, head_dim),
        (v, keys, value_dim),
        (dout, queries, value_dim),
        (lse, queries),
        (row_deltas, queries),
    )
    return tuple([_descriptor(tensor, *tile) for tensor, *tile in tiles])


def describe_keys(k: Tensor, v: Tensor, keys: int) -> tuple[Any, ...]:
    """Descriptors of tiles [1, 1, keys, D] of K and V for the kernels in Gluon."""
    return tuple([_for_gluon(tensor, keys) for tensor in (k, v)])


def describe_rows(
    q: Tensor,
    dout: Tensor,
    lse: Tensor,
    row_deltas: Tensor,
    heads: int,
    queries: int,
    head_dim: int,
    value_dim: int,
) -> tuple[TensorDescriptor, ...]:
    """Descriptors of tiles of several heads' rows: by heads, queries, and padded head dims."""
    tiles = (q, head_dim), (dout, value_dim), (lse,), (row_deltas,)
    return tuple([_descriptor(tensor, queries, *dim, heads=heads) for tensor, *dim in tiles])


def describe_for_gluon(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    lse: Tensor,
    row_deltas: Tensor,
    queries: int,
    keys: int,
) -> tuple[Any, ...]:
    """Likewise for a kernel in Gluon, which takes layouts in shared memory from them."""
    sizes = queries, keys, keys, queries, queries, queries
    tensors = q, k, v, dout, lse, row_deltas
    return tuple([_for_gluon(tensor, size) for tensor, size in zip(tensors, sizes, strict=True)])


def _for_gluon(tensor: Tensor, rows: int) -> Any:
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    swizzle = 128 if tensor.dim() == 4 else 0  # bytes: products read tiles, threads what rows have
    layout = NVMMASharedLayout(swizzle, 8 * tensor.element_size(), tensor.dim())
    tile = [1, 1, rows, *tensor.shape[3:]]
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), tile, layout)


def _descriptor(tensor: Tensor, *tile: int, heads: int = 1) -> TensorDescriptor:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [1, heads, *tile])
