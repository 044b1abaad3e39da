"""Loading generated files: once each, visible to tracebacks, no bytecode, clear errors."""

from __future__ import annotations

import inspect
import linecache
import pickle
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from attncomp.errors import BackendError, CacheError
from attncomp.runtime.cache import SourceCache, cache_key
from attncomp.runtime.loader import load_generated, load_module

SOURCE = '''"""A generated module."""

loaded = object()


def fail(x):
    return x / 0  # the line that a traceback shows
'''


@pytest.fixture
def name() -> str:
    """A module name that no other test uses."""
    return f"generated_{uuid.uuid4().hex}"


@pytest.fixture
def key() -> str:
    return cache_key(uuid.uuid4().hex, "cpu")


def written(path: Path, source: str) -> Path:
    path.write_text(source)
    return path


def must_not_render() -> str:
    raise AssertionError("rendered again")


def test_the_same_file_gives_the_same_module(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "kernel.py", SOURCE)
    module = load_module(path, name)
    assert module.__doc__ == "A generated module."
    assert module.__name__ == name
    assert module.__file__ == str(path)
    assert load_module(path, name) is module


def test_modules_of_two_files_differ(tmp_path: Path, name: str) -> None:
    first = load_module(written(tmp_path / "a.py", "value = 1\n"), name)
    second = load_module(written(tmp_path / "b.py", "value = 2\n"), name)
    assert (first.value, second.value) == (1, 2)


def test_no_bytecode_is_left(tmp_path: Path, name: str) -> None:
    load_module(written(tmp_path / "kernel.py", SOURCE), name)
    assert [path.name for path in tmp_path.rglob("*")] == ["kernel.py"]


def test_tracebacks_and_inspect_work_when_the_file_is_gone(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "kernel.py", SOURCE)
    module = load_module(path, name)
    path.unlink()
    linecache.checkcache()
    with pytest.raises(ZeroDivisionError) as caught:
        module.fail(1)
    shown = "".join(traceback.format_exception(caught.value))
    assert f'File "{path}", line 7, in fail' in shown
    assert "# the line that a traceback shows" in shown
    assert inspect.getsource(module.fail).startswith("def fail(x):")


def test_functions_can_be_pickled(tmp_path: Path, name: str) -> None:
    module = load_module(written(tmp_path / "kernel.py", SOURCE), name)
    assert pickle.loads(pickle.dumps(module.fail)) is module.fail


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(:\n", "SyntaxError: "),
        ("import no_such_module_anywhere\n", "ModuleNotFoundError: "),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_fails_is_named(tmp_path: Path, name: str, source: str, reason: str) -> None:
    path = written(tmp_path / "kernel.py", source)
    for _ in range(2):  # the failure is not remembered as a module
        with pytest.raises(BackendError) as caught:
            load_module(path, name)
        assert str(caught.value).startswith(f"cannot import generated file {path}: {reason}")
        assert name not in sys.modules
    path.write_text("value = 3\n")
    assert load_module(path, name).value == 3


def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "missing.py"
    with pytest.raises(CacheError) as caught:
        load_module(path, name)
    assert str(caught.value).startswith(f"cannot read generated file {path}: ")


def in_threads(count: int, work: Callable[[], ModuleType]) -> list[ModuleType]:
    barrier, results = threading.Barrier(count), []

    def run() -> None:
        barrier.wait()
        results.append(work())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


def test_threads_share_one_module(tmp_path: Path, name: str) -> None:
    # The sleep widens the gap in which an unguarded loader would run the file twice.
    path = written(tmp_path / "kernel.py", "import time\ntime.sleep(0.05)\n" + SOURCE)
    modules = in_threads(8, lambda: load_module(path, name))
    assert len({id(module) for module in modules}) == 1
    assert len({id(module.loaded) for module in modules}) == 1


def test_load_generated_renders_once(tmp_path: Path, key: str) -> None:
    calls: list[None] = []

    def render() -> str:
        calls.append(None)
        return SOURCE

    cache = SourceCache(tmp_path)
    modules = in_threads(8, lambda: load_generated(cache, key, render))
    assert len({id(module) for module in modules}) == 1
    assert len(calls) == 1


def test_load_generated_remembers_without_the_disk(tmp_path: Path, key: str) -> None:
    module = load_generated(SourceCache(tmp_path / "a"), key, lambda: SOURCE)
    assert load_generated(SourceCache(tmp_path / "b"), key, must_not_render) is module


def test_load_generated_reads_what_another_process_left(tmp_path: Path, key: str) -> None:
    SourceCache(tmp_path).load_or_render(key, lambda: SOURCE)
    assert load_generated(SourceCache(tmp_path), key, must_not_render).__doc__


class Vanishing(SourceCache):
    """A cache that somebody empties `times` times right after the file was made."""

    times = 0

    def load_or_render(self, key: str, render: Callable[[], str]) -> Path:
        path = super().load_or_render(key, render)
        if self.times:
            self.times -= 1
            path.unlink()
        return path


def test_load_generated_outlives_an_emptied_cache(tmp_path: Path, key: str) -> None:
    cache = Vanishing(tmp_path)
    cache.times = 2
    assert load_generated(cache, key, lambda: SOURCE).__doc__ == "A generated module."


def test_load_generated_gives_up_on_a_cache_emptied_for_ever(tmp_path: Path, key: str) -> None:
    cache = Vanishing(tmp_path)
    cache.times = 1000
    with pytest.raises(CacheError, match="cannot read generated file"):
        load_generated(cache, key, lambda: SOURCE)
