"""The benchmark of schedules on a CPU, what it says of failures, and what its table is made of."""

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
from torch.nn.attention.flex_attention import create_mask

import attncomp

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def schedules(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/schedules.py, imported as it is when it runs; nothing is compiled."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    yield importlib.import_module("schedules")


@pytest.fixture
def structural(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("structural")


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("measuring")


def run(schedules: ModuleType, path: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The report of a run on the CPU, and what it prints."""
    output = path / "new" / "report.json"
    given = ("--device", "cpu", "--repeats", "3", "--output", str(output), *arguments)
    done = CliRunner().invoke(schedules.main, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(output.read_text(encoding="utf-8")), done.output


@pytest.mark.no_cover  # torch compiles most of the time: traced, that takes twice as long
def test_every_structural_spec_is_measured(schedules: ModuleType, tmp_path: Path) -> None:
    report, printed = run(schedules, tmp_path, "--lengths", "96")
    rows = {(row["spec"], row["case"]): row for row in report["schedules"]}
    assert len(rows) == len(report["schedules"])
    specs = {spec for spec, _ in rows}
    assert {"longformer", "bigbird", "tree", "nats", "sparse_transformer_strided"} <= specs
    assert not specs & {"sparsek_window", "locret", "moba", "nsa_selection", "quest"}
    assert {(s, "attncomp") for s in specs} <= set(rows)
    for case in ("FlexAttention", "FlexAttention, compiled"):
        assert {s for s, c in rows if c == case} == set(schedules.MASK_MODS)
    for (spec, case), row in rows.items():
        assert "error" not in row and row["ms"] > 0 and row["length"] == 96
        assert (row["peak_mib"], row["no_peak"]) == (None, "not measured on a CPU")
        assert ("plan_ms" in row) is (case == "attncomp")
        assert spec in printed
    assert report["environment"]["driver"] == "none"
    assert report["environment"]["gpu"].startswith("none, ")
    assert report["environment"]["torch"] == torch.__version__
    assert report["shape"]["heads"] == 32


def test_failures_are_rows(
    schedules: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails is tried at no greater length; what would take too long is not tried at all."""
    real = schedules.MASK_MODS["longformer"]

    def small_alone(n: int, given: object, device: str) -> Any:
        if n > 100:
            raise torch.cuda.OutOfMemoryError("tried to allocate\nmore than there is")
        return real(n, given, device)

    monkeypatch.setitem(schedules.MASK_MODS, "longformer", small_alone)
    only = ("--only", "longformer: Flex", "--lengths", "64,128,256,131073")
    report, printed = run(schedules, tmp_path, *only)
    errors = {(row["case"], row["length"]): row.get("error", "") for row in report["schedules"]}
    assert errors == {
        ("FlexAttention", 64): "",
        ("FlexAttention", 128): "OutOfMemoryError: tried to allocate\nmore than there is",
        ("FlexAttention", 256): "not run: OutOfMemoryError at N = 128",
        ("FlexAttention", 131073): "not run: OutOfMemoryError at N = 128",
        ("FlexAttention, compiled", 64): "",
        ("FlexAttention, compiled", 128): "OutOfMemoryError: tried to allocate\nmore than there is",
        ("FlexAttention, compiled", 256): "not run: OutOfMemoryError at N = 128",
        ("FlexAttention, compiled", 131073): "not run: OutOfMemoryError at N = 128",
    }
    assert "OutOfMemoryError: tried to allocate" in printed
    row = schedules.measure(schedules.all_cases()[1], "longformer", 131073, 3, "cpu", 0)
    assert row["error"] == "not run: not tried beyond N = 131072"


@pytest.mark.parametrize("spec", ["sliding_window", "longformer", "sparse_transformer_strided",
                                  "bigbird", "block_sparse", "documents_causal",
                                  "prefix_language_model"])  # fmt: skip
def test_predicates_are_those_of_the_specs(
    structural: ModuleType, spec: str, generator: torch.Generator
) -> None:
    n = int(torch.randint(1100, 1300, (), generator=generator))
    attend = attncomp.compile(spec)
    given = structural.random_tensors(attend.plan, n, "cpu", generator)
    assert set(given) == set(attend.tensors)
    mask = create_mask(structural.MASK_MODS[spec](n, given, "cpu"), 1, 1, n, n, "cpu")
    assert torch.equal(attend.mask(n, heads=1, batch=1, **given).bool(), mask)


def test_predicates_tested_are_all(structural: ModuleType) -> None:
    (mark,) = test_predicates_are_those_of_the_specs.pytestmark
    assert set(mark.args[1]) == set(structural.MASK_MODS)


def test_inputs_of_all_specs_fit(structural: ModuleType, generator: torch.Generator) -> None:
    """What is drawn for a spec is what a call of it takes."""
    q = torch.randn(1, 2, 150, 16, generator=generator)
    for spec in structural.structural_specs():
        attend = attncomp.compile(spec)
        given = structural.random_tensors(attend.plan, 150, "cpu", generator)
        assert attend(q, q, q, **given).isfinite().all(), spec


SMI = """#!/bin/sh
echo "$@" > {arguments}
echo {text}
exit {code}
"""


@pytest.mark.parametrize(
    ("text", "code", "kernel", "expected"),
    [
        ("570.86.15\n570.86.15", 0, "", "570.86.15"),
        ("580.1", 0, "x", "580.1"),
        ("no devices were found", 0, "", "unknown"),
        ("failed", 9, "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.16  Release",
         "570.86.16"),
        (None, 0, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19",
         "535.104.05"),
        (None, 0, "6.10.5\n", "6.10.5"),
        (None, 0, "", "unknown"),
    ],
)  # fmt: skip
def test_driver_version(
    measuring: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str | None,
    code: int,
    kernel: str,
    expected: str,
) -> None:
    """nvidia-smi says it, or the kernel, or nobody."""
    monkeypatch.setenv("PATH", str(tmp_path))
    if text is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(
            SMI.format(arguments=tmp_path / "arguments", text=f"'{text}'", code=code)
        )
        program.chmod(0o755)
    if kernel:
        (tmp_path / "version").write_text(kernel)
    monkeypatch.setattr(measuring, "DRIVER_FILES", (tmp_path / "none", tmp_path / "version"))
    assert measuring.driver_version() == expected
    if text is not None:
        asked = (tmp_path / "arguments").read_text()
        assert asked == "--query-gpu=driver_version --format=csv,noheader\n"


def test_reports_of_attention_name_the_driver(
    measuring: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(measuring, "driver_version", lambda: "570.1")
    attention = importlib.import_module("attention")
    found = attention.environment()
    assert list(found) == ["gpu", "driver", "torch", "triton", "cuda", "python"]
    assert (found["gpu"], found["driver"]) == ("a GPU", "570.1")


VERSIONS = {"gpu": "a GPU", "torch": "2.13", "triton": "3.9", "cuda": "13", "python": "3"}
REPORT = {
    "environment": {**VERSIONS, "driver": "570.1"},
    "shape": {},
    "schedules": [
        {"spec": "a", "case": "attncomp", "length": 64, "ms": 0.00625, "peak_mib": 0.0},
        {"spec": "a", "case": "attncomp", "length": 128, "ms": 123.4, "peak_mib": 12.34},
        {"spec": "a", "case": "peer", "length": 64, "ms": 2.0, "peak_mib": None},
        {"spec": "a", "case": "peer", "length": 128, "error": "OutOfMemoryError: much |\n text"},
        {"spec": "b|c", "case": "peer", "length": 128, "error": "not run: OutOfMemoryError at 64"},
    ],
}
TABLE = """\
a GPU, driver 570.1, torch 2.13, triton 3.9, CUDA 13.

| spec | by | N = 64 | N = 128 |
| --- | --- | ---: | ---: |
| `a` | attncomp | 0.00625 ms, 0 MiB | 123 ms, 12.3 MiB |
| `a` | peer | 2 ms | did not run (OutOfMemoryError) |
| `b\\|c` | peer | - | OutOfMemoryError at 64 |
"""


def test_table_of_schedules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    readme_table = importlib.import_module("readme_table")
    (tmp_path / "one.json").write_text(json.dumps(REPORT))
    page = "<!-- begin one.json -->\n{}<!-- end -->\n"
    assert readme_table.rendered(page.format("typed\n"), tmp_path) == page.format(TABLE)
