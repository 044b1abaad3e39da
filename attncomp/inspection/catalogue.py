"""All patterns that a text may name: what they mean, their parameters, a small picture each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from attncomp.api import compile as compile_pattern
from attncomp.errors import CallError, ExampleError, printable
from attncomp.frontend.catalog import (
    MAX_INTEGER,
    REQUIRED,
    Parameter,
    Signature,
    value_text,
)
from attncomp.frontend.library import Library, shipped
from attncomp.frontend.modifiers import MODIFIERS
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import PRIMITIVES
from attncomp.frontend.specfile import Example
from attncomp.frontend.syntax import Reference
from attncomp.inspection.drawing import as_characters
from attncomp.inspection.section import Section
from attncomp.inspection.specs import tensors_of
from attncomp.ir.tables import LOGITS
from attncomp.pictures.picture import Picture
from attncomp.pictures.request import pictured

_LENGTH = 16  # of a thumbnail: all examples show their sizes in it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What makes patterns but has no arguments that a table could list."""

    title: str
    doc: str
    example: str

    def section(self, length: int, seed: int) -> Section:
        """Its text and the picture of its example."""
        picture = pictured(parse(self.example), length, seed=seed)
        return Section(
            title=self.title,
            lead=f"{self.doc}\n\n{picture.caption}\n",
            text=as_characters(picture.gate),
            file=f"{self.title.split('(')[0].split('{')[0]}.txt",
            picture=picture,
        )


_FORMS = (
    _Form(
        title="where(predicate)",
        doc="The pairs that meet a predicate: comparisons of integers, joined by and, or, not.\n"
        "Integers are the positions q and k, the head h, the row b of the batch, the number n of\n"
        "keys, entries of tensors of the call, as in segment[b, k], and + - * // % of integers.",
        example="where((q - k) % 3 == 0 and q - k < 8 and k <= q)",
    ),
    _Form(
        title="heads{slice -> pattern, ...}",
        doc="A pattern for each group of query heads, by half-open slices as Python has them.",
        example="heads{0:4 -> window(3), 4: -> causal}",
    ),
)


def catalogue_sections(
    library: Library | None, length: int | None = None, seed: int = 0
) -> list[Section]:
    """A section a pattern: primitives, `where` and `heads`, modifiers, shipped definitions, then
    those of `library`.

    length: queries and keys of the drawings. They are of a primitive's `example`, or of the first
    example of a definition's file that calls it; a definition without any has none. One that reads
    integer tensors or logits is drawn as large as those of its example are.

    Raises PatternError for an example that is none.
    """
    size = _LENGTH if length is None else length
    sections = []
    for row in PRIMITIVES.values():
        call = row.example or row.name
        given = {name: torch.tensor(entries) for name, entries in row.given.items()}
        # Tensors that are given have the length of a thumbnail.
        length = _LENGTH if given else size
        picture = pictured(parse(call), length, tensors=given, seed=seed, name=call)
        sections.append(_section(row, "a primitive", picture))
    sections += [form.section(size, seed) for form in _FORMS]
    sections += [_section(row, "a modifier", None) for row in MODIFIERS.values()]
    for source in (shipped(), library):
        sections += [] if source is None else _definitions(source, size, seed)
    return sections


def _definitions(library: Library, length: int, seed: int) -> Iterator[Section]:
    for name in library:
        row = library.definition(name)
        origin = f"from {row.span.source.name}"
        example = _example(library.examples, name)
        picture = None if example is None else _picture(example, length, seed)
        yield _section(row, origin, picture)


def _example(examples: Sequence[Example], name: str) -> Example | None:
    """The first example that is a call of the definition."""
    for example in examples:
        if isinstance(example.pattern, Reference) and example.pattern.name.text == name:
            return example
    return None


def _picture(example: Example, length: int, seed: int) -> Picture:
    expr = example.expand()
    pattern = compile_pattern(expr)
    name = printable(" ".join(example.text.split()))
    if not pattern.integer_tensors and LOGITS not in example.tensors:
        return pictured(expr, length, seed=seed, name=name)
    try:
        given = tensors_of(example, pattern)
        return pictured(expr, *example.sides, given, seed=seed, name=name)
    except CallError as error:
        raise ExampleError(example.span, reason=str(error)) from error


def _section(row: Signature, origin: str, picture: Picture | None) -> Section:
    parameters = [_parameter_line(parameter) for form in row.forms for parameter in form]
    lines = [*row.doc.splitlines(), *parameters, f"({origin})"]
    lead = "".join(f"{printable(line)}\n" for line in lines)
    if picture is None:
        return Section(title=row.signature, text=lead, file=f"{row.name}.txt")
    return Section(
        title=row.signature,
        lead=f"{lead}\n{picture.caption}\n",
        text=as_characters(picture.gate),
        file=f"{row.name}.txt",
        picture=picture,
    )


def _parameter_line(parameter: Parameter) -> str:
    """`  lag: int, at least 0, default 0. Positions by which selection trails the query.`"""
    return f"  {parameter.name}: {parameter_text(parameter)}"


def parameter_text(parameter: Parameter) -> str:
    """The type, what it may be and what it means: `int, at least 1. Keys selected for a query.`"""
    parts = [parameter.type.__name__]
    if parameter.minimum is not None:
        parts.append(f"at least {parameter.minimum}")
    if parameter.above is not None:
        parts.append(f"more than {parameter.above}")
    if parameter.maximum is not None and parameter.maximum != MAX_INTEGER:
        parts.append(f"at most {parameter.maximum}")
    if parameter.choices:
        parts.append("one of " + ", ".join(map(value_text, parameter.choices)))
    if parameter.default is not REQUIRED:
        parts.append(f"default {value_text(parameter.default)}")
    doc = f". {parameter.doc}" if parameter.doc else ""
    return ", ".join(parts) + doc
