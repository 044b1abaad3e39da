"""Every environment variable that attncomp reads, typed, each declared once.

A knob is read when it is needed, not at import, so that a program may set it at any time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import platformdirs

from attncomp.errors import OptionError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob(Generic[T]):
    """One environment variable.

    `parse` turns its text into a value and raises ValueError for a text that is none; `expected`
    says in words what it takes; `default` gives the value where the variable is not set.
    """

    name: str
    parse: Callable[[str], T]
    default: Callable[[], T]
    expected: str
    doc: str

    def read(self) -> T:
        """The value at this moment; OptionError if the variable holds a text that is none."""
        text = os.environ.get(self.name)
        if text is None:
            return self.default()
        try:
            return self.parse(text)
        except ValueError as error:
            raise OptionError(
                subject=f"environment variable {self.name}",
                expected=self.expected,
                found=repr(text),
            ) from error


_FLAGS: Final = {"0": False, "1": True}
BACKENDS: Final = ("triton", "torch", "reference")


def _parse_flag(text: str) -> bool:
    if text not in _FLAGS:
        raise ValueError(text)
    return _FLAGS[text]


def _parse_directory(text: str) -> Path:
    if not text:
        raise ValueError("an empty path")
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError as error:  # no home directory is known for `~name`
        raise ValueError(str(error)) from error
    if path.exists() and not path.is_dir():
        raise ValueError("not a directory")
    return path


def _parse_backend(text: str) -> str | None:
    if text not in BACKENDS:
        raise ValueError(text)
    return text


CACHE_DIR: Final[Knob[Path]] = Knob(
    name="ATTNCOMP_CACHE_DIR",
    parse=_parse_directory,
    default=lambda: Path(platformdirs.user_cache_dir("attncomp", appauthor=False)),
    expected="a directory, or a path where one can be created",
    doc="where generated kernels are kept between processes",
)
CACHE: Final[Knob[bool]] = Knob(
    name="ATTNCOMP_CACHE",
    parse=_parse_flag,
    default=lambda: True,
    expected="0 or 1",
    doc="0 keeps nothing between processes: kernels go to a temporary directory of this one",
)
BACKEND: Final[Knob[str | None]] = Knob(
    name="ATTNCOMP_BACKEND",
    parse=_parse_backend,
    default=lambda: None,
    expected=", ".join(BACKENDS[:-1]) + f" or {BACKENDS[-1]}",
    doc="the backend of patterns compiled without one; unset: by the device of the tensors",
)


def knobs() -> tuple[Knob[Path] | Knob[bool] | Knob[str | None], ...]:
    """All knobs, in the order of their declaration."""
    return (CACHE_DIR, CACHE, BACKEND)
