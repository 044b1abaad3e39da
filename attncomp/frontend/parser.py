"""Text to syntax tree: reads a pattern and replaces calls of definitions by what they stand for."""

from __future__ import annotations

from attncomp.errors import Source
from attncomp.frontend.ast import Expr
from attncomp.frontend.expand import expand
from attncomp.frontend.library import Library, TextScope
from attncomp.frontend.reader import read_pattern


def parse(text: str, source_name: str = "<spec>", library: Library | None = None) -> Expr:
    """The syntax tree of a pattern, made of primitives.

    Names are those of the primitives, of `library` and of the shipped library, in this order.
    Raises PatternError (one subclass per mistake, with a span in `source_name`), and TypeError
    if `text` is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected the pattern as a str, found {type(text).__name__}")
    return expand(read_pattern(Source(source_name, text)), TextScope(library))
