"""What is printed piece by piece, or written file by file."""

from __future__ import annotations

from dataclasses import dataclass

from attncomp.pictures.picture import Picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A piece of output: its heading, its text, how to highlight it, and the file it makes.

    picture: what terminals with colours show in place of the text. lead: lines before either.
    """

    title: str
    lead: str = ""
    text: str
    lexer: str = "text"
    file: str
    picture: Picture | None = None
