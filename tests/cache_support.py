"""What tests of the source cache share."""

from __future__ import annotations

from pathlib import Path

SOURCE = "value = 1\n"


def must_not_render() -> str:
    raise AssertionError("rendered again")


def leftovers(directory: Path) -> list[str]:
    """Names of all files but generated sources and locks."""
    names = (path.name for path in directory.rglob("*") if path.is_file())
    return [name for name in names if name != ".lock" and not name.endswith(".py")]
