"""The source cache where nothing can be written: read-only directories, full disks, no locks."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import filelock
import pytest
from cache_support import SOURCE, leftovers, must_not_render

from attncomp.errors import CacheError
from attncomp.runtime import cache as cache_module
from attncomp.runtime.cache import SourceCache, cache_key, private_directory


def raising(code: int) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def below(directory: Path, real: Callable[..., Any], code: int) -> Callable[..., Any]:
    """`real`, but failing with `code` for files below `directory`."""

    def limited(*arguments: Any, **options: Any) -> Any:
        place = options.get("dir") or arguments[0]
        if Path(place).is_relative_to(directory):
            raise OSError(code, os.strerror(code), str(place))
        return real(*arguments, **options)

    return limited


def retreats(cache: SourceCache, key: str, reason: str) -> None:
    """Check that the cache moves to the private directory with one warning, for good."""
    first = cache.directory
    with pytest.warns(RuntimeWarning) as caught:
        path = cache.load_or_render(key, lambda: SOURCE)
    assert [str(warning.message) for warning in caught] == [
        f"attncomp cannot keep generated kernels in {first} ({reason}); this process keeps them in "
        f"{private_directory()}, and the next one renders them again"
    ]
    assert path.read_text().startswith(SOURCE)
    assert path.is_relative_to(private_directory())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.load_or_render(key, must_not_render) == path
        assert cache.load_or_render(key[::-1], lambda: SOURCE).is_relative_to(private_directory())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_read_only_directory(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # Permissions do not bind root, hence the patched functions.
    monkeypatch.setattr(os, "mkdir", below(tmp_path, os.mkdir, code))
    monkeypatch.setattr(tempfile, "mkstemp", below(tmp_path, tempfile.mkstemp, code))
    start = time.monotonic()
    retreats(SourceCache(tmp_path / "cache"), key, os.strerror(code))
    assert time.monotonic() - start < 5


def test_read_only_directory_still_serves_what_it_holds(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SourceCache(tmp_path).load_or_render(key, lambda: SOURCE)
    for function in ("mkdir", "open", "replace"):
        monkeypatch.setattr(os, function, raising(errno.EROFS))
    assert SourceCache(tmp_path).load_or_render(key, must_not_render) == path


def test_a_file_where_the_directory_should_be(tmp_path: Path, key: str) -> None:
    (tmp_path / "cache").touch()
    retreats(SourceCache(tmp_path / "cache"), key, os.strerror(errno.EEXIST))


class FullDisk:
    """`os.fdopen` on a disk that takes only the first bytes of files below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.open = os.fdopen

    def __call__(self, descriptor: int, mode: str) -> Any:
        file = self.open(descriptor, mode)
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(self.directory):
            return Truncating(file)
        return file


class Truncating:
    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> Truncating:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> NoReturn:
        self.file.write(content[:5])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "cache"
    monkeypatch.setattr(os, "fdopen", FullDisk(directory))
    retreats(SourceCache(directory), key, os.strerror(errno.ENOSPC))
    assert leftovers(directory) == []
    assert list(directory.rglob("*.py")) == []


def test_full_disk_at_fsync(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Delayed allocation: the disk says only at the end that it is full, and stays full."""
    monkeypatch.setattr(os, "fsync", raising(errno.ENOSPC))
    cache = SourceCache(tmp_path)
    with (
        pytest.warns(RuntimeWarning, match="No space left on device"),
        pytest.raises(CacheError) as caught,
    ):
        cache.load_or_render(key, lambda: SOURCE)
    assert str(caught.value) == (
        f"generated kernels can be written neither to {private_directory()} "
        "(No space left on device) nor to another temporary directory"
    )
    assert leftovers(tmp_path) == []


def test_no_temporary_directory_either(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", raising(errno.ENOSPC))
    monkeypatch.setattr(cache_module, "private_directory", raising(errno.EROFS))
    with pytest.raises(CacheError) as caught:
        SourceCache(tmp_path).load_or_render(key, lambda: SOURCE)
    assert str(caught.value) == (
        f"generated kernels can be written neither to {tmp_path} "
        "(No space left on device) nor to another temporary directory"
    )


def test_a_file_that_cannot_be_replaced_but_is_whole(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, when another process made the file first and holds it open."""
    replace = os.replace

    def replaced_and_denied(source: str, target: Path) -> None:
        replace(source, target)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", replaced_and_denied)
    cache = SourceCache(tmp_path)
    assert cache.load_or_render(key, lambda: SOURCE).is_relative_to(tmp_path)
    assert cache.directory == tmp_path


def test_threads_retreat_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", below(tmp_path, tempfile.mkstemp, errno.EROFS))
    cache, barrier, paths = SourceCache(tmp_path), threading.Barrier(4), []

    def work(key: str) -> None:
        barrier.wait()
        paths.append(cache.load_or_render(key, lambda: SOURCE))

    keys = [cache_key(uuid.uuid4().hex, "cpu") for _ in range(4)]
    threads = [threading.Thread(target=work, args=(key,)) for key in keys]
    with pytest.warns(RuntimeWarning) as caught:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(caught) == 1
    assert len(paths) == 4
    assert all(path.is_relative_to(private_directory()) for path in paths)


def test_a_file_system_without_locks(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filelock.FileLock, "acquire", raising(errno.ENOLCK))
    path = SourceCache(tmp_path).load_or_render(key, lambda: SOURCE)
    assert path.is_relative_to(tmp_path)
