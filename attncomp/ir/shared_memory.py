"""How much shared memory a tile takes, and tiles cut until that is what their target has.

Bounds, in bytes a block, as compilations for every target show (`tests/runtime/test_shared.py`
samples them): with rows R of a tile (queries, times packed heads where they share it), K keys,
padded head dims D and Dv, elements of e bytes, s pipeline stages and P tensors that each pair reads
an entry of,

    forward         max(e (R D + s K (D + Dv)), e R Dv)       + (s - 1) P 4 R K
    backward_query  e (R (D + Dv) + s K (D + Dv)) + [Y - e K Dv]    + (s - 1) P 12 R K
    key-major       e (K (D + Dv) + s R (D + Dv)) + max(C, 2 e R K) + (s - 1) P 12 R K

on NVIDIA, where operands of a product stay in shared memory, the outputs of the forward come in
their place at the end, and 2 KiB are for rows of indices; on sm_90 and sm_100, whose products are
of whole warp groups, 4 R K for changes of layout as well; on others R K in the forward without
stages, for the mask that heads share. Y is ds, e R K, that takes the place of the values; without
stages (s = 1) with room to change its layout (R K), or in 32 bits with the keys transposed (e K D),
which tensor cores take in one order alone; [] is at least 0. C is a transposed copy, e R max(D,
Dv), in 32 bits of both, e R (D + Dv); where head dims are narrow, weights and ds are larger.
Without stages entries of pairs change their layout in 4 R K.

On AMD operands pass through one after the other: with A the largest, max(2 A, A + 2 e R K), at
least 8 R K where entries of pairs are read, and s - 1 stages of what is streamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from attncomp.errors import BackendError
from attncomp.ir.schedule import MIN_SIDE, PARTS, Part, Problem, Schedule, Tile

# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability" (shared memory that
# a block can opt in to), and AMD's CDNA instruction set guides (local data share).
SHARED_KIB: Final[Mapping[str, int]] = MappingProxyType(
    {
        "sm_80": 163,
        "sm_86": 99,
        "sm_89": 99,
        "sm_90": 227,
        "sm_100": 227,
        "sm_120": 99,
        "gfx90a": 64,
        "gfx942": 64,
        "gfx950": 160,
    }
)
_INDEX_ROWS: Final = 2048
_BYTES: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def shared_limit(target: str) -> int | None:
    """Bytes that a block may take on a target; None for one without such memory, a CPU.

    An NVIDIA target that is not listed has those of the listed one below it, an AMD one the least.
    """
    if target in SHARED_KIB:
        return SHARED_KIB[target] * 1024
    if cuda := re.fullmatch(r"sm_(\d+)[a-z]?", target):
        below = [name for name in SHARED_KIB if name[:3] == "sm_" and int(name[3:]) <= int(cuda[1])]
        return SHARED_KIB[below[-1] if below else "sm_86"] * 1024
    return SHARED_KIB["gfx942"] * 1024 if target.startswith("gfx") else None


def shared_bytes(part: Part, schedule: Schedule, problem: Problem, pair_tables: int = 0) -> int:
    """The bound that this module states, in bytes."""
    size, tile = _BYTES[problem.dtype], schedule.tile(part)
    head, value = (1 << (d - 1).bit_length() for d in (problem.head_dim, problem.value_dim))
    query_major = part in ("forward", "backward_query")
    rows = tile.queries * schedule.heads(part)
    resident, streamed = (rows, tile.keys) if query_major else (tile.keys, rows)
    scores = size * rows * tile.keys
    tables = (tile.stages - 1) * pair_tables * rows * tile.keys * (4 if part == "forward" else 12)
    if problem.target.startswith("gfx"):
        operand = size * max(rows, tile.keys) * max(head, value)
        stages = (tile.stages - 1) * size * streamed * (head + value)
        spread = 8 * rows * tile.keys if pair_tables else 0
        return max(2 * operand, operand + 2 * scores, spread) + stages + tables
    if pair_tables and tile.stages == 1:
        tables = 4 * rows * tile.keys
    stages = tile.stages * size * streamed * (head + value)
    wide = size > 2
    match part:
        case "forward":
            own = max(size * rows * head, size * rows * value - stages)
        case "backward_query":
            layouts = size * tile.keys * head if wide else rows * tile.keys
            grown = scores + (layouts if tile.stages == 1 else 0) - size * tile.keys * value
            own = size * resident * (head + value) + max(0, grown)
        case _:
            copied = size * rows * (head + value if wide else max(head, value))
            own = size * resident * (head + value) + max(copied, 2 * scores)
    if re.match(r"sm_(9|10|11)\d", problem.target):
        converted = 4 * rows * tile.keys
    else:
        shared = part == "forward" and tile.stages == 1 and schedule.packed_heads > 1
        converted = rows * tile.keys if shared else 0
    return own + stages + tables + converted + _INDEX_ROWS


def fits(part: Part, schedule: Schedule, problem: Problem, pair_tables: int = 0) -> bool:
    """Whether a part's tile takes no more than its target has."""
    limit = shared_limit(problem.target) if problem.backend == "triton" else None
    return limit is None or shared_bytes(part, schedule, problem, pair_tables) <= limit


def fitted(schedule: Schedule, problem: Problem, pair_tables: int = 0) -> Schedule:
    """The schedule with tiles that fit: fewer stages first, then less that is streamed, then rows.

    Raises BackendError where the smallest tile does not fit either.
    """
    for part in PARTS:
        while not fits(part, schedule, problem, pair_tables):
            schedule = schedule.with_tile(part, _smaller(part, schedule, problem))
    return schedule


def _smaller(part: Part, schedule: Schedule, problem: Problem) -> Tile:
    tile = schedule.tile(part)
    if tile.stages > 1:
        return replace(tile, stages=tile.stages - 1)
    streamed, kept = ("keys", "queries") if part[-5:] in ("rward", "query") else ("queries", "keys")
    least = {"queries": schedule.least_queries(part), "keys": MIN_SIDE}
    for side in (streamed, kept):
        size: int = getattr(tile, side)
        if size > least[side]:
            return replace(tile, **{side: size // 2})
    raise BackendError(
        f"target {problem.target!r}: no tile of {part} for {problem.dtype} and head dims "
        f"{problem.head_dim} and {problem.value_dim} fits the shared memory of a block"
    )
