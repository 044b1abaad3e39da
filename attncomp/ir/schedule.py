"""What a kernel is specialised for, and the schedule that a target gets for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

BackendName: TypeAlias = Literal["triton", "torch"]
DtypeName: TypeAlias = Literal["float16", "bfloat16", "float32", "float64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The static part of a call: everything but lengths, batch and strides.

    target is "cpu", "sm_<nn>" or an AMD "gfx<nnn>". unit_heads is the number of consecutive query
    heads that read the same KV head and the same score group; head_dim and value_dim are D and Dv.
    """

    backend: BackendName
    target: str
    dtype: DtypeName
    head_dim: int
    value_dim: int
    unit_heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Tile of one kernel: query positions (a head each) by keys, with warps and pipeline stages."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How the kernels of one plan run.

    packed_heads: query heads of a unit that share a tile, so that gathered rows are loaded once
    for all of them; a tile has `packed_heads * queries` rows. segment: query positions over which
    the backward of gathered sweeps accumulates a key's gradient in one program.
    """

    packed_heads: int
    forward: Tile
    backward_query: Tile
    backward_gathered: Tile
    backward_contiguous: Tile
    segment: int
