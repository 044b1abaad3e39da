"""All patterns that a text may name: what they mean, their parameters, a small picture each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from attncomp.api import compile as compile_pattern
from attncomp.errors import printable
from attncomp.frontend.ast import Expr
from attncomp.frontend.catalog import (
    MAX_INTEGER,
    PRIMITIVES,
    REQUIRED,
    Parameter,
    Signature,
    value_text,
)
from attncomp.frontend.library import Library, shipped
from attncomp.frontend.parser import parse
from attncomp.frontend.specfile import Example
from attncomp.frontend.syntax import Reference
from attncomp.inspection.drawing import as_characters
from attncomp.inspection.section import Section
from attncomp.pictures.request import pictured

_LENGTH = 16  # of a thumbnail: all examples show their sizes in it


def catalogue_sections(
    library: Library | None, length: int | None = None, seed: int = 0
) -> list[Section]:
    """A section a pattern: the primitives, the shipped definitions, then those of `library`.

    length: queries and keys of the thumbnails. They are of a primitive's `example`, or of the first
    example of a definition's file that calls it; a definition without any has none. Raises
    PatternError for an example that is none.
    """
    size = _LENGTH if length is None else length
    sections = []
    for row in PRIMITIVES.values():
        example = row.example or row.name
        sections.append(_section(row, "a primitive", example, parse(example), size, seed))
    for source in (shipped(), library):
        sections += [] if source is None else _definitions(source, size, seed)
    return sections


def _definitions(library: Library, length: int, seed: int) -> Iterator[Section]:
    for name in library:
        row = library.definition(name)
        example = _example(library.examples, name)
        text, expr = ("", None) if example is None else (example.text, example.expand())
        yield _section(row, f"from {row.span.source.name}", text, expr, length, seed)


def _example(examples: Sequence[Example], name: str) -> Example | None:
    """The first example that is a call of the definition."""
    for example in examples:
        if isinstance(example.pattern, Reference) and example.pattern.name.text == name:
            return example
    return None


def _section(
    row: Signature, origin: str, example: str, expr: Expr | None, length: int, seed: int
) -> Section:
    lines = [*row.doc.splitlines(), *map(_parameter_line, row.parameters), f"({origin})"]
    lead = "".join(f"{printable(line)}\n" for line in lines)
    file = Path(row.name).with_suffix(".txt").name
    if expr is None:
        return Section(title=row.signature, text=lead, file=file)
    needed = compile_pattern(expr).tensors
    picture = pictured(expr, needed, length, seed=seed)
    scores = f", {', '.join(needed)} standard normal" if needed else ""
    call = printable(" ".join(example.split()))
    return Section(
        title=row.signature,
        lead=f"{lead}\n{call}: {length} queries (down) by {length} keys (right){scores}\n",
        text=as_characters(picture.gate),
        file=file,
        picture=picture,
    )


def _parameter_line(parameter: Parameter) -> str:
    """`  lag: int, at least 0, default 0. Positions by which selection trails the query.`"""
    parts = [parameter.type.__name__]
    if parameter.minimum is not None:
        parts.append(f"at least {parameter.minimum}")
    if parameter.maximum is not None and parameter.maximum != MAX_INTEGER:
        parts.append(f"at most {parameter.maximum}")
    if parameter.choices:
        parts.append("one of " + ", ".join(map(value_text, parameter.choices)))
    if parameter.default is not REQUIRED:
        parts.append(f"default {value_text(parameter.default)}")
    doc = f". {parameter.doc}" if parameter.doc else ""
    return f"  {parameter.name}: {', '.join(parts)}{doc}"
