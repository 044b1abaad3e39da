"""benchmarks/attention.py on a CPU: rows, their checks, what fails, tables and pictures."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch._functorch.config
from benchmark_support import BENCHMARKS, install, small
from click.testing import CliRunner
from torch import Tensor

Report = dict[str, Any]
CASES = {
    "attncomp": 9,
    "cuDNN SDPA": 1,
    "FlashAttention SDPA": 1,
    "FlexAttention": 7,
    "flash-attn": 3,
    "FlashAttention-4": 3,
    "fla NSA": 2,
}
TIMES = ("forward_ms", "backward_ms", "both_ms")


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with torch._functorch.config.patch(donated_buffer=True):  # else it stays as a case sets it
        yield small(monkeypatch)


@pytest.fixture
def modules(attention: ModuleType) -> Callable[[str], ModuleType]:
    """The modules that benchmarks/attention.py imports, by name."""
    return importlib.import_module


def run(
    attention: ModuleType, path: Path, *arguments: str, code: int = 0
) -> tuple[Report, str, Path]:
    """The report of a run, what it prints, and the folder that it writes to."""
    output = path / "new" / "report.json"
    usual = ("--device", "cpu", "--head-dims", "16", "--seconds", "0.0001", "--output", str(output))
    done = CliRunner().invoke(attention.main, (*usual, *arguments), catch_exceptions=False)
    assert done.exit_code == code, done.output
    return json.loads(output.read_text(encoding="utf-8")), done.output, output.parent


@pytest.mark.no_cover  # torch compiles most of the time: traced, that takes twice as long
def test_every_case_is_measured_and_right(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    install(monkeypatch)
    report, printed, folder = run(
        attention, tmp_path, "--lengths", "160,320", "--seed", str(seed % 1000)
    )
    rows = {(row["case"], row["length"]): row for row in report["rows"]}
    assert len(rows) == len(report["rows"]) == 2 * sum(CASES.values())
    for system, count in CASES.items():
        found = [case for case, length in rows if case.startswith(f"{system} ") and length == 160]
        assert len(found) == count, system
    for (case, length), row in rows.items():
        assert "error" not in row and "unchecked" not in row, row
        assert all(row[name] > 0 for name in TIMES)
        assert (row["layout"], row["batch"], row["heads"], row["kv_heads"]) == ("gqa", 1, 4, 2)
        assert row["peak_gib"] is None
        assert row["host_both_us"] > 0 and row["host_forward_us"] > 0
        if case == "fla NSA with compression":
            assert "agrees" not in row and "keys" not in row and "both_tflops" not in row
            continue
        assert row["agrees"], row
        names = {"out", "q", "k", "v"} | ({"scores"} if "attncomp sparsek" in case else set())
        assert set(row["errors"]) == set(row["dense_errors"]) == names
        assert 1 <= row["keys"] <= length
        work = 4 * length * row["keys"] * 16 * 4
        assert row["both_tflops"] == pytest.approx(3.5 * work / row["both_ms"] / 1e9)
        assert ("select_ms" in row) is any(
            name in case for name in ("sparsek", "Flex", "topk", "bigbird", "attncomp doc")
        )
        assert ("kernel_backward_ms" in row) is case.startswith("attncomp ")
    keys = rows["attncomp window(256)", 320]["keys"]
    assert keys == rows["FlexAttention window(256)", 320]["keys"]
    assert keys == pytest.approx(256 - 256 * 255 / 2 / 320, rel=0.02)
    assert report["ceilings"]["matmul_tflops"] > 0 and report["ceilings"]["copy_tbps"] > 0
    assert report["environment"]["gpu"].startswith("none, ")
    assert "| `FlexAttention bigbird` |" in printed
    assert (folder / "report.md").read_text() in printed
    assert (folder / "report-gqa-d16-b1.svg").read_text().startswith("<?xml")


def test_missing_packages_are_one_row_a_case(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setitem(sys.modules, "fla", None)
    only = ("--only", "fla NSA", "--only", "flash-attn ", "--lengths", "64,96")
    report, printed, folder = run(attention, tmp_path, *only)
    assert {row["case"] for row in report["rows"]} == {
        "fla NSA topk_blocks(16, 64) & causal",
        "fla NSA with compression",
        *(f"flash-attn {name}" for name in ("causal", "window(256)", "window(1024)")),
    }
    assert all(set(row) == {"case", "error"} for row in report["rows"])
    assert all(row["error"].startswith("not installed: ") for row in report["rows"])
    assert "`flash-attn causal`: not installed: " in printed
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "report.md"]


def test_pictures_need_matplotlib(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: None)
    only = ("--only", "cuDNN", "--lengths", "64,96")
    report, printed, folder = run(attention, tmp_path, *only)
    assert len(report["rows"]) == 2
    assert "no pictures: they need matplotlib (python benchmarks/plots.py)\n" in printed
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "report.md"]


def test_the_file_is_whole_when_a_run_is_cut_off(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attention.measure

    def cut(case: Any, setting: Any, *others: Any) -> Any:
        if setting.length == 96:
            raise KeyboardInterrupt
        return real(case, setting, *others)

    monkeypatch.setattr(attention, "measure", cut)
    given = ("--lengths", "64,96", "--only", "cuDNN")
    report, _, folder = run(attention, tmp_path, *given, code=1)
    assert [row["length"] for row in report["rows"]] == [64]
    assert [path.name for path in folder.iterdir()] == ["report.json"]


def test_failures_are_rows(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one that ran out of memory greater lengths are not tried; after others they are."""
    peers = importlib.import_module("peers")

    def failing(q: Tensor, *args: Any, block_mask: Any, **options: Any) -> Tensor:
        if q.shape[2] == 96:
            raise torch.cuda.OutOfMemoryError("tried to allocate\nmore than there is")
        raise RuntimeError(f"no kernel at {q.shape[2]}")

    monkeypatch.setattr(peers, "flex_attention", failing)
    only = ("--only", "FlexAttention causal", "--lengths", "128,64,96,80")
    report, printed, _ = run(attention, tmp_path, *only)
    assert [(row["length"], row["error"]) for row in report["rows"]] == [
        (64, "RuntimeError: no kernel at 64"),
        (80, "RuntimeError: no kernel at 80"),
        (96, "OutOfMemoryError: tried to allocate\nmore than there is"),
        (128, "not run: out of memory at N = 96"),
    ]
    assert "FlexAttention causal 96 16 gqa 1: OutOfMemoryError: tried to allocate\n" in printed
    assert "did not run (RuntimeError)" in printed
    assert "| out of memory at N = 96 |" in printed


def test_what_ran_before_a_failure_is_kept(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer without a backward has its forward."""
    peers = importlib.import_module("peers")
    real = peers.flex_attention
    monkeypatch.setattr(peers, "flex_attention", lambda *a, **o: real(*a, **o).detach())
    report, _, _ = run(attention, tmp_path, "--only", "FlexAttention causal", "--lengths", "64")
    row = report["rows"][0]
    assert row["forward_ms"] > 0 and "both_ms" not in row
    assert row["error"].startswith("RuntimeError: element 0 of tensors does not require grad")


def test_slow_lengths_are_not_run(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quadratic cases by the square of the length, others by the length; each kind by itself."""
    monkeypatch.setattr(sys.modules["measuring"].Clock, "milliseconds", lambda self, step: 1000.0)
    lengths = ("--lengths", "32,64,128", "--layouts", "gqa,mqa", "--limit", "3")
    report, _, _ = run(attention, tmp_path, *lengths, "--only", "attncomp causal")
    assert [row.get("error") for row in report["rows"]] == 2 * [
        None,
        "not run: about 4 s a call",
        "not run: about 16 s a call",
    ]
    report, _, _ = run(attention, tmp_path, *lengths, "--only", "attncomp window(256)")
    assert [row.get("error") for row in report["rows"]] == 2 * [None, None, None]
    assert [row["kv_heads"] for row in report["rows"]] == [2, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("part", ["out", "q", "k", "v", "scores"])
def test_wrong_results_are_told(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """An error of some per cent in any one result is found, and the exit code says so."""
    peers = importlib.import_module("peers")

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, ahead: float, back: float) -> Tensor:
            ctx.factor = back
            return x * ahead

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
            return grad * ctx.factor, None, None

    real = peers.attncomp.compile

    def off(pattern: str) -> Any:
        attend = real(pattern)

        class Off:
            tensors, plan, backend = attend.tensors, attend.plan, attend.backend

            def __str__(self) -> str:
                return str(attend)

            def __call__(self, q: Tensor, k: Tensor, v: Tensor, **tensors: Tensor) -> Tensor:
                given = {"q": q, "k": k, "v": v, **tensors}
                if part in given:
                    given[part] = Scaled.apply(given[part], 1.0, 1.05)
                out = attend(**given)
                return Scaled.apply(out, 1.05, 1.0) if part == "out" else out

        return Off()

    monkeypatch.setattr(peers.attncomp, "compile", off)
    only = ("--only", "attncomp sparsek(k=512)", "--lengths", "700")
    report, printed, _ = run(attention, tmp_path, *only, code=1)
    (row,) = report["rows"]
    assert row["agrees"] is False
    wrong = {name for name, error in row["errors"].items() if error > 0.04}
    assert wrong == {part}
    assert "wrong results in 1 rows" in printed and " WRONG |" in printed


def test_nan_is_wrong(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = importlib.import_module("peers")
    real = peers.flex_attention
    monkeypatch.setattr(peers, "flex_attention", lambda *a, **o: real(*a, **o) * torch.nan)
    only = ("--only", "FlexAttention causal", "--lengths", "64")
    report, _, folder = run(attention, tmp_path, *only, code=1)
    (row,) = report["rows"]
    assert row["errors"] == {"out": None, "q": None, "k": None, "v": None}
    assert row["agrees"] is False
    assert "NaN" not in (folder / "report.json").read_text()


def test_what_cannot_be_checked_says_so(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(attention, "check", full)
    report, printed, _ = run(attention, tmp_path, "--only", "cuDNN", "--lengths", "64")
    (row,) = report["rows"]
    assert row["unchecked"] == "OutOfMemoryError: no room"
    assert row["both_ms"] > 0 and "keys" not in row and "both_tflops" not in row
    assert " ms, unchecked" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lengths", "1k"), "expected numbers such as 1024,4096, found '1k'"),
        (("--batches", "0"), "expected numbers such as 1024,4096, found '0'"),
        (("--layouts", "gqa,mla"), "expected some of mha, gqa, mqa, found 'gqa,mla'"),
    ],
)
def test_bad_axes(attention: ModuleType, arguments: tuple[str, str], message: str) -> None:
    done = CliRunner().invoke(attention.main, [*arguments, "--output", "never.json"])
    assert done.exit_code == 2 and message in " ".join(done.output.split())


SIZES = {"layout": "gqa", "batch": 1, "heads": 32, "kv_heads": 8, "groups": 8, "head_dim": 128}
DENSE = {
    "case": "cuDNN SDPA causal",
    "pattern": "causal",
    "forward_ms": 2.0,
    "backward_ms": 5.0,
    "both_ms": 7.0,
}
SPARSE = {"case": "a | b", "pattern": "b", "forward_ms": 0.5, "backward_ms": 1.0, "both_ms": 1.4,
          "select_ms": 0.25, "host_both_us": 321.4, "peak_gib": 0.125,
          "both_tflops": 80.0}  # fmt: skip
PEER = {"case": "peer"} | SIZES
REPORT = {
    "environment": {"gpu": "a GPU", "driver": "570.1", "torch": "2.13", "triton": "3.9",
                    "cuda": "13", "python": "3"},
    "settings": {"command": "attention.py", "seed": 0},
    "ceilings": {"matmul_tflops": 801.0, "copy_tbps": 4.2},
    "rows": [
        SPARSE | SIZES | {"length": 64, "agrees": True},
        DENSE | SIZES | {"length": 64, "agrees": True, "peak_gib": None},
        SPARSE | SIZES | {"length": 128, "agrees": False, "host_both_us": None},
        DENSE | SIZES | {"length": 128, "both_ms": 28.0},
        PEER | {"length": 64, "forward_ms": 4.0, "error": "OutOfMemoryError: x|\n"},
        PEER | {"length": 128, "error": "not run: about 9 s a call"},
        {"case": "other", "error": "not installed: No module named 'x'"},
    ],
}  # fmt: skip
TABLE = """\
a GPU, driver 570.1, torch 2.13, triton 3.9, CUDA 13; a matrix product reaches 801 TFLOP/s.

bfloat16, B=1, Hq=32, Hk=8, G=8, D=128:

| Forward, ms | N = 64 | N = 128 |
| --- | ---: | ---: |
| `a \\| b` | 0.5 (4x) | 0.5 (4x) WRONG |
| `cuDNN SDPA causal` | 2 | 2 |
| `peer` | 4 (0.5x) | about 9 s a call |

| Backward, ms | N = 64 | N = 128 |
| --- | ---: | ---: |
| `a \\| b` | 1 (5x) | 1 (5x) WRONG |
| `cuDNN SDPA causal` | 5 | 5 |
| `peer` | did not run (OutOfMemoryError) | about 9 s a call |

| Forward and backward, ms | N = 64 | N = 128 |
| --- | ---: | ---: |
| `a \\| b` | 1.4 (5x) | 1.4 (20x) WRONG |
| `cuDNN SDPA causal` | 7 | 28 |
| `peer` | did not run (OutOfMemoryError) | about 9 s a call |

| Of the forward, selection or block mask alone, ms | N = 64 | N = 128 |
| --- | ---: | ---: |
| `a \\| b` | 0.25 | 0.25 WRONG |

| Time until a call of forward and backward returns, µs | N = 64 |
| --- | ---: |
| `a \\| b` | 321 |

| Peak memory of forward and backward beyond the inputs, GiB | N = 64 | N = 128 |
| --- | ---: | ---: |
| `a \\| b` | 0.125 | 0.125 WRONG |

`other`: not installed: No module named 'x'.
"""


def test_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    readme_table = importlib.import_module("readme_table")
    (tmp_path / "one.json").write_text(json.dumps(REPORT))
    page = "<!-- begin one.json -->\n{}<!-- end -->\n"
    assert readme_table.rendered(page.format("typed\n"), tmp_path) == page.format(TABLE)
    brief = readme_table.rendered(page.format("typed\n"), tmp_path, brief=True)
    tables = [f"\n| {title}, ms |" for title in ("Forward", "Forward and backward")]
    assert all(table in TABLE and table in brief for table in tables)
    assert brief.count("---:") < TABLE.count("---:") and "not installed" not in brief


def test_pictures(
    modules: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One a kind of setting with two lengths; the same report gives the same picture."""
    plots = modules("plots")
    report, output = tmp_path / "r.json", tmp_path / "r-gqa-d128-b1.svg"
    report.write_text(json.dumps(REPORT))
    texts = []
    for _ in range(2):
        done = CliRunner().invoke(plots.main, [str(report)], catch_exceptions=False)
        assert done.output == f"wrote {output}\n"
        texts.append(output.read_text())
    assert texts[0] == texts[1]
    for text in ("a GPU, GQA, D = 128, B = 1", "share of the matmul ceiling", "a | b"):
        assert text in texts[0], text
    lone = REPORT | {"rows": [row for row in REPORT["rows"] if row.get("length") == 64]}
    report.write_text(json.dumps(lone))
    done = CliRunner().invoke(plots.main, [str(report)], catch_exceptions=False)
    assert done.output == "no pictures: no kind of setting has rows at two lengths\n"
