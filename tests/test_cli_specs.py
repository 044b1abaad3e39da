"""`attncomp-inspect` and spec files: which pattern is meant, libraries, checks of examples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_support import diagnostic, invoke, output

import attncomp
from attncomp.frontend.ast import dump
from attncomp.frontend.parser import parse

ROOT = Path(__file__).parent.parent

MINE = """
# what it is for
pattern mine(w: int) = first(4)
  | window(w)  # recent
pattern eight = mine(w=8)
example mine(w=1) = "#"
"""


def test_spec_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.attn"
    file.write_text(MINE, encoding="utf-8")
    shown = dump(parse("first(4) | window(8)")) + "\n"
    assert output(str(file), "--emit", "ast") == shown
    assert output("mine(w=2 * 4)", "--library", str(file), "--emit", "ast") == shown
    assert f"{file}:4:5-14" in output(str(file), "--backend", "torch", "--emit", "source")
    file.write_text("pattern mine = first(4)\n  | windw(8)\n", encoding="utf-8")
    assert diagnostic(str(file)) == (
        "error: unknown pattern 'windw'\n"
        f" --> {file}:2:5\n"
        "  |   | windw(8)\n"
        "  |     ^^^^^ did you mean 'window'?\n"
    )
    file.write_bytes(b"window(8) # caf\xe9")
    assert diagnostic(str(file)) == f"error: cannot read {file}: it is not UTF-8 at byte 15\n"
    missing = tmp_path / "none.attn"
    for arguments in ([str(missing)], [str(missing), "--check"], ["a", "--library", str(missing)]):
        assert diagnostic(*arguments) == (
            f"error: cannot read {missing}: No such file or directory\n"
        )


def test_which_pattern_of_a_spec_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.attn"
    expected = (
        f"error: {file}: expected one pattern that needs no arguments, or the pattern as SPEC and "
        "this file as --library, found "
    )
    file.write_text(MINE + "pattern nine = mine(9)", encoding="utf-8")
    assert diagnostic(str(file)) == expected + "mine(w), eight, nine\n"
    file.write_text("pattern mine(w: int) = window(w)", encoding="utf-8")
    assert diagnostic(str(file)) == expected + "mine(w)\n"
    assert diagnostic(str(file), "--library", str(file)) == (
        f"error: --library: expected a pattern as SPEC, found file {file}\n"
    )


def test_check_of_examples(tmp_path: Path) -> None:
    file = tmp_path / "mine.attn"
    file.write_text(MINE, encoding="utf-8")
    assert output(str(file), "--check") == f"ok     {file}:6  mine(w=1)\n"
    file.write_text(MINE.replace('"#"', '"."'), encoding="utf-8")
    result = invoke(str(file), "--check")
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout == (
        f"wrong  {file}:6  mine(w=1)\n       expected  found\n       .         #  <\n"
    )


FORMATTED = """\
# what it is for
pattern mine(w: int) = first(4) | window(w)  # recent

pattern eight = mine(w=8)

example mine(w=1) = "#"
"""


def test_format(tmp_path: Path) -> None:
    file = tmp_path / "mine.attn"
    file.write_text(MINE, encoding="utf-8")
    file.chmod(0o640)
    link = tmp_path / "link.attn"
    link.symlink_to(file)
    result = invoke("--format", str(link), "--check")
    assert (result.exit_code, result.output) == (1, f"would reformat {link}\n")
    assert file.read_text(encoding="utf-8") == MINE
    assert output("--format", str(link)) == f"reformatted {link}\n"
    assert file.read_bytes() == FORMATTED.encode()
    assert file.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink() and sorted(os.listdir(tmp_path)) == ["link.attn", "mine.attn"]
    written = file.stat().st_mtime_ns
    for arguments in (["--format"], ["--format", "--check"]):
        assert output(str(file), *arguments) == f"{file} is formatted\n"
    assert file.stat().st_mtime_ns == written


def test_format_of_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.attn").write_text(MINE, encoding="utf-8")
    Path("b.attn").write_bytes(FORMATTED.replace("\n", "\r\n").encode())
    Path("c.attn").write_text("pattern c = full |", encoding="utf-8")
    error = (
        "error: unexpected end of the file: expected a pattern\n"
        " --> c.attn:1:19\n"
        "  | pattern c = full |\n"
        "  |                   ^\n"
    )
    assert diagnostic("--format", "a.attn", "b.attn", "c.attn") == error
    assert Path("a.attn").read_text(encoding="utf-8") == MINE
    Path("c.attn").write_text("pattern c = full\n", encoding="utf-8")
    expected = "reformatted a.attn\nreformatted b.attn\nc.attn is formatted\n"
    assert output("--format", "a.attn", "b.attn", "c.attn") == expected
    assert Path("a.attn").read_bytes() == Path("b.attn").read_bytes() == FORMATTED.encode()


def test_files_that_cannot_be_formatted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device", source)

    missing = tmp_path / "none.attn"
    assert diagnostic("--format", str(missing)) == (
        f"error: cannot read {missing}: No such file or directory\n"
    )
    file = tmp_path / "mine.attn"
    file.write_text(MINE, encoding="utf-8")
    monkeypatch.setattr(os, "replace", full)
    assert diagnostic("--format", str(file)) == (
        f"error: cannot write {file}: No space left on device\n"
    )
    assert os.listdir(tmp_path) == ["mine.attn"]
    assert file.read_text(encoding="utf-8") == MINE
    for arguments, expected in (
        (["full", "--format"], "--format needs a .attn file, not 'full'"),
        ([str(file), "--format", "full"], "--format needs a .attn file, not 'full'"),
        (["full", "causal"], "only --format takes several files"),
        (["--format"], "Missing argument 'SPEC'."),
        (["--format", "--catalogue"], "--catalogue goes with"),
    ):
        assert f"Error: {expected}" in diagnostic(*arguments)


@pytest.mark.parametrize("file", sorted(ROOT.glob("specs/*.attn")), ids=lambda file: file.name)
def test_shipped_specs(file: Path) -> None:
    library = attncomp.load(file)
    for name in library.names:
        assert output(name, "--library", str(file), "--emit", "plan,explain")
    assert output(str(file), "--check").startswith("ok ")
