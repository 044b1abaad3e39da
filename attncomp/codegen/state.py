"""What `select` hands to `forward` and `backward`: a flat tuple of tensors, per selection.

All times are in the selection's own clock `t = q - lag` with q the query *position*: key j enters
the prefix at t = j, and a query with t < 0 has an empty prefix. N_k keys, score groups G.

| field         | shape                           | dtype        | meaning                     |
| ------------- | ------------------------------- | ------------ | --------------------------- |
| score         | [B, G, Nk]                      | fp32 or fp64 | scores, finite; 0 for NaN   |
| evict         | [B, G, Nk]                      | int32        | selected j <= t < evict[j]  |
| theta         | [B, G, Nk]                      | as score     | k-th largest score of 0..t  |
| delta         | [B, G, Nk]                      | as score     | theta - tau, in (0, 1]      |
| support       | [B, G, Nk]                      | int32        | gates of 0..t in (0, 1)     |
| frac_birth    | [B, G, Nk]                      | int32        | key j's gate is in (0, 1),  |
| frac_death    | [B, G, Nk]                      | int32        | selected or not, between    |
| tile_keys     | [B, G, T, min(k, Nk) + tile]    | int32        | keys selected in the tile   |
| tile_count    | [B, G, T]                       | int32        | how many                    |
| tile_full     | [B, G, T]                       | int32        | of them throughout the tile |
| segment_keys  | [B, G, S, min(k, Nk) + segment] | int32        | likewise for the segments   |
| segment_count | [B, G, S]                       | int32        | of the backward             |
| segment_full  | [B, G, S]                       | int32        |                             |

While t < k every key is selected with a gate of 1: theta is -inf, delta and support are 0.
The gate is m = clip((score[j] - theta[t]) + delta[t], 0, 1), the same as clip(u_j - tau, 0, 1) but
exact for scores of any size. Tile i covers query indices [i * tile, (i + 1) * tile), at positions
index + Nk - Nq; segments likewise. Entries beyond a list's count are 0. On torch lists ascend, and
only tile_keys and tile_count exist. On Triton the keys come first that are selected, and in the
box of pairs that the list's sweep attends, at all positions of the tile or segment: their pairs
need no mask; both parts of a segment's list ascend.
Without score gradients (`gate="hard"`) the fields from theta to frac_death do not exist.

Behind the selections stand the tensors that conditions read (`KernelPlan.tensors`), integers but
for thresholds [Hq], which are fp32 (fp64 for fp64), then for each of `KernelPlan.walks` two
tensors, of T = ceil(Nk / size) blocks of positions: spans [B', H', T, 2] int32, where in the row
the list of each block of queries begins and, as many places on as there are blocks in it, ends, and
the lists [B', H', T * width] of blocks of keys, each ascending and each block once. B' is B or 1,
H' divides Hq, and consecutive heads share a list. Lists are int32, but for those of `Walk.packed`:
their places are of int64 words of 48 blocks each (`attncomp.runtime.words`).

Then come for each of `KernelPlan.extents` two tables int32: [B', H', 2, Nq] of the keys that each
query may reach, and [B', H', 2, Nk] of the queries that may reach each key, both as the first
index and the one behind the last. The latter is its bitwise complement, a negative number, where
not all positions in between are reached; where none is, the first is Nk or Nq and the other 0. H'
divides Hk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch

from attncomp.codegen.plan import KernelPlan

FieldKind: TypeAlias = Literal["float", "int"]


class Field(NamedTuple):
    """One tensor of the state: its name, whether it is real or integer, and its shape."""

    name: str
    kind: FieldKind
    shape: tuple[int, ...]


def state_fields(plan: KernelPlan) -> tuple[str, ...]:
    """Names of the fields that each selection of the plan has, in order."""
    soft = ("theta", "delta", "support", "frac_birth", "frac_death")
    spans, parts = ["tile"], ["keys", "count"]
    if plan.problem.backend == "triton":
        spans.append("segment")
        parts.append("full")
    lists = [f"{span}_{part}" for span in spans for part in parts]
    return ("score", "evict", *(soft if plan.differentiable_scores else ()), *lists)


def state_layout(
    plan: KernelPlan, batch: int, groups: Sequence[int], n_queries: int, n_keys: int
) -> list[Field]:
    """All fields of all selections, flat; groups has the group count of each score tensor."""
    tile, segment = plan.schedule.forward.queries, plan.schedule.segment
    layout = []
    for selection in plan.selections:
        n_groups = groups[plan.scores.index(selection.scores)]
        kept: int = torch.sym_min(selection.k, n_keys)  # type: ignore[no-untyped-call]
        per_key = (batch, n_groups, n_keys)
        per_tile = (batch, n_groups, (n_queries + tile - 1) // tile)
        per_segment = (batch, n_groups, (n_queries + segment - 1) // segment)
        shapes: dict[str, tuple[FieldKind, tuple[int, ...]]] = {
            "score": ("float", per_key),
            "evict": ("int", per_key),
            "theta": ("float", per_key),
            "delta": ("float", per_key),
            "support": ("int", per_key),
            "frac_birth": ("int", per_key),
            "frac_death": ("int", per_key),
            "tile_keys": ("int", (*per_tile, kept + tile)),
            "tile_count": ("int", per_tile),
            "tile_full": ("int", per_tile),
            "segment_keys": ("int", (*per_segment, kept + segment)),
            "segment_count": ("int", per_segment),
            "segment_full": ("int", per_segment),
        }
        layout += [Field(name, *shapes[name]) for name in state_fields(plan)]
    return layout
