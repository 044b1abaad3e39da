"""Gradients of scores from gates and thresholds, by torch's own sums over whole rows."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_sums(parts: Tensor, evict: Tensor, first_time: int, n_queries: int, groups: int) -> Tensor:
    """Sums of gates' gradients [B, U, Nk] over the units of each of `groups`; [B, groups, Nk].

    evict [B, G, Nk] is that of the selection whose keys were walked: others count 0.
    """
    batch, walked, n_keys = evict.shape
    key = torch.arange(n_keys, device=evict.device)
    kept = (evict > key) & (evict > first_time) & (key < first_time + n_queries)
    of_units = parts.view(batch, walked, -1, n_keys)
    masked = torch.where(kept[:, :, None], of_units.double(), 0.0)
    return masked.view(batch, groups, -1, n_keys).sum(2)


def threshold_gradient(
    thresholds: Tensor, support: Tensor, frac_birth: Tensor, frac_death: Tensor, first_time: int
) -> Tensor:
    """What moving the thresholds takes from each score: sum of C_q / |F_q| over q with key in F_q.

    thresholds [B, Hq, Nq] holds C_q a head, the rest is per key and time [B, G, Nk].
    """
    batch, groups, n_times = support.shape
    n_queries = thresholds.shape[2]
    per_query = thresholds.view(batch, groups, -1, n_queries).double().sum(2)
    time = torch.arange(n_times, device=support.device)
    asked = (time >= first_time) & (time < first_time + n_queries)
    share = torch.zeros(support.shape, dtype=torch.float64, device=support.device)
    share[..., asked] = per_query[..., time[asked] - first_time] / support[..., asked].clamp(min=1)
    prefix = torch.nn.functional.pad(share.cumsum(-1), (1, 0))
    taken = prefix.gather(-1, frac_death.long()) - prefix.gather(-1, frac_birth.long())
    return torch.where(frac_death > frac_birth, taken, 0.0)
