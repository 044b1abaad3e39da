"""Libraries of spec files for tests, and texts to compare their errors with."""

from __future__ import annotations

from textwrap import dedent

from attncomp.errors import Source
from attncomp.frontend.ast import to_text
from attncomp.frontend.library import Library
from attncomp.frontend.parser import parse


def library_of(text: str) -> Library:
    """A library that was never a file."""
    return Library.of(Source("my.attn", text))


def text_of(spec: str, library: Library | None = None) -> str:
    """The canonical text of a pattern."""
    return to_text(parse(spec, library=library))


def drawn(text: str) -> str:
    """What an error draws, written with an indent in a test."""
    return dedent(text).strip("\n")
