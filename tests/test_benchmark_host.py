"""The benchmark of the host's part of calls: what it says of devices, and how it counts."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def host_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/host_time.py, imported as it is when it runs."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("host_time")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cpu", "expected a CUDA device, whose launches are what takes time, found 'cpu'"),
        ("gpu", "expected a CUDA device, whose launches are what takes time, found 'gpu'"),
        ("cuda:3", "expected one of 2 CUDA devices, found 'cuda:3'"),
    ],
)
def test_other_devices(
    device: str,
    message: str,
    host_time: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    given = ["--device", device, "--output", str(tmp_path / "host.json")]
    done = CliRunner().invoke(host_time.main, given)
    assert done.exit_code == 2 and message in done.output


def test_every_step_is_a_row(host_time: ModuleType) -> None:
    case, own = next(host_time.cases())
    setting = host_time.Setting(48, head_dim=16)
    clock = host_time.Clock("cpu", 0.0)
    rows = [
        host_time.row_of(found, clock) for found in host_time.steps(case, own, setting, 0, "cpu")
    ]
    assert [row["step"] for row in rows] == ["forward", "recording", "both"]
    assert own and all(row["host_us"] > 0 and row["after_idle_us"] > 0 for row in rows)


def test_failures_are_rows(host_time: ModuleType) -> None:
    def fail() -> Any:
        raise RuntimeError("no such kernel\nat all")

    found = host_time.Measured("peer", "both", fail, False)
    row = host_time.row_of(found, host_time.Clock("cpu", 0.0))
    assert row == {"case": "peer", "step": "both", "error": "RuntimeError: no such kernel"}
    host_time.table([row])


REPORT = {
    "environment": {"gpu": "a GPU", "driver": "570.1", "torch": "2.13", "triton": "3.9",
                    "cuda": "13", "python": "3"},
    "length": 64,
    "calls": [
        {"case": "a | b", "step": "forward", "host_us": 36.55, "after_idle_us": 61.0},
        {"case": "peer", "step": "both", "error": "RuntimeError: no | kernel"},
    ],
}  # fmt: skip
TABLE = """\
a GPU, driver 570.1, torch 2.13, triton 3.9, CUDA 13.

| host's time at N = 64, us | of | in a row | after a wait |
| --- | --- | ---: | ---: |
| `a \\| b` | forward | 36.5 | 61 |
| `peer` | both | did not run (RuntimeError) | - |
"""


def test_table(host_time: ModuleType, tmp_path: Path) -> None:
    readme_table = importlib.import_module("readme_table")
    (tmp_path / "one.json").write_text(json.dumps(REPORT))
    page = "<!-- begin one.json -->\n{}<!-- end -->\n"
    assert readme_table.rendered(page.format("typed\n"), tmp_path) == page.format(TABLE)
