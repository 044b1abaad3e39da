"""Rotary position embedding (arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(tensor: Tensor, dims: int, base: float = 10_000.0) -> Tensor:
    """Turn the first `dims` dimensions of each row by angles that grow with its position.

    tensor [B, H, N, D] stands at positions 0..N-1; dims is even, 0 <= dims <= D. Dimension i and
    i + dims / 2 form a pair that is turned by position * base^(-2 i / dims). Computed in float32
    at least, given back in the dtype of the input. Raises ValueError for other shapes and dims.
    """
    if tensor.ndim != 4:
        raise ValueError(f"tensor: expected [B, H, N, D], found {list(tensor.shape)}")
    if dims % 2 or not 0 <= dims <= tensor.shape[3]:
        raise ValueError(f"dims: expected an even number from 0 to {tensor.shape[3]}, found {dims}")
    if dims == 0:
        return tensor
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    index = torch.arange(0, dims, 2, device=tensor.device, dtype=torch.float64)
    position = torch.arange(tensor.shape[2], device=tensor.device, dtype=torch.float64)
    angle = position[:, None] * base ** (-index / dims)  # [N, dims / 2]
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    first, second, rest = tensor.split([dims // 2, dims // 2, tensor.shape[3] - dims], dim=3)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat([*(part.to(tensor.dtype) for part in turned), rest], dim=3)
