"""Sections on a terminal, highlighted, or in a pipe, plain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from attncomp.inspection.drawing import as_blocks, legend
from attncomp.inspection.section import Section
from attncomp.pictures.picture import Picture


class Screen:
    """Standard output: colours and highlighting on a terminal, nothing but the text elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)

    @property
    def coloured(self) -> bool:
        """Whether colours and block characters may be used."""
        return self._console.color_system is not None and self._console.encoding.startswith("utf")

    def show(self, sections: Sequence[Section]) -> None:
        """Print sections; each under its title if there are several."""
        for number, section in enumerate(sections):
            if len(sections) > 1:
                self._title(section.title, first=number == 0)
            click.echo(section.lead, nl=False)
            if section.picture is not None and self.coloured:
                self._picture(section.picture)
            else:
                self._body(section)

    def _title(self, title: str, *, first: bool) -> None:
        blank = "" if first else "\n"
        if self.coloured:
            self._console.print(Text(f"{blank}=== {title} ===", style="bold cyan"))
        else:
            click.echo(f"{blank}=== {title} ===")

    def _picture(self, picture: Picture) -> None:
        blocks, side = as_blocks(picture.gate, picture.sweep, self._console.width)
        if side > 1:
            click.echo(f"a cell shows the largest of {side} x {side} gates")
        self._console.print(blocks, end="")
        self._console.print(legend(picture), end="")

    def _body(self, section: Section) -> None:
        text = section.text.rstrip("\n")
        if self.coloured and section.lexer != "text":
            syntax = Syntax(text, section.lexer, theme="ansi_dark")
            highlighted = syntax.highlight(text)
            highlighted.rstrip()
            self._console.print(highlighted)
        else:
            click.echo(text)


def write_sections(sections: Sequence[Section], directory: Path) -> list[Path]:
    """Write each section to its file in `directory`, which is created; OSError if that fails."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for section in sections:
        path = directory / section.file
        text = f"{section.lead}{section.text}"
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        paths.append(path)
    return paths
