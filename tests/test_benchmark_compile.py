"""benchmarks/compile_time.py and the process that it starts."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from benchmark_support import BENCHMARKS, small
from click.testing import CliRunner

CASE = "attncomp sparsek(k=512, lag=256) | window(256)"


@pytest.fixture
def compile_time(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("compile_time")


def rows_of(compile_time: ModuleType, path: Path, *arguments: str) -> list[dict[str, Any]]:
    output = path / "new" / "report.json"
    given = ("--device", "cpu", "--output", str(output), *arguments)
    done = CliRunner().invoke(compile_time.main, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["environment"]["gpu"].startswith("none, ")
    return list(report["compile"])


def test_caches_are_empty_then_filled(
    compile_time: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes a case with the same new directories, of which the second finds files."""
    monkeypatch.setenv("ATTNCOMP_CACHE", "0")
    seen: list[list[bool]] = []
    places = []

    def run(command: list[str], *, env: dict[str, str], **options: Any) -> SimpleNamespace:
        assert command[1:] == [str(BENCHMARKS / "first_gradient.py"), CASE, "--length", "64",
                               "--device", "cpu"]  # fmt: skip
        assert env["ATTNCOMP_CACHE"] == "1" and options["timeout"] == 120
        folders = [Path(env[name]) for name in compile_time.CACHES]
        places.append(folders)
        seen.append([folder.exists() for folder in folders])
        for folder in folders:
            folder.mkdir(exist_ok=True)
        seconds = 5.0 if len(seen) == 1 else 2.0
        return SimpleNamespace(
            stdout=f"noise\n{json.dumps({'first_s': seconds, 'again_s': seconds / 10})}\n"
        )

    monkeypatch.setattr(compile_time.subprocess, "run", run)
    rows = rows_of(compile_time, tmp_path, "--length", "64", "--only", "sparsek")
    assert rows == [{"case": CASE, "length": 64, "cold_s": 5.0, "warm_s": 2.0, "again_s": 0.2}]
    assert places[0] == places[1]
    assert seen == [[False] * 4, [True] * 4]
    assert not any(folder.exists() for folder in places[0])


def test_failures_are_rows(
    compile_time: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: Any) -> None:
        if "causal" in command[2]:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        raise subprocess.CalledProcessError(1, command, stderr="Traceback\nValueError: no\n")

    monkeypatch.setattr(compile_time.subprocess, "run", run)
    rows = rows_of(compile_time, tmp_path, "--only", "FlexAttention", "--timeout", "9")
    assert [(row["case"], row["error"]) for row in rows] == [
        ("FlexAttention window(256)", "ValueError: no"),
        ("FlexAttention causal", "TimeoutExpired: longer than 9 s"),
        ("FlexAttention bigbird", "ValueError: no"),
    ]


def test_first_gradient(compile_time: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process knows all cases, and says how long the first and the second call take."""
    small(monkeypatch)
    first_gradient = importlib.import_module("first_gradient")
    assert set(compile_time.CASES) <= set(first_gradient.cases())
    given = [CASE, "--device", "cpu", "--length", "96"]
    done = CliRunner().invoke(first_gradient.main, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert set(found) == {"first_s", "again_s"} and min(found.values()) > 0


REPORT = {
    "environment": {"gpu": "a GPU", "driver": "570.1", "torch": "2.13", "triton": "3.9",
                    "cuda": "13", "python": "3"},
    "compile": [
        {"case": "a | b", "length": 64, "cold_s": 12.34, "warm_s": 0.567, "again_s": 0.001},
        {"case": "c", "length": 64, "error": "ValueError: no | x"},
    ],
}  # fmt: skip
TABLE = """\
a GPU, driver 570.1, torch 2.13, triton 3.9, CUDA 13.

| from text to first gradients, s | empty caches | caches on disk | second call |
| --- | ---: | ---: | ---: |
| `a \\| b` | 12.3 | 0.567 | 0.001 |
| `c` | did not run (ValueError) | - | - |
"""


def test_table(compile_time: ModuleType, tmp_path: Path) -> None:
    readme_table = importlib.import_module("readme_table")
    (tmp_path / "one.json").write_text(json.dumps(REPORT))
    page = "<!-- begin one.json -->\n{}<!-- end -->\n"
    assert readme_table.rendered(page.format("typed\n"), tmp_path) == page.format(TABLE)
