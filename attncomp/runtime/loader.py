"""Import generated source files as modules, once a process each."""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from attncomp.errors import BackendError, CacheError
from attncomp.runtime.cache import SourceCache

_modules: dict[tuple[str, str], ModuleType] = {}
_generated: dict[str, ModuleType] = {}
# Reentrant, because a generated module may import one that loads another.
_guard = threading.RLock()
_ATTEMPTS = 3


def load_generated(cache: SourceCache, key: str, render: Callable[[], str]) -> ModuleType:
    """The module generated for `key`, from memory, the disk cache, or `render`, in this order.

    Raises CacheError if the file can be neither written nor read, BackendError if it cannot be
    imported.
    """
    with _guard:
        if key not in _generated:
            _generated[key] = _load_or_render(cache, key, render)
        return _generated[key]


def _load_or_render(cache: SourceCache, key: str, render: Callable[[], str]) -> ModuleType:
    name = f"attncomp_generated_{key}"
    for _ in range(_ATTEMPTS - 1):
        try:
            return load_module(cache.load_or_render(key, render), name)
        except CacheError as error:
            # Somebody emptied the cache between writing and reading: once more.
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return load_module(cache.load_or_render(key, render), name)


def load_module(path: Path, name: str) -> ModuleType:
    """Import the file at `path` as `name`; the same arguments give the same module.

    No bytecode is written. The text stays known to `linecache`, hence to tracebacks, `inspect` and
    Triton, even after the file is gone. The module stands in `sys.modules`, where torch.compile and
    pickle look functions up. Raises CacheError if the file cannot be read, BackendError if it
    cannot be imported; both name it.
    """
    with _guard:
        known = _modules.get((str(path), name))
        if known is not None:
            return known
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CacheError(f"cannot read generated file {path}: {error}") from error
        module = _execute(path, name, source)
        _modules[str(path), name] = module
        return module


def _execute(path: Path, name: str, source: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    # Without a modification time linecache never discards the entry.
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise BackendError(
            f"cannot import generated file {path}: {type(error).__name__}: {error}"
        ) from error
    return module
