"""Triton's interpreter for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from triton_support import interpreter


@pytest.fixture(scope="module")
def interpreted() -> Iterator[None]:
    """Kernels are interpreted on the CPU from the first test that asks for it on."""
    with interpreter():
        yield
