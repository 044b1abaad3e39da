"""Fixtures of the runtime's tests."""

from __future__ import annotations

import uuid

import pytest

from attncomp.runtime.cache import cache_key


@pytest.fixture
def key() -> str:
    """A key of the source cache that no other test uses: processes share its private directory."""
    return cache_key(uuid.uuid4().hex, "cpu")
