"""Fills the pages with what attncomp itself says at build time; nothing of it is committed.

A line of a page that is one of these comments becomes what it names:

    <!-- catalogue -->                    every primitive and shipped pattern, with pictures
    <!-- picture PATTERN -->              the picture of a pattern without tensors of integers
    <!-- output "COMMAND" -->             a command of attncomp-inspect and all that it prints
    <!-- output "COMMAND" "FROM" "TO" --> of its output, the lines from one that has FROM to the
                                          next one that has TO
    <!-- begin FILE.json ... -->          the tables of benchmarks/readme_table.py; ends at
                                          <!-- end -->
    <!-- when FILE.json -->               what follows, if there is the file; ends at
                                          <!-- end when -->

Anything that does not hold, such as lines that are no longer there, fails the build.
"""

from __future__ import annotations

import functools
import hashlib
import html
import importlib.util
import re
import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click.testing
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from attncomp import cli
from attncomp.api import compile as compile_pattern
from attncomp.frontend.catalog import Primitive, Signature
from attncomp.frontend.expand import Definition
from attncomp.frontend.library import shipped
from attncomp.frontend.modifiers import MODIFIERS, ModifierRow
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import PRIMITIVES
from attncomp.inspection.catalogue import catalogue_sections, parameter_text
from attncomp.inspection.section import Section
from attncomp.pictures.figure import svg
from attncomp.pictures.picture import Picture
from attncomp.pictures.request import pictured

ROOT = Path(__file__).parent.parent
_MARKER = re.compile(r"^<!-- (?!begin |end )(\w+) ?(.*?) -->$", re.MULTILINE)
_WHEN = re.compile(r"^<!-- when (\S+) -->\n(.*?)^<!-- end when -->\n", re.DOTALL | re.MULTILINE)
# GitHub's tables need `a \| b` for the code a | b, this site's show the backslash.
_CODE_IN_TABLE = re.compile(r"^\|.*\|$", re.MULTILINE)
_TABLE_MARKER = re.compile(r"^<!-- (?:begin .*|end) -->$", re.MULTILINE)
_KINDS = {"Primitives": Primitive, "Modifiers": ModifierRow, "Shipped patterns": Definition}
# Of explain(), what a reader of the reference asks for.
_FACTS = {"keys": "keys visited", "time": "time", "generation": "generation"}

AddPicture = Callable[[str, Picture], str]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with every marker replaced; pictures become files beside it."""

    def add(name: str, picture: Picture) -> str:
        path = f"pictures/{name}.svg"
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, content=svg(picture)))
        return f"![{html.escape(picture.caption)}]({path}){{ width=420 loading=lazy }}"

    return filled(markdown, add)


def filled(markdown: str, add: AddPicture) -> str:
    """The text with every marker replaced; `add` takes a picture and returns its Markdown.

    Raises PluginError for a marker that nothing is known of.
    """
    fill: dict[str, Callable[[str], str]] = {
        "catalogue": lambda _: catalogue(add),
        "picture": lambda pattern: pattern_picture(pattern, add),
        "output": lambda words: output(*shlex.split(words)),
    }

    def replaced(match: re.Match[str]) -> str:
        if match[1] not in fill:
            raise PluginError(f"expected one of {', '.join(fill)} or begin, found {match[0]!r}")
        return fill[match[1]](match[2])

    markdown = _WHEN.sub(lambda match: match[2] if (ROOT / match[1]).exists() else "", markdown)
    markdown = _MARKER.sub(replaced, markdown)
    if "<!-- begin " in markdown:
        markdown = _TABLE_MARKER.sub("\n", readme_table().rendered(markdown, ROOT))
    return _CODE_IN_TABLE.sub(lambda match: match[0].replace("\\|", "|"), markdown)


def output(command: str, first: str | None = None, last: str | None = None) -> str:
    """A command with all of its output, or the lines of the output from `first` to `last`.

    Raises PluginError if the command fails or a line is not there.
    """
    printed = _printed(command)
    if first is None or last is None:
        return f"```console\n$ {command}\n{printed}```\n"
    lines = printed.splitlines()
    starts = [number for number, line in enumerate(lines) if first in line]
    ends = [n for n, line in enumerate(lines) if last in line and starts and n >= starts[0]]
    if not ends:
        raise PluginError(f"no lines from {first!r} to {last!r} in the output of {command!r}")
    excerpt = textwrap.dedent("\n".join(lines[starts[0] : ends[0] + 1]))
    return f"```python\n{excerpt}\n```\n"


@functools.cache
def _printed(command: str) -> str:
    """What a command of attncomp-inspect that succeeds prints."""
    program, *arguments = shlex.split(command)
    if program != "attncomp-inspect":
        raise PluginError(f"{command!r} is no command of attncomp-inspect")
    result = click.testing.CliRunner().invoke(cli.main, arguments, prog_name=program)
    if result.exit_code != 0:
        raise PluginError(f"{command!r} failed: {result.output}")
    return str(result.output)


def pattern_picture(pattern: str, add: AddPicture) -> str:
    """The picture of a pattern, drawn at a length that shows its sizes."""
    name = hashlib.sha256(pattern.encode()).hexdigest()[:12]
    return add(name, pictured(parse(pattern), _length(pattern)))


def _length(pattern: str) -> int:
    return max(16, 2 * max((int(number) for number in re.findall(r"\d+", pattern)), default=0))


def catalogue(add: AddPicture) -> str:
    """The reference: overviews, then a section for each thing that the catalogue explains."""
    sections = catalogue_sections(None)
    rows = [_row(section) for section in sections]
    parts = []
    for heading, kind in _KINDS.items():
        chosen = [(r, s) for r, s in zip(rows, sections, strict=True) if isinstance(r, kind)]
        parts += [f"## {heading}", _overview([row for row, _ in chosen])]
        parts += [_entry(row, section.picture, add) for row, section in chosen]
    others = [section for row, section in zip(rows, sections, strict=True) if row is None]
    if others:
        parts += ["## Forms", *(_other(section, add) for section in others)]
    return "\n\n".join(parts) + "\n"


def _row(section: Section) -> Signature | None:
    """What a section of the catalogue is about, if that has a signature."""
    name = section.file.removesuffix(".txt")
    row = PRIMITIVES.get(name) or MODIFIERS.get(name) or shipped().find(name)
    return row if row is not None and row.signature == section.title else None


def _other(section: Section, add: AddPicture) -> str:
    """What has a section in the catalogue but no signature."""
    shown = section.lead if section.picture is not None else section.text
    parts = [f"### `{section.title}`", f"```text\n{shown.rstrip()}\n```"]
    if section.picture is not None:
        parts.append(add(section.file.removesuffix(".txt"), section.picture))
    return "\n\n".join(parts)


def _overview(rows: list[Signature]) -> str:
    """One line a pattern, with a link to its section."""
    lines = ["| pattern | |", "| --- | --- |"]
    for row in rows:
        summary = _linked(row.doc.split("\n\n")[0].replace("\n", " ")).replace("|", "\\|")
        lines.append(f"| [`{row.signature}`](#{_anchor(row)}) | {summary} |")
    return "\n".join(lines)


def _entry(row: Signature, picture: Picture | None, add: AddPicture) -> str:
    """One pattern: signature, meaning, parameters, what it costs, what it is made of, a picture."""
    parts = [f"### `{row.signature}` {{ #{_anchor(row)} }}", _linked(row.doc)]
    if row.parameters:
        lines = [f"| `{p.name}` | {parameter_text(p)} |" for p in row.parameters]
        parts.append("\n".join(["| parameter | |", "| --- | --- |", *lines]))
    if not isinstance(row, ModifierRow):
        parts.append(_facts(row))
    if isinstance(row, Definition):
        parts.append(f"```attn\n{_definition_text(row)}\n```")
    if picture is not None:
        parts.append(add(row.name, picture))
    return "\n\n".join(parts)


def _facts(row: Signature) -> str:
    """Tensors and costs of a call: a primitive's example, a definition with its defaults."""
    call = row.example or row.name if isinstance(row, Primitive) else row.name
    pattern = compile_pattern(call)
    said = [line.split(maxsplit=1) for line in pattern.explain().splitlines()]
    tensors = ", ".join(f"`{name}` {shape}" for name, shape in pattern.shapes.items())
    lines = [f"| tensors of the call | {tensors or 'q, k and v alone'} |"]
    lines += [f"| {_FACTS[label]} | {text} |" for label, text in said if label in _FACTS]
    return "\n".join([f"| `{call}` | |", "| --- | --- |", *lines])


def _definition_text(row: Definition) -> str:
    """A definition as its file has it, from `pattern` to the empty line behind it."""
    text = row.span.source.text
    start = text.rindex("pattern", 0, row.span.start)
    return text[start:].split("\n\n", 1)[0].rstrip()


def _anchor(row: Signature) -> str:
    return row.name.replace("_", "-")


def _linked(text: str) -> str:
    """A docstring with its papers linked."""
    return re.sub(r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


@functools.cache
def readme_table() -> ModuleType:
    """The script that writes the measured tables of README."""
    path = ROOT / "benchmarks" / "readme_table.py"
    spec = importlib.util.spec_from_file_location("readme_table", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
