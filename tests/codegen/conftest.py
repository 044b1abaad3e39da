"""Triton's interpreter for the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from triton_support import interpreter


def _of_fives(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **keywords: make(*args, **keywords).fill_(5)


@pytest.fixture(scope="module")
def interpreted() -> Iterator[None]:
    """Kernels are interpreted on the CPU from the first test that asks for it on.

    Memory that nothing has written yet holds fives, so that it shows where a kernel reads such.
    """
    with interpreter(), pytest.MonkeyPatch.context() as patch:
        for space, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
            patch.setattr(space, name, _of_fives(getattr(space, name)))
        yield
