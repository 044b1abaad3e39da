"""Tile shapes by device: the one table that the schedule pass reads.

A row is for one backend, a family of targets and padded head dims up to `head_dim`; rows (of a
tile) are query positions times packed heads. To tune a device, edit its rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from attncomp.errors import BackendError
from attncomp.ir.schedule import BackendName, DtypeName

LONG: Final = 2048


@dataclass(frozen=True, slots=True)
class Shape:
    """One kernel's tile: rows by keys, with warps and pipeline stages."""

    rows: int
    keys: int
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True, slots=True)
class Row:
    """The shapes for head dims up to `head_dim`, and the segment of the gathered backward.

    Where set, the shapes that begin with `long` stand in for patterns with a contiguous sweep over
    more than `LONG` keys a query, `gathered_query` for the backward's query kernel of those that
    gather keys.
    """

    head_dim: int
    forward: Shape
    backward_query: Shape
    backward_gathered: Shape
    backward_contiguous: Shape
    segment: int = 2048
    long_forward: Shape | None = None
    long_query: Shape | None = None
    gathered_query: Shape | None = None


# The accumulator of a forward tile is rows * head_dim fp32 registers over its warps: 128 x 128 in
# eight warps is 64 a thread, which leaves room for the scores; 256 wide it must be half as tall.
# The backward keeps two accumulators (dk and dv), so its tiles are half the forward's.
_WIDE_64: Final = Row(
    64,
    forward=Shape(128, 64, warps=4, stages=3),
    backward_query=Shape(64, 64, warps=4, stages=3),
    backward_gathered=Shape(64, 64, warps=4, stages=2),
    backward_contiguous=Shape(64, 64, warps=4, stages=2),
)
_WIDE_128: Final = Row(
    128,
    forward=Shape(128, 64, warps=8, stages=2),
    backward_query=Shape(64, 64, warps=4, stages=2),
    backward_gathered=Shape(64, 64, warps=8, stages=2),
    backward_contiguous=Shape(64, 64, warps=8, stages=2),
)
_WIDE_256: Final = Row(
    256,
    forward=Shape(64, 32, warps=8, stages=2),
    backward_query=Shape(64, 32, warps=8, stages=2),
    backward_gathered=Shape(64, 32, warps=8, stages=1),
    backward_contiguous=Shape(64, 32, warps=8, stages=1),
)
# Hopper, 128 wide, as measured on an H200. sparsek(512, lag=256) | window(256) at N = 131072: with
# 13 to 26 key tiles a query tile, filling the pipeline costs more than narrow products, so that
# 32 keys with four warps beat 64 keys with eight by a fifth; where masks and gates are shared by
# the heads of a tile, dq gains a tenth from 64 keys; key-major, 32 columns of queries keep dk and
# dv of 64 keys in four warps' registers at half the time of 64; copied by descriptors, they take
# 6.5 ms at 4 stages, 6.7 at 3, 7.1 at 2, and 8.3 with 128 keys in eight warps. Causal at N = 32768,
# with hundreds of key tiles: 64 keys forward 19.7 ms, 32 keys 23.6; for dq 128 rows in eight warps
# 24.2 ms, 64 rows in four 29.1.
_HOPPER_128: Final = Row(
    128,
    forward=Shape(128, 32, warps=4, stages=3),
    backward_query=Shape(64, 32, warps=4, stages=2),
    backward_gathered=Shape(32, 64, warps=4, stages=4),
    backward_contiguous=Shape(64, 64, warps=4, stages=2),
    long_forward=Shape(128, 64, warps=4, stages=2),
    long_query=Shape(128, 64, warps=8, stages=3),
    gathered_query=Shape(64, 64, warps=4, stages=2),
)
# 99 KiB of shared memory a block (consumer Ampere, Ada, consumer Blackwell) hold one stage less.
_SMALL_64: Final = Row(
    64,
    forward=Shape(128, 64, warps=4, stages=2),
    backward_query=Shape(64, 64, warps=4, stages=2),
    backward_gathered=Shape(64, 64, warps=4, stages=1),
    backward_contiguous=Shape(64, 64, warps=4, stages=1),
)
_SMALL_128: Final = Row(
    128,
    forward=Shape(128, 32, warps=8, stages=2),
    backward_query=Shape(64, 32, warps=4, stages=2),
    backward_gathered=Shape(64, 32, warps=8, stages=1),
    backward_contiguous=Shape(64, 32, warps=8, stages=1),
)
_SMALL_256: Final = Row(
    256,
    forward=Shape(64, 32, warps=8, stages=1),
    backward_query=Shape(64, 32, warps=8, stages=1),
    backward_gathered=Shape(32, 32, warps=8, stages=1),
    backward_contiguous=Shape(32, 32, warps=8, stages=1),
)
# 64 KiB of local data share and 64 lanes a wavefront on CDNA 3: fewer stages, fewer warps.
_CDNA_64: Final = Row(
    64,
    forward=Shape(128, 64, warps=4, stages=2),
    backward_query=Shape(64, 64, warps=4, stages=1),
    backward_gathered=Shape(64, 64, warps=4, stages=1),
    backward_contiguous=Shape(64, 64, warps=4, stages=1),
)
_CDNA_128: Final = Row(
    128,
    forward=Shape(128, 64, warps=4, stages=1),
    backward_query=Shape(64, 64, warps=4, stages=1),
    backward_gathered=Shape(64, 64, warps=4, stages=1),
    backward_contiguous=Shape(64, 64, warps=4, stages=1),
)
_CDNA_256: Final = Row(
    256,
    forward=Shape(64, 32, warps=4, stages=1),
    backward_query=Shape(64, 32, warps=4, stages=1),
    backward_gathered=Shape(32, 32, warps=4, stages=1),
    backward_contiguous=Shape(32, 32, warps=4, stages=1),
)
# IEEE fp32 products run on the vector units, out of registers: tiles as large as those for the
# tensor cores spill kilobytes a thread, these at most a few hundred bytes.
_SINGLE_64: Final = Row(
    64,
    forward=Shape(32, 32, warps=8, stages=1),
    backward_query=Shape(32, 32, warps=8, stages=1),
    backward_gathered=Shape(32, 32, warps=8, stages=1),
    backward_contiguous=Shape(32, 32, warps=8, stages=1),
)
_SINGLE_256: Final = Row(
    256,
    forward=Shape(16, 16, warps=4, stages=1),
    backward_query=Shape(16, 16, warps=4, stages=1),
    backward_gathered=Shape(16, 16, warps=4, stages=1),
    backward_contiguous=Shape(16, 16, warps=4, stages=1),
)
# Blocked torch, as measured on a Xeon (sparsek(512) | window(256), N = 4096): 64 queries a tile
# cost a tenth to a sixth more, for there are more calls, 256 a tenth to a third, for more pairs are
# masked. 1024 keys hold a list of 512, and what enters it meanwhile, in one block.
_TORCH: Final = Row(
    256,
    forward=Shape(128, 1024),
    backward_query=Shape(128, 1024),
    backward_gathered=Shape(128, 1024),
    backward_contiguous=Shape(128, 1024),
)
# Triton's interpreter on a CPU: the smallest tiles, so that short tests cross many tile edges.
_INTERPRETER: Final = Row(
    256,
    forward=Shape(32, 16),
    backward_query=Shape(16, 16),
    backward_gathered=Shape(16, 16),
    backward_contiguous=Shape(16, 16),
    segment=64,
)

# Targets of a family use the entry with the highest number that is not above theirs.
_CUDA: Final[dict[int, tuple[Row, ...]]] = {
    80: (_WIDE_64, _WIDE_128, _WIDE_256),
    86: (_SMALL_64, _SMALL_128, _SMALL_256),
    90: (_WIDE_64, _HOPPER_128, _WIDE_256),
    100: (_WIDE_64, _WIDE_128, _WIDE_256),
    120: (_SMALL_64, _SMALL_128, _SMALL_256),
}
_CDNA: Final = (_CDNA_64, _CDNA_128, _CDNA_256)
_SINGLE: Final = (_SINGLE_64, _SINGLE_256)


def rows_for(backend: BackendName, target: str, dtype: DtypeName) -> tuple[Row, ...]:
    """The rows of a target for a dtype, by ascending head dim.

    Raises BackendError for a target that the backend cannot run on.
    """
    if backend == "torch":
        return (_TORCH,)
    if target == "cpu":
        return (_INTERPRETER,)
    cuda = re.fullmatch(r"sm_(\d{2,3})[a-z]?", target)
    if cuda and int(cuda[1]) >= min(_CUDA):
        rows = _CUDA[max(number for number in _CUDA if number <= int(cuda[1]))]
        return _SINGLE if dtype == "float32" else rows
    if re.fullmatch(r"gfx[0-9a-f]{3,4}", target):
        return _SINGLE if dtype == "float32" else _CDNA
    raise BackendError(
        f"backend 'triton' has no schedule for target {target!r}: expected 'cpu', 'sm_<nn>' from "
        f"sm_{min(_CUDA)} on, or an AMD 'gfx<nnn>'"
    )


def row_for(backend: BackendName, target: str, dtype: DtypeName, head_dim: int) -> Row:
    """The row for a head dim padded to a power of two; BackendError if it is too wide."""
    rows = rows_for(backend, target, dtype)
    for row in rows:
        if head_dim <= row.head_dim:
            return row
    raise BackendError(
        f"backend {backend!r} on target {target!r}: expected a head dim of at most "
        f"{rows[-1].head_dim}, found {head_dim}"
    )
