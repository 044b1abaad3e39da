"""The store of generated sources: one file a plan, shared by processes, checked when read.

A file is `<directory>/<key[:2]>/<key>.py`. It is written beside its place and moved there in one
step, so that a reader sees a whole file or none, and its last line is a checksum over key and text,
so that a torn, edited or misplaced file is rendered again. The lock only spares processes that
start together the same work: nothing breaks where it cannot be had.

A file is executed as code by whoever reads it. The directory is therefore created for its owner
alone; do not point `ATTNCOMP_CACHE_DIR` at one that others can write to.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import filelock

from attncomp import knobs
from attncomp.errors import CacheError

_PACKAGE = Path(__file__).resolve().parent.parent
_SOURCE_SUFFIXES = frozenset({".py", ".jinja", ".lark"})
# Names under which Triton is distributed; the version of each one present enters the key.
_TRITON_DISTRIBUTIONS = ("triton", "pytorch-triton", "pytorch-triton-rocm", "triton-windows")
_CHECKSUM = b"# attncomp-sha256: "
_LOCK_SECONDS = 10.0
_STALE_SECONDS = 3600.0
_ATTEMPTS = 3


class SourceCache:
    """Generated source files below `directory`, or a private one where that cannot be written.

    Safe for concurrent threads and processes, kill -9 in mid-write and deletion while in use. On a
    full disk or a read-only directory the cache warns once and moves to a temporary directory
    that lives as long as the process.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._guard = threading.Lock()

    @property
    def directory(self) -> Path:
        """Where files are kept at present."""
        return self._directory

    def load_or_render(self, key: str, render: Callable[[], str]) -> Path:
        """The file that holds the source of `key`, rendered if it is missing or damaged.

        `render` takes no lock and gives the text; what it raises passes through. Raises
        CacheError if the text can be written neither to the directory nor to a temporary one.
        """
        path = self._path(key)
        if _is_intact(path, key):
            return path
        with _creation_lock(path.parent):
            if _is_intact(path, key):
                return path
            return self._store(key, _seal(key, render()))

    def text(self, key: str, make: Callable[[], str]) -> str:
        """What is kept under a key, made if it is missing or damaged, as `load_or_render` does."""
        for _ in range(_ATTEMPTS):
            path = self.load_or_render(key, make)
            # Somebody may empty the cache between writing and reading.
            with contextlib.suppress(FileNotFoundError):
                return path.read_text(encoding="utf-8").rpartition(_CHECKSUM.decode())[0]
        raise CacheError(f"cannot read {path}, which was written a moment ago")

    def _path(self, key: str) -> Path:
        return self._directory / key[:2] / f"{key}.py"

    def _store(self, key: str, content: bytes) -> Path:
        while True:
            directory, path = self._directory, self._path(key)
            try:
                _write_atomically(path, content)
            except OSError as error:
                # Where an open file cannot be replaced (Windows), the one in place may be as good.
                if not _is_intact(path, key):
                    self._retreat(directory, error)
                    continue
            return path

    def _retreat(self, failed: Path, error: OSError) -> None:
        """Move to the private directory; another thread may have done so already."""
        with self._guard:
            if self._directory != failed:
                return
            private = _private_directory_or_none()
            if private is None or private == failed:
                raise CacheError(
                    f"generated kernels can be written neither to {failed} "
                    f"({error.strerror or error}) nor to another temporary directory"
                ) from error
            self._directory = private
        warnings.warn(
            f"attncomp cannot keep generated kernels in {failed} ({error.strerror or error}); "
            f"this process keeps them in {private}, and the next one renders them again",
            RuntimeWarning,
            stacklevel=2,
        )


def default_cache() -> SourceCache:
    """The cache that ATTNCOMP_CACHE_DIR and ATTNCOMP_CACHE name at this moment."""
    return _cache_at(knobs.CACHE_DIR.read() if knobs.CACHE.read() else private_directory())


@functools.cache
def _cache_at(directory: Path) -> SourceCache:
    return SourceCache(directory)


@functools.cache
def private_directory() -> Path:
    """A temporary directory of this process, removed when it ends."""
    directory = Path(tempfile.mkdtemp(prefix="attncomp-"))
    atexit.register(_remove, directory, os.getpid())
    return directory


def _private_directory_or_none() -> Path | None:
    try:
        return private_directory()
    except OSError:
        return None


def _remove(directory: Path, owner: int) -> None:
    # A forked child runs its parent's exit handlers too, and must leave the parent its files.
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


def cache_key(plan_text: str, target: str) -> str:
    """64 hexadecimal digits that name the source generated for a plan.

    `plan_text` is the canonical text of the plan, `target` what it is compiled for (`cuda:90`,
    `cpu`). The sources of this package and the versions of all that shapes generated code enter
    the key, so that no upgrade ever meets a file of another version.
    """
    parts = [plan_text, target, _package_digest(), *_versions()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def _package_digest() -> str:
    return source_digest(_PACKAGE)


def source_digest(package: Path) -> str:
    """Digest of names and contents of all Python, template and grammar files below `package`."""
    digest = hashlib.sha256()
    files = sorted(path for path in package.rglob("*") if path.suffix in _SOURCE_SUFFIXES)
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


@functools.cache
def _versions() -> tuple[str, ...]:
    names = ("attncomp", "torch", *_TRITON_DISTRIBUTIONS)
    return (f"python {platform.python_version()}", *(f"{name} {_version(name)}" for name in names))


def _version(distribution: str) -> str:
    # Triton is absent off Linux; attncomp itself where a checkout is used by path, uninstalled.
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"


def _digest(key: str, text: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + text).hexdigest().encode()


def _seal(key: str, source: str) -> bytes:
    """The file's content: the text and, below it so that line numbers stand, the checksum."""
    text = source.encode()
    if not text.endswith(b"\n"):
        text += b"\n"
    return text + _CHECKSUM + _digest(key, text) + b"\n"


def _is_intact(path: Path, key: str) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    text, marker, checksum = content.rpartition(_CHECKSUM)
    return bool(marker) and checksum == _digest(key, text) + b"\n"


def _make_private(shard: Path) -> None:
    """Create the cache's directory and one below it, both for their owner alone."""
    # `parents=True` would create the outer one with the mode that the umask leaves.
    for directory in (shard.parent, shard):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def _creation_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`, or go without where it cannot be had in `_LOCK_SECONDS`."""
    lock = filelock.FileLock(directory / ".lock", timeout=_LOCK_SECONDS)
    # filelock.Timeout is an OSError; a file system without locks gives OSError or RuntimeError.
    with contextlib.suppress(OSError, RuntimeError):
        _make_private(directory)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step; OSError if that fails, which leaves nothing behind."""
    for attempt in range(_ATTEMPTS):
        try:
            _make_private(path.parent)
            _remove_stale(path.parent)
            _replace(path, content)
        except FileNotFoundError:
            # Somebody emptied the cache between two of these steps.
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _remove_stale(directory: Path) -> None:
    """Remove what processes killed in mid-write left; a live writer is seconds old, not an hour."""
    oldest = time.time() - _STALE_SECONDS
    for leftover in directory.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if leftover.stat().st_mtime < oldest:
                leftover.unlink()
