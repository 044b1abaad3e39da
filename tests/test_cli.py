"""`attncomp-inspect` as its users meet it: output, files, exit codes, terminals and pipes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_support import (
    clean_environment,
    diagnostic,
    invoke,
    on_a_terminal,
    output,
    without_colours,
)
from rich.color import Color
from rich.style import Style

import attncomp
from attncomp import cli
from attncomp.codegen.emit import render
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.plan_text import plan_text
from attncomp.frontend.ast import dump
from attncomp.frontend.parser import parse
from attncomp.inspection import drawing
from attncomp.ir.schedule import Problem
from attncomp.pictures.palette import hue
from attncomp.runtime.ahead_of_time import KernelReport, compile_plan

ROOT = Path(__file__).parent.parent
PATTERN = "sparsek(k=4, lag=2) | window(3)"
PASSES = ("share", "simplify", "make-disjoint", "bound", "stride", "schedule")
TORCH = Problem(
    backend="torch", target="cpu", dtype="bfloat16", head_dim=128, value_dim=128, unit_heads=4
)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, its output in pipes."""
    return subprocess.run(
        [sys.executable, "-m", "attncomp.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(**environment),
    )


def test_explain_is_the_default() -> None:
    assert output(PATTERN) == output(PATTERN, "--emit", "explain")
    shown = output(PATTERN)
    assert PATTERN in shown
    assert "scores" in shown


def test_stages_are_what_the_compiler_holds() -> None:
    assert output(PATTERN, "--emit", "ast") == dump(parse(PATTERN)) + "\n"
    plan = lower(PATTERN, TORCH)
    assert output(PATTERN, "--emit", "plan") == plan_text(plan)
    assert output(PATTERN, "--emit", "source").rstrip() == render(plan).rstrip()


def test_several_stages_have_titles_and_the_order_asked_for() -> None:
    shown = output(PATTERN, "--emit", "plan,ast", "--emit", "ast,ir")
    assert re.findall("=== (.*) ===", shown) == ["plan", "ast", "ir"]


def test_problem_options_reach_the_plan() -> None:
    options = ["--head-dim", "80", "--value-dim", "64", "--unit-heads", "2", "--dtype", "float16"]
    shown = output("causal", "--emit", "plan", *options, "--backend", "triton")
    assert shown.splitlines()[:2] == [
        "backend triton, target sm_90, dtype float16",
        "head_dim 80, value_dim 64, unit_heads 2",
    ]
    shown = output("causal", "--emit", "plan", "--target", "gfx942")
    assert shown.startswith("backend triton, target gfx942, dtype bfloat16\n")
    assert output("causal", "--emit", "plan").startswith("backend torch, target cpu,")


def test_print_after() -> None:
    shown = output("window(8) | window(4)", "--print-after", "simplify")
    assert "box 0 <= q - k < 8" in shown
    assert "union" not in shown
    assert "sweep" not in shown
    shown = output("window(8) | window(4)", "--print-after", "all")
    assert re.findall("=== (.*) ===", shown) == [f"after {name}" for name in PASSES]
    assert shown.count("union") == 1  # only before simplify


def test_time_passes() -> None:
    lines = output(PATTERN, "--time-passes").splitlines()
    assert lines[0].split() == ["pass", "milliseconds", "nodes"]
    assert [line.split()[0] for line in lines[1:]] == [*PASSES, "total"]
    milliseconds = [float(line.split()[1]) for line in lines[1:]]
    assert sum(milliseconds[:-1]) == pytest.approx(milliseconds[-1], abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["window(0)"],
            "error: argument 'size' of window must be at least 1, found 0\n"
            " --> <spec>:1:8\n  | window(0)\n  |        ^\n",
        ),
        ([""], "error: empty pattern\n"),
        (
            ["full - sparsek(k=4)"],
            "error: a soft pattern has no complement\n",
        ),
        (
            ["full", "--print-after", "simplfy"],
            "error: --print-after: expected one of share, simplify, make-disjoint, bound, "
            "stride, schedule, all, found 'simplfy' (did you mean 'simplify'?)\n",
        ),
        (
            ["full", "--backend", "triton", "--dtype", "float64"],
            "error: --dtype: expected float16, bfloat16 or float32 for backend triton, "
            "found 'float64'\n",
        ),
        (
            ["full", "--target", "sm_33"],
            "error: backend 'triton' has no schedule for target 'sm_33': expected 'cpu', "
            "'sm_<nn>' from sm_80 on, or an AMD 'gfx<nnn>'\n",
        ),
        (
            ["full", "--backend", "torch", "--emit", "ptx"],
            "error: ahead of time: expected a plan of backend 'triton', found 'torch'\n",
        ),
    ],
)
def test_mistakes(arguments: list[str], expected: str) -> None:
    assert diagnostic(*arguments).startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["full", "--emit", "ast,sorce"],
            "Invalid value for '--emit': 'sorce' is not one of ast, ir, plan, source, explain, "
            "report, ptx. Did you mean 'source'?",
        ),
        (["full", "--mask", "0"], "Invalid value for '--mask': 0 is not in the range 1<=x<=2048."),
        (["full", "--head-dim", "8"], "Invalid value for '--head-dim': 8 is not in the range"),
        (["full", "--output", "m.png"], "--output m.png is a picture of the mask: add --mask N"),
        (["full", "--check"], "--check needs a .attn file, not 'full'"),
        ([], "Missing argument 'SPEC'."),
        (["--check"], "Missing argument 'SPEC'."),
        (
            ["full", "--catalogue"],
            "--catalogue goes with --library, --mask, --seed and a directory",
        ),
        (["--catalogue", "--emit", "ast"], "--catalogue goes with --library, --mask, --seed"),
        (["--catalogue", "--check"], "--catalogue goes with --library, --mask, --seed and"),
        (["--catalogue", "--mask", "4", "--output", "m.png"], "--catalogue goes with --library"),
    ],
)
def test_misused_options(arguments: list[str], expected: str) -> None:
    shown = diagnostic(*arguments)
    assert shown.startswith("Usage: attncomp-inspect [OPTIONS] [SPEC] [FILE]...\n")
    assert f"Error: {expected}" in shown


def test_help_and_version() -> None:
    shown = output("--help")
    for option in ("--emit", "--print-after", "--time-passes", "--target", "--mask", "--output"):
        assert option in shown
    assert 'attncomp-inspect "sparsek(k=512) | window(256)" --target sm_90\n' in shown
    assert re.fullmatch(
        r"attncomp-inspect (\d+\.\d+\.\d+|\(not installed\))\n", output("--version")
    )


def test_mask_in_characters() -> None:
    assert output("window(2)", "--mask", "4") == (
        "gate of window(2): 4 queries (down) by 4 keys (right)\n"
        ". is 0, 1 to 9 tenths, # 1\n"
        "#...\n##..\n.##.\n..##\n"
    )


def test_mask_draws_the_gates_of_its_seed(seed: int) -> None:
    shown = output(PATTERN, "--mask", "24", "--seed", str(seed)).splitlines()
    assert shown[0].endswith(f"; scores standard normal, seed {seed}")
    scores = torch.randn(
        1, 1, 24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    gate = attncomp.compile(PATTERN).mask(24, scores=scores)[0, 0]
    for row, line in zip(gate.tolist(), shown[2:], strict=True):
        for value, character in zip(row, line, strict=True):
            if character in ".#":
                assert value == ".#".index(character)
            else:
                assert 0 < value < 1
                assert abs(value - int(character) / 10) <= 0.1


def test_blocks_shrink_to_the_terminal() -> None:
    gate = torch.zeros(5, 5, dtype=torch.float64)
    gate[4, 4], gate[0, 1] = 1, 0.01
    sweep = torch.full((5, 5), -1)
    sweep[4, 4], sweep[0, 1] = 1, 0
    text, side = drawing.as_blocks(gate, sweep, 80)
    assert side == 1
    assert text.plain == ("\u2580" * 5 + "\n") * 3
    text, side = drawing.as_blocks(gate, sweep, 3)
    assert side == 2
    assert text.plain == ("\u2580" * 3 + "\n") * 2
    colours = [str(span.style) for span in text.spans]
    assert len(set(colours)) == 4  # faint over absent, absent, absent without below, whole
    assert text.spans[-1].style == Style(color=Color.from_rgb(*hue(1)))


def test_mask_as_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    result = invoke(PATTERN, "--mask", "16", "--output", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"wrote {path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")
    nowhere = tmp_path / "none" / "mask.png"
    assert diagnostic("full", "--mask", "4", "--output", str(nowhere)) == (
        f"error: cannot write {nowhere}: No such file or directory\n"
    )


@pytest.mark.parametrize("name", ["x.jpg", "mask.PNGG", "plan.txt"])
@pytest.mark.parametrize("options", [(), ("--mask", "4")])
def test_files_of_no_known_format(name: str, options: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / name
    assert diagnostic("full", *options, "--output", str(path)) == (
        f"error: --output: expected .png, .svg, .pdf or a directory, found {str(path)!r}\n"
    )
    assert not path.exists()


def test_a_directory_with_a_dot(tmp_path: Path) -> None:
    directory = tmp_path / "kernels.v2"
    directory.mkdir()
    assert output("full", "--emit", "ast", "--output", str(directory)) == (
        f"{directory / 'ast.txt'}\n"
    )


def test_a_picture_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert diagnostic("full", "--mask", "4", "--output", str(tmp_path / "mask.svg")) == (
        "error: pictures need matplotlib, which is not installed: pip install attncomp[plots]\n"
    )


def test_everything_into_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    options = ["--print-after", "bound", "--time-passes", "--mask", "4", "--output"]
    shown = output("window(2)", *options, str(directory)).splitlines()
    names = ["after_bound.txt", "times.txt", "ast.txt", "ir.txt", "plan.txt", "source.py"]
    names += ["explain.txt", "mask.txt"]
    assert shown == [str(directory / name) for name in names]
    assert (directory / "ast.txt").read_text() == output("window(2)", "--emit", "ast")
    assert (directory / "mask.txt").read_text() == output("window(2)", "--mask", "4")
    compile((directory / "source.py").read_text(), "source.py", "exec")


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert diagnostic("full", "--output", str(file)) == (
        f"error: cannot write to {file}: File exists\n"
    )


def test_report_and_assembly(tmp_path: Path) -> None:
    arguments = ["window(32)", "--target", "sm_90", "--head-dim", "32"]
    lines = output(*arguments).splitlines()
    assert lines[0].split("  ")[0] == "kernel"
    kernels = ["forward_kernel", "backward_query_kernel", "backward_key_kernel"]
    assert [line.split()[0] for line in lines[1:-1]] == kernels
    assert all(" of 255 " in line and line.count(" of 232448 ") == 1 for line in lines[1:-1])
    assert lines[-1].startswith("sm_90: ")
    shown = output(*arguments, "--emit", "report,ptx", "--output", str(tmp_path)).splitlines()
    assert shown == [
        str(tmp_path / name) for name in ("report.txt", *(f"{k}.ptx" for k in kernels))
    ]
    assert (tmp_path / "report.txt").read_text().splitlines() == lines
    assert ".entry forward_kernel" in (tmp_path / "forward_kernel.ptx").read_text()


def test_a_kernel_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_too_large(plan: KernelPlan, target: str) -> list[KernelReport]:
        return [
            KernelReport(
                name="forward_kernel", registers=200, spills=16, shared=65537, warps=4, stages=1,
                text="",
            )
        ]  # fmt: skip

    assert cli.compile_plan is compile_plan
    monkeypatch.setattr(cli, "compile_plan", compile_too_large)
    result = invoke("full", "--target", "gfx942")
    assert result.exit_code == 1
    assert "65537 of 65536" in result.stdout
    assert "too much shared memory" in result.stdout


def test_a_pipe_gets_plain_unwrapped_text() -> None:
    done = run(PATTERN, "--emit", "ir,source", "--mask", "100", COLUMNS="40")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) >= 100
    assert done.stdout.startswith("=== ir ===\n%0 = ")


def test_a_mistake_in_a_process_of_its_own() -> None:
    done = run("sparsek(k=512) | windw(256)")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: unknown pattern 'windw'\n"
        " --> <spec>:1:18\n"
        "  | sparsek(k=512) | windw(256)\n"
        "  |                  ^^^^^ did you mean 'window'?\n"
    )


def test_a_reader_that_leaves() -> None:
    """`attncomp-inspect ... | head -1`: no traceback, however much is left to print."""
    command = [sys.executable, "-m", "attncomp.cli", PATTERN, "--emit", "source", "--mask", "1500"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"=== source ===\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        # 0 where click meets the broken pipe only after the command has set its exit code.
        assert process.wait(timeout=120) in (0, 1)


def test_a_terminal_gets_colours() -> None:
    text = on_a_terminal(PATTERN, "--emit", "ir", "--mask", "9")
    assert "\x1b[" in text
    plain = without_colours(text)
    assert plain.startswith("=== ir ===\n" + output(PATTERN, "--emit", "ir"))
    assert plain.count("\u2580" * 9 + "\n") == 5
    sweeps = ["window: 0 <= q - k < 3", "sparsek(k=4, lag=2) where q - k >= 3"]
    assert plain.endswith("".join(f"\u2588\u2588 {title}\n" for title in sweeps))
