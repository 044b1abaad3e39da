"""The hues that tell sweeps apart, on paper and on terminals."""

from __future__ import annotations

from typing import Final, TypeAlias

RGB: TypeAlias = tuple[int, int, int]

# Okabe and Ito's hues for all kinds of colour vision, without black and the yellow that paper
# swallows; neighbours in this order differ most.
_HUES: Final[tuple[RGB, ...]] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
)


def hue(sweep: int) -> RGB:
    """The hue of a sweep by its index; they come round again after six."""
    return _HUES[sweep % len(_HUES)]


def blend(low: RGB, high: RGB, share: float) -> RGB:
    """The colour at `share` of the way from low to high."""
    red, green, blue = (
        round(start + (end - start) * share) for start, end in zip(low, high, strict=True)
    )
    return red, green, blue
