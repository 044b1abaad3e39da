"""`attncomp-inspect` within the process of a test, and on a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import click.testing

from attncomp import cli

ROOT = Path(__file__).parent.parent


def invoke(*arguments: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli.main, arguments, prog_name="attncomp-inspect")


def output(*arguments: str) -> str:
    """Standard output of a run that succeeds and says nothing else."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def diagnostic(*arguments: str) -> str:
    """Standard error of a run that fails with exit code 2 before it prints anything."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def clean_environment(**changes: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "COLORTERM"):
        if name not in changes:
            environment.pop(name, None)
    return environment


def on_a_terminal(*arguments: str) -> str:
    """What the command writes to a terminal of 256 colours and 40 columns."""
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "attncomp.cli", *arguments]
    environment = clean_environment(TERM="xterm-256color", COLUMNS="40", PYTHONIOENCODING="utf-8")
    with subprocess.Popen(command, stdout=writer, env=environment) as process:
        os.close(writer)
        shown = b""
        while chunk := _read(reader):
            shown += chunk
        assert process.wait(timeout=120) == 0
    os.close(reader)
    return shown.decode().replace("\r\n", "\n")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:  # Linux: the other side is closed
        return b""
