"""Score networks: what ranks the keys of a selection.

A score u_j is a function of the sequence up to j, never of what follows and never of the query, so
that a key's rank among its prefix is settled when it enters (SparseK attention, arXiv 2406.16747).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Added to running variances, in squares of the raw scores' unit.
_EPSILON = 1e-5


def normalise_over_time(raw: Tensor) -> Tensor:
    """Each score less the mean of its prefix, divided by the prefix's standard deviation.

    raw [..., N] of any real dtype gives float32 (float64 for float64) of the same shape:

        u_j = (raw_j - mean(raw_0..raw_j)) / sqrt(variance(raw_0..raw_j) + 1e-5)

    the timestep normalisation of arXiv 2404.08801, section 3.2, with one group, as arXiv 2406.16747
    uses it. u_j does not depend on anything after j. Running sums are float64 and the variance a
    sum of squares (Welford), so that a large common offset cancels nothing.
    """
    value = raw.double()
    count = torch.arange(1, raw.shape[-1] + 1, device=raw.device, dtype=torch.float64)
    # Relative to the first score: a constant row has a mean, a variance and scores of exactly 0.
    value = value - value[..., :1].detach()
    mean = value.cumsum(-1) / count
    before = torch.nn.functional.pad(mean[..., :-1], (1, 0))
    step = (value - before) * (value - mean)  # what each score adds to the sum of squares
    variance = step.cumsum(-1) / count
    out = (value - mean) / (variance + _EPSILON).sqrt()
    return out.to(torch.promote_types(raw.dtype, torch.float32))


class ScoreNetwork(nn.Module):
    """Scores [B, G, N] of N keys from their tokens' states [B, N, dim], for G score groups.

    hidden: width of one hidden layer with GELU; None for a linear map.
    slope: added a position, u_j + slope * j: a recency preference (arXiv 2406.16747),
        which lets old keys be evicted in favour of new ones as good.
    normalise: normalise over time (`normalise_over_time`) and scale by a learnt factor a group
        that starts at 1. Gates run from 0 to 1 over one unit of score, so that a spread of about 1
        leaves enough keys between the two for gradients to reach the network.
    key_norm: start from the negative norm of each key instead of at random, for models that were
        trained without a selection: keys of small norm draw the most attention (arXiv 2406.11430).
        The network's last layer starts at zero, and `forward` needs the keys.

    Computed in float32 at least, under autocast and with weights of lower precision as well.
    """

    def __init__(
        self,
        dim: int,
        groups: int,
        hidden: int | None = None,
        slope: float = 0.0,
        normalise: bool = True,
        key_norm: bool = False,
    ) -> None:
        super().__init__()
        if dim < 1 or groups < 1 or (hidden is not None and hidden < 1):
            raise ValueError(
                "expected dim, groups and hidden of at least 1, "
                f"found dim={dim}, groups={groups}, hidden={hidden}"
            )
        if not math.isfinite(slope):
            raise ValueError(f"expected a finite slope, found {slope}")
        self.dim, self.groups, self.slope = dim, groups, slope
        self.normalise, self.key_norm = normalise, key_norm
        self.hidden = None if hidden is None else nn.Linear(dim, hidden)
        # No bias: gates do not change when all scores move together.
        self.out = nn.Linear(dim if hidden is None else hidden, groups, bias=False)
        self.spread = nn.Parameter(torch.ones(groups)) if normalise else None
        if key_norm:
            nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, key: Tensor | None = None) -> Tensor:
        """Scores [B, G, N] float32 (float64 for float64 x) of x [B, N, dim].

        key [B, Hk, N, D], Hk a multiple of G: needed with `key_norm` and only then; a group takes
        the mean of its heads' norms. Raises ValueError for anything else.
        """
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise ValueError(f"x: expected [B, N, {self.dim}], found {list(x.shape)}")
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            state = x.to(dtype)
            if self.hidden is not None:
                state = nn.functional.gelu(_linear(self.hidden, state))
            raw = _linear(self.out, state).mT  # [B, G, N]
            raw = raw - self._norms(x, key)
            if self.spread is not None:
                raw = self.spread[:, None] * normalise_over_time(raw)
            if self.slope:
                raw = raw + self.slope * torch.arange(x.shape[1], device=x.device, dtype=dtype)
            return raw

    def _norms(self, x: Tensor, key: Tensor | None) -> Tensor | float:
        """The norms [B, G, N] to start from, or 0."""
        if (key is not None) != self.key_norm:
            expected = (
                "the keys, for key_norm=True" if self.key_norm else "none, for key_norm=False"
            )
            raise ValueError(f"key: expected {expected}")
        if key is None:
            return 0.0
        batch, n_keys, _ = x.shape
        fits = key.ndim == 4 and (key.shape[0], key.shape[2]) == (batch, n_keys)
        if not fits or key.shape[1] % self.groups:
            raise ValueError(
                f"key: expected [{batch}, Hk, {n_keys}, D] with Hk a multiple of {self.groups}, "
                f"found {list(key.shape)}"
            )
        norms = key.to(torch.promote_types(key.dtype, torch.float32)).norm(dim=3)  # [B, Hk, N]
        return norms.unflatten(1, (self.groups, -1)).mean(2)

    def extra_repr(self) -> str:
        return (
            f"dim={self.dim}, groups={self.groups}, slope={self.slope}, "
            f"normalise={self.normalise}, key_norm={self.key_norm}"
        )


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in the dtype of x: scores in the bfloat16 of their weights would tie."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return nn.functional.linear(x, layer.weight.to(x.dtype), bias)
