"""What a kernel is specialised for, and the schedule that a target gets for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from typing_extensions import assert_never

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


Part: TypeAlias = Literal["forward", "backward_query", "backward_gathered", "backward_contiguous"]
PARTS: Final[tuple[Part, ...]] = (
    "forward",
    "backward_query",
    "backward_gathered",
    "backward_contiguous",
)
"""The kernels that have a tile of their own in a schedule."""
MIN_SIDE: Final = 16
"""The smallest side of a matrix product on tensor cores."""


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

    def tile(self, part: Part) -> Tile:
        """The tile of a part."""
        match part:
            case "forward":
                return self.forward
            case "backward_query":
                return self.backward_query
            case "backward_gathered":
                return self.backward_gathered
            case "backward_contiguous":
                return self.backward_contiguous
            case _:
                assert_never(part)

    def heads(self, part: Part) -> int:
        """How many query heads a tile of a part has."""
        return 1 if part == "backward_contiguous" else self.packed_heads

    def least_queries(self, part: Part) -> int:
        """The fewest query positions of a part's tile: its sides are 16 or more.

        Masks of query-major tiles are spread over heads 8 positions at a time; the columns of
        gathered ones have several heads at fewer positions.
        """
        return max(1, MIN_SIDE // self.heads(part)) if part == "backward_gathered" else MIN_SIDE

    def with_tile(self, part: Part, tile: Tile) -> Schedule:
        """The schedule with another tile for a part."""
        match part:
            case "forward":
                return replace(self, forward=tile)
            case "backward_query":
                return replace(self, backward_query=tile)
            case "backward_gathered":
                return replace(self, backward_gathered=tile)
            case "backward_contiguous":
                return replace(self, backward_contiguous=tile)
            case _:
                assert_never(part)

    @property
    def text(self) -> str:
        """The schedule in one word, as `schedule_from` reads it."""
        tiles = [
            "x".join(map(str, (tile.queries, tile.keys, tile.warps, tile.stages)))
            for tile in map(self.tile, PARTS)
        ]
        return "/".join([str(self.packed_heads), str(self.segment), *tiles])


def schedule_from(text: str) -> Schedule:
    """The schedule of a text; ValueError for what is none."""
    packed, segment, *words = text.split("/")
    tiles = [Tile(**dict(zip(_SIZES, map(int, word.split("x")), strict=True))) for word in words]
    named = dict(zip(PARTS, tiles, strict=True))
    return Schedule(
        packed_heads=int(packed),
        segment=int(segment),
        forward=named["forward"],
        backward_query=named["backward_query"],
        backward_gathered=named["backward_gathered"],
        backward_contiguous=named["backward_contiguous"],
    )


_SIZES: Final = ("queries", "keys", "warps", "stages")
