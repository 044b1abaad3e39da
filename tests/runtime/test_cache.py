"""The source cache: what it keeps, damage, concurrent processes, kill -9, keys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from cache_support import SOURCE, leftovers, must_not_render

from attncomp.runtime import cache as cache_module
from attncomp.runtime.cache import (
    SourceCache,
    cache_key,
    default_cache,
    private_directory,
    source_digest,
)

ROOT = Path(__file__).parents[2]


def run_python(program: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


# Reading and writing


def test_second_read_renders_nothing(tmp_path: Path, key: str) -> None:
    path = SourceCache(tmp_path).load_or_render(key, lambda: SOURCE)
    assert path == tmp_path / key[:2] / f"{key}.py"
    assert SourceCache(tmp_path).load_or_render(key, must_not_render) == path
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("source", ["value = 1", "value = 1\n", "", "name = 'é λ'\n"])
def test_file_opens_with_the_source(tmp_path: Path, key: str, source: str) -> None:
    path = SourceCache(tmp_path).load_or_render(key, lambda: source)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:-1] == (source.splitlines() or [""])
    assert lines[-1].startswith("# attncomp-sha256: ")
    assert SourceCache(tmp_path).load_or_render(key, must_not_render) == path


def test_what_render_raises_passes_through(tmp_path: Path, key: str) -> None:
    cache = SourceCache(tmp_path)

    def render() -> str:
        raise FileNotFoundError("a template is missing")

    with pytest.raises(FileNotFoundError, match="a template is missing"):
        cache.load_or_render(key, render)
    assert cache.directory == tmp_path
    assert cache.load_or_render(key, lambda: SOURCE).parent.parent == tmp_path


def test_directory_is_the_owners_alone(tmp_path: Path, key: str) -> None:
    path = SourceCache(tmp_path / "new").load_or_render(key, lambda: SOURCE)
    for place in (tmp_path / "new", path.parent, path):
        assert place.stat().st_mode & 0o077 == 0


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content.replace(b"value = 1", b"value = 2"),
        lambda content: content + b"value = 2\n",
        lambda content: b"\xff\xfe" + content,
        lambda content: content.replace(b"# attncomp-sha256", b"# sha256"),
    ],
)
def test_a_damaged_file_is_rendered_again(
    tmp_path: Path, key: str, damage: Callable[[bytes], bytes]
) -> None:
    cache = SourceCache(tmp_path)
    path = cache.load_or_render(key, lambda: SOURCE)
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    assert cache.load_or_render(key, lambda: SOURCE) == path
    assert path.read_bytes() == whole


def test_the_file_of_another_key_is_damage(tmp_path: Path, key: str) -> None:
    cache, other = SourceCache(tmp_path), cache_key("another plan", "cpu")
    path = cache.load_or_render(key, lambda: SOURCE)
    wrong = cache.load_or_render(other, lambda: "value = 2\n")
    path.write_bytes(wrong.read_bytes())
    cache.load_or_render(key, lambda: SOURCE)
    assert path.read_text().startswith(SOURCE)


def test_deletion_while_in_use(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removes the directory right before the temporary file is made, once."""
    cache, make, calls = SourceCache(tmp_path / "cache"), tempfile.mkstemp, []

    def emptied(**options: Any) -> tuple[int, str]:
        calls.append(options)
        if len(calls) == 1:
            subprocess.run(["rm", "-rf", str(tmp_path / "cache")], check=True)
        return make(**options)

    monkeypatch.setattr(tempfile, "mkstemp", emptied)
    path = cache.load_or_render(key, lambda: SOURCE)
    assert path.read_text().startswith(SOURCE)
    assert path.is_relative_to(tmp_path / "cache")
    assert len(calls) == 2


# Several processes

CONCURRENT = """
import pathlib, sys, time
from attncomp.runtime.cache import SourceCache
directory, log, key = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def render():
    with open(log, "a") as file:
        file.write("rendered\\n")
    time.sleep(0.2)
    return "value = 1\\n" * 10_000

print("ready", flush=True)
while not (directory / "go").exists():
    time.sleep(0.002)
path = SourceCache(directory).load_or_render(key, render)
assert path.read_text().startswith("value = 1\\n" * 10_000)
print("done", flush=True)
"""


def test_concurrent_processes_render_once(tmp_path: Path, key: str) -> None:
    log = tmp_path / "log"
    processes = [run_python(CONCURRENT, str(tmp_path), str(log), key) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    assert [process.communicate(timeout=60)[0] for process in processes] == ["done\n"] * 4
    assert log.read_text() == "rendered\n"


KILLED = """
import os, pathlib, signal, sys
from attncomp.runtime.cache import SourceCache
real = os.fsync

def die(descriptor):
    print("writing", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = die
SourceCache(pathlib.Path(sys.argv[1])).load_or_render(sys.argv[2], lambda: "value = 0\\n" * 10_000)
"""


def test_kill_in_mid_write(tmp_path: Path, key: str) -> None:
    process = run_python(KILLED, str(tmp_path), key)
    assert process.communicate(timeout=60)[0] == "writing\n"
    assert process.returncode == -signal.SIGKILL
    (orphan,) = leftovers(tmp_path)
    assert orphan.endswith(".tmp")
    # Neither the orphan nor the dead process's lock is in the way.
    start = time.monotonic()
    path = SourceCache(tmp_path).load_or_render(key, lambda: SOURCE)
    assert time.monotonic() - start < 5
    assert path.read_text().startswith(SOURCE)


def test_orphans_are_removed_when_old(tmp_path: Path) -> None:
    keys = [f"ab{number:062x}" for number in range(2)]
    shard = tmp_path / "ab"
    shard.mkdir()
    old, new = shard / ".old.tmp", shard / ".new.tmp"
    for orphan in (old, new):
        orphan.touch()
    os.utime(old, (0, 0))
    for key in keys:
        SourceCache(tmp_path).load_or_render(key, lambda: SOURCE)
    assert leftovers(tmp_path) == [".new.tmp"]


def test_a_lock_that_never_comes(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_LOCK_SECONDS", 0.1)
    (tmp_path / key[:2]).mkdir()
    with filelock.FileLock(tmp_path / key[:2] / ".lock"):
        path = SourceCache(tmp_path).load_or_render(key, lambda: SOURCE)
    assert path.read_text().startswith(SOURCE)


# The default cache

ENDING = """
import os, sys
from attncomp.runtime.cache import default_cache
cache = default_cache()
path = cache.load_or_render("ab" * 32, lambda: "value = 1\\n")
if os.fork() == 0:
    sys.exit()
os.wait()
assert path.exists(), "the child removed its parent's files"
print(path)
"""


def test_knobs_choose_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNCOMP_CACHE_DIR", str(tmp_path))
    cache = default_cache()
    assert cache.directory == tmp_path
    assert default_cache() is cache
    monkeypatch.setenv("ATTNCOMP_CACHE", "0")
    assert default_cache().directory == private_directory()


@pytest.mark.parametrize("flag", ["0", "1"])
def test_what_stays_when_the_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setenv("ATTNCOMP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTNCOMP_CACHE", flag)
    process = run_python(ENDING)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert Path(out.strip()).exists() == (flag == "1")
    assert (tmp_path / "cache").exists() == (flag == "1")


# Keys


def test_keys_depend_on_plan_and_target() -> None:
    keys = {
        cache_key(plan, target)
        for plan in ("a", "b", "ab", "")
        for target in ("", "cpu", "cuda:90")
    }
    assert len(keys) == 12
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)
    assert cache_key("a", "cpu") in keys


@pytest.mark.parametrize("name", ["attncomp", "torch", "triton", "python"])
def test_keys_depend_on_versions(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = cache_key("plan", "cpu")
    if name == "python":
        monkeypatch.setattr(cache_module.platform, "python_version", lambda: "3.99.0")
    else:
        version = cache_module._version
        monkeypatch.setattr(
            cache_module, "_version", lambda other: "99.0" if other == name else version(other)
        )
    cache_module._versions.cache_clear()
    after = cache_key("plan", "cpu")
    monkeypatch.undo()
    cache_module._versions.cache_clear()
    assert after != before
    assert cache_key("plan", "cpu") == before


@pytest.mark.parametrize("name", ["a.py", "ir/b.py", "templates/c.py.jinja", "d.lark"])
def test_keys_depend_on_sources(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    digests = [source_digest(tmp_path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in ("", "one", "two"):
        path.write_text(content)
        digests.append(source_digest(tmp_path))
    path.rename(path.with_name("renamed" + path.suffix))
    digests.append(source_digest(tmp_path))
    assert len(set(digests)) == 5


def test_keys_do_not_depend_on_bytecode(tmp_path: Path) -> None:
    before = source_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"bytecode")
    assert source_digest(tmp_path) == before
