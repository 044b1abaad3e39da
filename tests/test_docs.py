"""README and CONTRIBUTING say what is so: their code runs, their output is true, their names exist.

So do the pages of `docs/`. `page_support` runs Python and console blocks (`--update-golden` pastes
output anew); commands of bash blocks run if they are attncomp-inspect, else their targets, files
and options must exist.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import click.testing
import pytest
from page_support import (
    BLOCK,
    ROOT,
    blocks,
    check_consoles,
    inspect,
    read,
    run_python,
    write_files,
)

from attncomp import knobs
from attncomp.frontend.catalog import value_text
from attncomp.ir.ops import GATE_MODES
from attncomp.ir.passes import pipeline
from attncomp.ir.schedule import Problem
from attncomp.runtime.ahead_of_time import LIMITS

PAGES = tuple(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *PAGES)
MAX_README_LINES = 200  # besides the measured tables
# What a path in the text has to start with to be one of this repository.
FOLDERS = ("attncomp/", "tests/", "benchmarks/", "examples/", "specs/", "docs/", ".ci/")
OUTPUTS = "benchmarks/results/"  # written by a run; a checkout may have none

Check = Callable[[list[str]], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory from which `specs/...` can be read."""
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_blocks_run(document: str, seed: int) -> None:
    write_files(document)
    run_python(document, seed)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_console_blocks_are_true(document: str, update_golden: bool) -> None:
    write_files(document)
    check_consoles(document, update=update_golden)


def check_inspect(words: list[str]) -> None:
    code, output = inspect(words)
    assert code == 0, output


def check_make(words: list[str]) -> None:
    makefile = read("Makefile")
    variables, targets = [word for word in words if "=" in word], [w for w in words if "=" not in w]
    assert targets and set(targets) <= set(re.findall(r"^(\w[\w-]*):", makefile, re.MULTILINE))
    for variable in variables:
        assert f"{variable.split('=')[0]} ?=" in makefile


def check_python(words: list[str]) -> None:
    script, *arguments = words
    source = read(script)
    for argument in arguments:
        assert not argument.startswith("-") or f'"{argument}"' in source, f"{script} {argument}"


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for extra in re.findall(r"\[([\w,]+)\]", words[-1]):
        assert all(f"\n{name} = [" in read("pyproject.toml") for name in extra.split(","))


def check_pytest(words: list[str]) -> None:
    own = re.findall(r'"(--[a-z-]+)"', read("tests/conftest.py"))
    options = {word.split("=")[0] for word in words if word.startswith("-")}
    assert options <= {*own, "-m", "-k", "-n", "--hypothesis-profile"}
    for word in words:
        if word.startswith("tests/"):
            path, *names = word.split("::")
            assert (ROOT / path).exists(), path
            assert all(f"def {name}(" in read(path) for name in names), word


def check_script(words: list[str]) -> None:
    assert not words


CHECKS: dict[str, Check] = {
    "attncomp-inspect": check_inspect,
    "make": check_make,
    "python": check_python,
    "pip": check_pip,
    "pytest": check_pytest,
    ".ci/run": check_script,
}


def bash_commands() -> Iterator[str]:
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            yield from filter(None, map(str.strip, block.text.splitlines()))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", list(bash_commands()))
def test_bash_commands(command: str) -> None:
    program, *words = shlex.split(command, comments=True)
    CHECKS[program.removeprefix(".venv/bin/")](words)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_paths_and_links_exist(document: str) -> None:
    text = read(document)
    named = re.findall(r"`([\w./-]+)`", BLOCK.sub("", text))
    linked = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    beside = (ROOT / document).parent
    missing = [path for path in named if path.startswith(FOLDERS) and not (ROOT / path).exists()]
    assert [path for path in missing if not path.startswith(OUTPUTS)] == []
    assert [path for path in linked if not (beside / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_functions_and_tests_exist(document: str) -> None:
    """What is named as `path::name` stands in that file."""
    for path, name in re.findall(r"`([\w./-]+)::(\w+)`", read(document)):
        assert re.search(rf"^(def |class )?{name}\b", read(path), re.MULTILINE), f"{path}::{name}"


def column(text: str, heading: str) -> list[str]:
    """The first column of the table whose header row starts with `heading`."""
    rows = text.split(f"\n| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [row.removeprefix("| ").split(" |")[0].strip("`") for row in rows]


def test_tables_list_what_there_is() -> None:
    readme, language = read("README.md"), read("docs/language.md")
    assert sorted(column(language, "`gate=`")) == sorted(map(value_text, GATE_MODES))
    assert sorted(column(readme, "environment variable")) == sorted(k.name for k in knobs.knobs())


def test_passes_are_named_in_order() -> None:
    problem = Problem(
        backend="torch", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
    )
    readme = read("README.md")
    section = readme[readme.index("## How it works") : readme.index("A **plan**")]
    names = [step.name for step in pipeline(problem)]
    assert re.findall("|".join(names), section.split("ir/passes/")[1])[: len(names)] == names


def test_versions_are_those_of_the_package() -> None:
    readme, project = read("README.md"), read("pyproject.toml")
    for name, pattern in (
        ("Python", r'requires-python = ">=([\d.]+)"'),
        ("torch", r'"torch>=([\d.]+)"'),
        ("triton", r"'triton>=([\d.]+);"),
    ):
        (version,) = re.findall(pattern, project)
        assert f"{name} >= {version}" in readme
    assert set(re.findall(r"\b(?:sm_\d+|gfx\w+)", readme)) <= set(LIMITS)
    (version,) = re.findall(r'^version = "([\d.]+)"', project, re.MULTILINE)
    assert f"\n## [{version}]" in read("CHANGELOG.md")


def test_the_readme_is_short() -> None:
    text = re.sub(r"<!-- begin .*?<!-- end -->", "", read("README.md"), flags=re.DOTALL)
    assert text.count("\n") <= MAX_README_LINES


@pytest.fixture(scope="module")
def readme_table() -> ModuleType:
    path = ROOT / "benchmarks" / "readme_table.py"
    spec = importlib.util.spec_from_file_location("readme_table", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_table(module: ModuleType, *arguments: str) -> tuple[int, str]:
    result = click.testing.CliRunner().invoke(module.main, arguments)
    return result.exit_code, result.output


def test_figures_are_those_of_the_results_files(readme_table: ModuleType) -> None:
    assert run_table(readme_table, "--check") == (0, "README.md is up to date\n")


REPORT = {
    "environment": {
        "gpu": "a GPU",
        "driver": "5.8",
        "torch": "2.13",
        "triton": "3.9",
        "cuda": "13",
        "python": "3",
    },
    "compile": [{"case": "a | b", "cold_s": 7.5, "warm_s": 0.75, "again_s": 0.0125}],
}
TABLE = """\
a GPU, driver 5.8, torch 2.13, triton 3.9, CUDA 13.

| from text to first gradients, s | empty caches | caches on disk | second call |
| --- | ---: | ---: | ---: |
| `a \\| b` | 7.5 | 0.75 | 0.0125 |
"""


def test_table_of_a_report(readme_table: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    page = "before\n<!-- begin results/one.json -->\n{}<!-- end -->\nafter\n"
    path.write_text(page.format("typed by hand\n"))
    readme = ("--readme", str(path))
    assert run_table(readme_table, *readme, "--check") == (
        1,
        "page.md is out of date: python benchmarks/readme_table.py\n",
    )
    assert path.read_text() == page.format("typed by hand\n")
    assert run_table(readme_table, *readme) == (0, "wrote page.md\n")
    none = "Not measured yet: there is no `results/one.json`.\n"
    assert path.read_text() == page.format(none)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.json").write_text(json.dumps(REPORT))
    assert run_table(readme_table, *readme) == (0, "wrote page.md\n")
    assert path.read_text() == page.format(TABLE)
    assert run_table(readme_table, *readme, "--check") == (0, "page.md is up to date\n")


def training(command: str, runs: list[dict[str, object]]) -> str:
    """A file of the training script."""
    environment = {"device": "a device", "torch": "2.13", "python": "3", "attncomp": "1"}
    settings = {"command": command, "steps": 9, "batch": 2, "context": 64, "seed": 0}
    return json.dumps({"environment": environment, "settings": settings, "runs": runs})


TRAINING_TABLE = """\
| on | command | steps of each run | a | b |
| --- | --- | --- | --- | --- |
| a device, torch 2.13 | `one` | 9 of 2 x 64 tokens | \
`x \\| y`: 1.2346 nats/byte, 12,346 tokens/s, 0.3 s | - |
| a device, torch 2.13 | `two --p '\\|'` | 9 of 2 x 64 tokens | - | `z`: 12.3 % |

Not measured yet: there is no `three.json`, no `four.json`.
"""


def test_table_of_training_runs(readme_table: ModuleType, tmp_path: Path) -> None:
    speed = {"tokens_per_second": 12345.6, "seconds": 0.25001}
    language = {"name": "a", "pattern": "x | y", "nats_per_byte": 1.23456, **speed}
    recall = {"name": "b", "pattern": "z", "recalled": 0.1234, **speed}
    (tmp_path / "one.json").write_text(training("one", [language]))
    (tmp_path / "two.json").write_text(training("two --p '|'", [recall]))
    page = "<!-- begin one.json three.json two.json four.json -->\n{}<!-- end -->\n"
    assert readme_table.rendered(page.format("typed\n"), tmp_path) == page.format(TRAINING_TABLE)


@pytest.mark.parametrize(
    "text", ["no table", "<!-- begin one.json -->\nno end", "<!-- begin -->\n<!-- end -->"]
)
def test_markers_that_are_not_pairs(readme_table: ModuleType, tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    assert run_table(readme_table, "--readme", str(path)) == (
        1,
        "Error: expected pairs of <!-- begin FILE.json ... --> and <!-- end -->\n",
    )
    assert path.read_text() == text
