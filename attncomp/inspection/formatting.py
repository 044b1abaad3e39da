"""Spec files in their canonical form on the command line."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attncomp.frontend.formatter import format_text
from attncomp.frontend.library import read_source


def format_files(names: Sequence[str], *, check: bool) -> tuple[str, bool]:
    """Rewrites the files that are not formatted, or only names them for `check`.

    A line for each file, and whether all were formatted. Raises PatternError for a mistake in one
    of them, before any is written, and OSError with the name of one that cannot be written.
    """
    sources = [read_source(Path(name), name) for name in names]
    texts = [format_text(source.text, source.name) for source in sources]
    lines: list[str] = []
    for source, text in zip(sources, texts, strict=True):
        if text == source.text:
            lines.append(f"{source.name} is formatted\n")
            continue
        if not check:
            try:
                _replace(Path(source.name), text)
            except OSError as error:  # its file is the temporary one
                raise OSError(error.errno, error.strerror, source.name) from error
        lines.append(f"{'would reformat' if check else 'reformatted'} {source.name}\n")
    return "".join(lines), all(s.text == t for s, t in zip(sources, texts, strict=True))


def _replace(path: Path, text: str) -> None:
    """Puts a text into a file in one step; its mode stays, and links to it do."""
    target = path.resolve()
    mode = stat.S_IMODE(target.stat().st_mode)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
