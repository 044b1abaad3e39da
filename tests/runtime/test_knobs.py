"""Environment variables: defaults, values, and the exact messages for bad ones."""

from __future__ import annotations

import re
from pathlib import Path

import platformdirs
import pytest

from attncomp import knobs
from attncomp.errors import OptionError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for knob in knobs.knobs():
        monkeypatch.delenv(knob.name, raising=False)


def test_defaults() -> None:
    assert knobs.CACHE_DIR.read() == Path(platformdirs.user_cache_dir("attncomp", appauthor=False))
    assert knobs.CACHE_DIR.read().name == "attncomp"
    assert knobs.CACHE.read() is True
    assert knobs.BACKEND.read() is None


@pytest.mark.parametrize(("text", "value"), [("0", False), ("1", True)])
def test_flag(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("ATTNCOMP_CACHE", text)
    assert knobs.CACHE.read() is value


@pytest.mark.parametrize("name", ["triton", "torch", "reference"])
def test_backend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ATTNCOMP_BACKEND", name)
    assert knobs.BACKEND.read() == name


def test_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for text in ("~/kernels", "kernels", f"{tmp_path}/kernels"):
        monkeypatch.setenv("ATTNCOMP_CACHE_DIR", text)
        assert knobs.CACHE_DIR.read() == tmp_path / "kernels"


def test_a_knob_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNCOMP_CACHE", "0")
    assert knobs.CACHE.read() is False
    monkeypatch.setenv("ATTNCOMP_CACHE", "1")
    assert knobs.CACHE.read() is True


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ATTNCOMP_CACHE", "yes", "expected 0 or 1, found 'yes'"),
        ("ATTNCOMP_CACHE", "", "expected 0 or 1, found ''"),
        ("ATTNCOMP_BACKEND", "cuda", "expected triton, torch or reference, found 'cuda'"),
        ("ATTNCOMP_BACKEND", "", "expected triton, torch or reference, found ''"),
        (
            "ATTNCOMP_CACHE_DIR",
            "",
            "expected a directory, or a path where one can be created, found ''",
        ),
        (
            "ATTNCOMP_CACHE_DIR",
            __file__,
            f"expected a directory, or a path where one can be created, found {__file__!r}",
        ),
        (
            "ATTNCOMP_CACHE_DIR",
            "~no-such-user/x",
            "expected a directory, or a path where one can be created, found '~no-such-user/x'",
        ),
    ],
)
def test_bad_values(monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str) -> None:
    monkeypatch.setenv(name, text)
    (knob,) = (knob for knob in knobs.knobs() if knob.name == name)
    with pytest.raises(OptionError) as caught:
        knob.read()
    assert str(caught.value) == f"environment variable {name}: {message}"


def test_every_knob_is_listed_and_documented() -> None:
    declared = {value.name for value in vars(knobs).values() if isinstance(value, knobs.Knob)}
    listed = [knob.name for knob in knobs.knobs()]
    assert set(listed) == declared
    assert len(listed) == len(declared)
    assert all(knob.doc and knob.expected for knob in knobs.knobs())


def test_no_other_module_reads_the_environment() -> None:
    package = Path(knobs.__file__).parent
    readers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\benviron\b|\bgetenv\b", path.read_text())
    }
    assert readers == {"knobs.py"}
