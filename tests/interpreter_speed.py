"""Triton's interpreter, quicker: types that it makes anew for every value are made once.

Most of an interpreted kernel's time goes into types of values, a few dozen different ones, not into
numbers. What is computed stays Triton's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as machinery


def make_types_once(patch: pytest.MonkeyPatch) -> None:
    """Until the patch is undone, equal types of values share what they consist of."""
    patch.setattr(tl.block_type, "__init__", _block_type(tl.block_type.__init__))
    patch.setattr(tl.tensor, "__init__", _tensor(tl.tensor.__init__))
    patch.setattr(machinery, "_get_np_dtype", _by_name(machinery._get_np_dtype))
    equal = TritonSemantic.broadcast_impl_value
    patch.setattr(TritonSemantic, "broadcast_impl_value", _unless_equal(equal))


def _block_type(make: Callable[..., None]) -> Callable[..., None]:
    """The type of a block; blocks of one shape share the object that says so."""
    known: dict[Any, dict[str, Any]] = {}
    shapes: dict[tuple[int, ...], Any] = {}

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple([getattr(size, "value", size) for size in shape])
        key = element_ty.name, getattr(element_ty, "address_space", None), sizes
        parts = known.get(key)
        if parts is None:
            make(self, element_ty, shape)
            self.shape = shapes.setdefault(sizes, self.shape)
            parts = known[key] = dict(vars(self))
        vars(self).update(parts)

    return init


def _tensor(make: Callable[..., None]) -> Callable[..., None]:
    """A value: its shape, size and dtype follow from its type."""
    known: dict[str, dict[str, Any]] = {}

    def init(self: Any, handle: Any, type: Any) -> None:
        parts = known.get(type.name)
        if parts is None:
            make(self, handle, type)
            known[type.name] = dict(vars(self))
        else:
            vars(self).update(parts)
            self.handle, self.type = handle, type

    return init


def _by_name(dtype_of: Callable[[Any], np.dtype[Any]]) -> Callable[[Any], np.dtype[Any]]:
    """The dtype of the numbers of a type."""
    known: dict[str, np.dtype[Any]] = {}

    def found(type: Any) -> np.dtype[Any]:
        if type.name not in known:
            known[type.name] = dtype_of(type)
        return known[type.name]

    return found


def _unless_equal(broadcast: Callable[..., Any]) -> Callable[..., Any]:
    """Two blocks of one shape need no broadcasting."""

    def of_two(self: Any, lhs: Any, rhs: Any) -> Any:
        left, right = lhs.type, rhs.type
        if left.is_block() and right.is_block() and left.shape is right.shape:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    return of_two
