"""The one way to write a spec file: blanks, line ends and quotes; what it says stays."""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import assert_never

from attncomp.errors import Source
from attncomp.frontend.grouping import (
    DefinitionLayout,
    DocLayout,
    ExampleLayout,
    ImportLayout,
    Statement,
    Statements,
)
from attncomp.frontend.layout import INDENT, Node, Writer
from attncomp.frontend.reader import read_file
from attncomp.frontend.specfile import parse_file


def format_text(text: str, source_name: str = "<spec>") -> str:
    """A spec file in canonical form, which formats to itself; its items and comments stay.

    Raises PatternError for a file with a mistake, as far as the file alone can tell, and for one
    whose canonical form is beyond the limits of a text.
    """
    source = Source(source_name, text)
    parse_file(source)
    formatted = "".join(_lines(Statements(source)))
    read_file(Source(source_name, formatted))
    return formatted


def _lines(reader: Statements) -> Iterator[str]:
    """The text, statement by statement."""
    writer = Writer(reader.gaps)
    before: Statement | None = None
    for number, (start, statement) in enumerate(
        zip(reader.starts, (*reader.statements, None), strict=True)
    ):
        comments = reader.gaps[start]
        if before is not None:
            if comments and not comments[0].own_line:
                yield f"  {comments[0].text}"
            yield "\n"
        comments = [comment for comment in comments if comment.own_line]
        if before is not None and (comments or statement is not None):
            yield "" if _are_close(before, statement, number) else "\n"
        for comment in comments:
            is_last = statement is None and comment is comments[-1]
            yield comment.text + ("\n\n" if comment.blank and not is_last else "\n")
        if statement is not None:
            _write(statement, writer)
            yield writer.take()
        before = statement


def _are_close(before: Statement, statement: Statement | None, number: int) -> bool:
    """Whether no blank line stands between; `number` counts the statements before the second."""
    if isinstance(before, DocLayout):
        return number > 1 and isinstance(statement, DefinitionLayout)
    return isinstance(before, ImportLayout) and isinstance(statement, ImportLayout)


def _write(statement: Statement, writer: Writer) -> None:
    match statement:
        case DocLayout():
            writer.write(statement.node.flat)
        case ImportLayout():
            _write_import(statement, writer)
        case DefinitionLayout():
            writer.node(statement.head, 0, len(" = ") + writer.opening(statement.body))
            writer.write(" = ")
            writer.body(statement.body, 0)
        case ExampleLayout():
            _write_example(statement, writer)
        case _:
            assert_never(statement)


def _write_import(statement: ImportLayout, writer: Writer) -> None:
    flat = f"{statement.module.flat} {', '.join(name.flat for name in statement.names)}"
    if writer.fits(len(flat)) and not writer.commented(
        statement.module.start + 1, statement.names[-1].end
    ):
        writer.write(flat)
        return
    writer.write(statement.module.flat + " ")
    _write_listed(statement.names, writer, INDENT, 0)


def _write_example(statement: ExampleLayout, writer: Writer) -> None:
    rows = statement.picture
    indent = " " * INDENT
    picture = (
        f' = "{rows[0]}"'
        if len(rows) == 1
        else "\n".join([' = """', *(row and indent + row for row in rows), indent + '"""'])
    )
    tail = len(picture.split("\n")[0])
    writer.write("example ")
    if not statement.given:
        writer.body(statement.body, tail)
    else:
        _write_given(statement, writer, tail)
    writer.write(picture)


def _write_given(statement: ExampleLayout, writer: Writer, tail: int) -> None:
    """The pattern of an example and its tensors, on lines of their own if need be."""
    node = statement.body.node
    flat = f"{node.flat} given {', '.join(tensor.flat for tensor in statement.given)}"
    is_commented = writer.commented(node.start, statement.given[-1].end)
    if writer.fits(len(flat) + tail) and not is_commented:
        writer.write(flat)
        return
    writer.body(statement.body, 0)
    writer.end_line(statement.given[0].start - 1, INDENT)
    writer.write("given ")
    _write_listed(statement.given, writer, 2 * INDENT, tail)


def _write_listed(nodes: tuple[Node, ...], writer: Writer, indent: int, tail: int) -> None:
    """Nodes between commas, one a line; the first one continues the line."""
    first, *rest = nodes
    writer.node(first, indent - INDENT, tail if not rest else 1)
    for node in rest:
        writer.write(",")
        writer.end_line(node.start, indent)
        writer.node(node, indent, tail if node is rest[-1] else 1)
