"""`attncomp-inspect` within the process of a test."""

from __future__ import annotations

import click.testing

from attncomp import cli


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
