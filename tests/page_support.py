"""Pages of Markdown whose code runs: README, CONTRIBUTING and those of `docs/`.

Python blocks of a page run in order in one namespace. Commands of console blocks run and print what
stands below them. Blocks of attn with a title are files beside which all of that happens.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click.testing
import torch

from attncomp import cli

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
LANGUAGES = {"python", "console", "bash", "attn"}


@dataclass(frozen=True)
class Block:
    """A fenced block; title: the name of the file that it shows, empty for none."""

    language: str
    title: str
    text: str


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The blocks of a page, all or those in a language; one in an unknown language fails."""
    found = [Block(*parts) for parts in BLOCK.findall(read(page))]
    assert {block.language for block in found} <= LANGUAGES
    # What the expression misses, such as a fence with an attribute, would run nowhere.
    assert 2 * len(found) == len(re.findall("^```", read(page), re.MULTILINE))
    return [block for block in found if language in (None, block.language)]


def inspect(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output, error output included, of attncomp-inspect."""
    result = click.testing.CliRunner().invoke(cli.main, arguments, prog_name="attncomp-inspect")
    return result.exit_code, result.output


def write_files(page: str) -> None:
    """Puts the files that a page shows into the working directory."""
    for block in blocks(page, "attn"):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")


def run_python(page: str, seed: int) -> None:
    """Runs the Python of a page, with `seed` for torch's random numbers."""
    namespace: dict[str, object] = {"__name__": page}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, block in enumerate(blocks(page, "python")):
            exec(compile(block.text, f"{page}, Python block {number}", "exec"), namespace)


def check_consoles(page: str, *, update: bool) -> None:
    """Compares what the commands of a page print with the page, or writes it there."""
    for block in blocks(page, "console"):
        commands = [line for line in block.text.splitlines() if line.startswith("$ ")]
        found = "".join(f"{command}\n{output_of(command)}" for command in commands)
        if update:
            old, new = (f"```console\n{text}```\n" for text in (block.text, found))
            (ROOT / page).write_text(read(page).replace(old, new), encoding="utf-8")
        else:
            hint = "if the change is meant: pytest --update-golden tests/test_docs.py"
            assert block.text == found, hint


def output_of(command: str) -> str:
    """What a command prints; its exit code is that of an error, of a found difference, or 0."""
    program, *arguments = shlex.split(command.removeprefix("$ "))
    assert program == "attncomp-inspect"
    code, output = inspect(arguments)
    differs = re.search("^(wrong|would reformat) ", output, re.MULTILINE)
    assert code == (2 if output.startswith("error: ") else 1 if differs else 0), output
    return output
