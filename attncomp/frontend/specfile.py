"""One spec file: its definitions with their signatures and docs, its imports, its examples.

Everything that the file alone can tell is checked here; what its imports mean, in `library`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from attncomp.errors import (
    DuplicateNameError,
    ExampleError,
    Note,
    ParameterOrderError,
    PictureError,
    ShadowedPrimitiveError,
    Source,
    Span,
    StrayDocError,
    UnknownPatternError,
    UnknownTypeError,
    quoted,
    suggest,
)
from attncomp.frontend import primitives
from attncomp.frontend.ast import Expr
from attncomp.frontend.bounds import bounds_of
from attncomp.frontend.catalog import REQUIRED, Parameter, Primitive, Value, name_hint
from attncomp.frontend.expand import Definition, bound_argument, evaluate, expand
from attncomp.frontend.modifiers import modifier_hint
from attncomp.frontend.reader import read_file
from attncomp.frontend.syntax import (
    ArgumentSyntax,
    DefinitionSyntax,
    Doc,
    ExampleSyntax,
    Given,
    Import,
    Item,
    Name,
    ParameterSyntax,
    Syntax,
    TensorLiteral,
)

_TYPES: Final[Mapping[str, type[Value]]] = MappingProxyType(
    {"int": int, "float": float, "str": str, "bool": bool}
)
_LINE: Final = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n|\Z)")
_GATES: Final = frozenset("#.123456789")


@dataclass(slots=True)
class FileScope:
    """The names that a file sees: primitives, its own definitions and what it imports."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    imported: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, Name] = field(default_factory=dict)
    elsewhere: Callable[[str], str | None] | None = None  # a hint for a name that is not here

    def find(self, name: Name) -> Primitive | Definition:
        """The pattern of that name; UnknownPatternError if the file sees none."""
        found = primitives.PRIMITIVES.get(name.text) or self.local(name.text)
        if found is None:
            raise UnknownPatternError(name.span, name=quoted(name.text), hint=self._hint(name.text))
        return found

    def local(self, name: str) -> Definition | None:
        """The definition of that name, the file's own or imported."""
        return self.definitions.get(name) or self.imported.get(name)

    def _hint(self, name: str) -> str | None:
        hint = modifier_hint(name)
        if hint is None and self.elsewhere is not None:
            hint = self.elsewhere(name)
        if hint is not None:
            return hint
        known = [*primitives.PRIMITIVES, *self.definitions, *self.imported]
        return name_hint(name, known, "patterns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A call with tensors and the gates it must give: rows of `#` (1), `.` (0), digits (tenths).

    Rows are queries, columns keys, with an empty row between the matrices of heads; `tensors` holds
    a literal a name. `span` is the whole item.
    """

    pattern: Syntax
    scope: FileScope
    tensors: Mapping[str, TensorLiteral]
    picture: tuple[str, ...]
    span: Span

    @property
    def text(self) -> str:
        """The call as written."""
        return self.pattern.span.text

    @property
    def n_heads(self) -> int:
        """How many heads the picture shows."""
        return 1 + self.picture.count("")

    @property
    def sides(self) -> tuple[int, int]:
        """Queries and keys of one head."""
        return (len(self.picture) + 1) // self.n_heads - 1, len(self.picture[0])

    def expand(self) -> Expr:
        """The tree of the call; PatternError where it has none."""
        return expand(self.pattern, self.scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecFile:
    """A file as read. `doc` is its docstring, empty if it has none."""

    source: Source
    doc: str
    definitions: Mapping[str, Definition]
    imports: tuple[Import, ...]
    examples: tuple[Example, ...]
    scope: FileScope

    @property
    def exported(self) -> Mapping[str, Definition]:
        """The definitions that are not private."""
        return {n: d for n, d in self.definitions.items() if not d.is_private}


def parse_file(source: Source) -> SpecFile:
    """A spec file, with its imports not yet in its scope. Raises PatternError for a mistake."""
    items = read_file(source)
    scope = FileScope()
    doc, docs = _docs(items)
    examples: list[Example] = []
    for item in items:
        match item:
            case DefinitionSyntax():
                _check_new(item.name, scope)
                scope.definitions[item.name.text] = _definition(
                    item, docs.get(item.span.start, ""), scope
                )
            case Import():
                for name in item.names:
                    _check_new(name, scope)
                    scope.imports[name.text] = name
            case ExampleSyntax():
                examples.append(_example(item, scope))
            case Doc():
                pass
    return SpecFile(
        source=source,
        doc=doc,
        definitions=scope.definitions,
        imports=tuple(item for item in items if isinstance(item, Import)),
        examples=tuple(examples),
        scope=scope,
    )


def _docs(items: tuple[Item, ...]) -> tuple[str, dict[int, str]]:
    """The file's docstring, and the docs of definitions by their start; StrayDocError for others.

    A file with one public definition documents it.
    """
    first = items[0] if items and isinstance(items[0], Doc) else None
    docs: dict[int, str] = {}
    for doc, following in zip(items, (*items, None)[1:], strict=True):
        if not isinstance(doc, Doc) or doc is first:
            continue
        if not isinstance(following, DefinitionSyntax):
            raise StrayDocError(doc.span)
        docs[following.span.start] = inspect.cleandoc(doc.text)
    text = inspect.cleandoc(first.text) if first is not None else ""
    public = [
        item
        for item in items
        if isinstance(item, DefinitionSyntax) and not item.name.text.startswith("_")
    ]
    if len(public) == 1:
        docs.setdefault(public[0].span.start, text)
    return text, docs


def _check_new(name: Name, scope: FileScope) -> None:
    _check_no_primitive(name)
    known = scope.definitions.get(name.text)
    first = known.span if known is not None else None
    if first is None and name.text in scope.imports:
        first = scope.imports[name.text].span
    if first is not None:
        raise duplicate(name, first)


def duplicate(name: Name, first: Span) -> DuplicateNameError:
    """The error for a name that was given at `first` before."""
    return DuplicateNameError(
        name.span, name=quoted(name.text), notes=(Note("first defined here", first),)
    )


def _check_no_primitive(name: Name) -> None:
    if name.text in primitives.PRIMITIVES:
        raise ShadowedPrimitiveError(name.span, name=quoted(name.text))


def _definition(item: DefinitionSyntax, doc: str, scope: FileScope) -> Definition:
    parameters: list[Parameter] = []
    places: dict[str, Span] = {}
    for written in item.parameters:
        _check_no_primitive(written.name)
        if written.name.text in places:
            raise duplicate(written.name, places[written.name.text])
        parameter = _parameter(written, item.name.text)
        if parameter.default is REQUIRED and parameters and parameters[-1].default is not REQUIRED:
            raise ParameterOrderError(written.span, name=quoted(parameter.name))
        parameters.append(parameter)
        places[parameter.name] = written.name.span
    return Definition(
        name=item.name.text,
        parameters=tuple(parameters),
        doc=doc,
        body=item.body,
        scope=scope,
        span=item.name.span,
        places=MappingProxyType(places),
    )


def _parameter(written: ParameterSyntax, definition: str) -> Parameter:
    kind = _TYPES.get(written.type.text)
    if kind is None:
        close = suggest(written.type.text, _TYPES)
        raise UnknownTypeError(
            written.type.span,
            name=quoted(written.type.text),
            hint=f"did you mean '{close}'?" if close else None,
        )
    minimum, maximum = bounds_of(written, kind)
    parameter = Parameter(name=written.name.text, type=kind, minimum=minimum, maximum=maximum)
    if written.default is None:
        return parameter
    value = evaluate(written.default, None, None)
    argument = bound_argument(ArgumentSyntax(None, written.default, written.default.span), value)
    return replace(parameter, default=parameter.check(definition, argument))


def _example(item: ExampleSyntax, scope: FileScope) -> Example:
    tensors: dict[str, TensorLiteral] = {}
    places: dict[str, Span] = {}
    for given in item.given:
        if given.name.text in places:
            raise duplicate(given.name, places[given.name.text])
        _shape(given, given.value)
        tensors[given.name.text] = given.value
        places[given.name.text] = given.name.span
    return Example(
        pattern=item.pattern,
        scope=scope,
        tensors=MappingProxyType(tensors),
        picture=_picture(item.picture),
        span=item.span,
    )


def _shape(given: Given, value: TensorLiteral) -> tuple[int, ...]:
    """The shape of a tensor; ExampleError for ragged or empty rows and infinite numbers."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExampleError(given.span, reason="its numbers must be finite")
        return ()
    shapes = {_shape(given, part) for part in value}
    if len(shapes) != 1:
        reason = "the rows of its tensor differ in length" if shapes else "its tensor is empty"
        raise ExampleError(given.span, reason=reason)
    return (len(value), *shapes.pop())


def _picture(span: Span) -> tuple[str, ...]:
    """The rows of a picture, blanks around them cut off, "" between two heads."""
    quotes = 3 if span.text[:3] in ('"""', "'''") else 1
    heads: list[list[Span]] = [[]]
    for match in _LINE.finditer(span.source.text, span.start + quotes, span.end - quotes):
        row = match[1].strip()
        if row:
            start = match.start() + match[1].index(row)
            heads[-1].append(Span(span.source, start, start + len(row)))
        elif heads[-1]:
            heads.append([])
    heads = [rows for rows in heads if rows]
    if not heads:
        raise PictureError(span, expected="a row of gates for each query", found="none")
    _check_rows([row for rows in heads for row in rows])
    for rows in heads:
        if len(rows) != len(heads[0]):
            expected = f"{len(heads[0])} rows, as the first head has"
            raise PictureError(rows[0], expected=expected, found=str(len(rows)))
    return tuple("\n\n".join("\n".join(r.text for r in rows) for rows in heads).split("\n"))


def _check_rows(rows: Iterable[Span]) -> None:
    width: int | None = None
    for row in rows:
        for position, character in enumerate(row.text):
            if character not in _GATES:
                place = row.start + position
                raise PictureError(
                    Span(row.source, place, place + 1),
                    expected="'#' for 1, '.' for 0 or a digit for tenths",
                    found=quoted(character),
                )
        if width is not None and len(row.text) != width:
            raise PictureError(
                row, expected=f"{width} gates, as in the rows above", found=str(len(row.text))
            )
        width = len(row.text)
