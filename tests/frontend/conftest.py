"""Spec files in an empty directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from attncomp.frontend.library import Library


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Library]:
    """Writes files, `my` to `my.attn`, `a__b` to `a/b.attn`, and loads the first of them."""
    monkeypatch.chdir(tmp_path)

    def write(**texts: str) -> Library:
        paths = [Path(*name.split("__")).with_suffix(".attn") for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")
        return Library.read(paths[0])

    return write
