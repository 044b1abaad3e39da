"""Triton's interpreter, quicker: what it finds out anew for every value is found out once.

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


def hasten(patch: pytest.MonkeyPatch) -> None:
    """Until the patch is undone, what follows from the types of values is found once a type."""
    patch.setattr(tl.block_type, "__init__", _block_type(tl.block_type.__init__))
    patch.setattr(tl.tensor, "__init__", _tensor(tl.tensor.__init__))
    patch.setattr(machinery, "_get_np_dtype", _by_name(machinery._get_np_dtype))
    equal = TritonSemantic.broadcast_impl_value
    patch.setattr(TritonSemantic, "broadcast_impl_value", _unless_equal(equal))
    promote = TritonSemantic.binary_op_type_checking_impl
    patch.setattr(TritonSemantic, "binary_op_type_checking_impl", _promotion(promote))
    # Integers are added twice, to assert that they fit; but the interpreter takes no assertions.
    patch.setattr(TritonSemantic, "binary_op_sanitize_overflow_impl", lambda *_: None)


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


def _promotion(promote: Callable[..., Any]) -> Callable[..., Any]:
    """What two types have in common is worked out once; so is the value that a number becomes."""
    unchanged: dict[Any, bool] = {}
    numbers: dict[Any, Any] = {}

    def of_two(self: Any, lhs: Any, rhs: Any, *args: Any) -> Any:
        if not (isinstance(lhs, tl.tensor) and isinstance(rhs, tl.tensor)):
            return of_number(self, lhs, rhs, *args)
        key = lhs.type.name, rhs.type.name, args
        if key not in unchanged:
            left, right = promote(self, lhs, rhs, *args)
            unchanged[key] = left.dtype == lhs.dtype and right.dtype == rhs.dtype
            return left, right
        if unchanged[key]:
            return self.broadcast_impl_value(lhs, rhs)
        return promote(self, lhs, rhs, *args)

    def of_number(self: Any, lhs: Any, rhs: Any, *args: Any) -> Any:
        if not (isinstance(lhs, tl.tensor) and isinstance(rhs, int)):
            return promote(self, lhs, rhs, *args)
        key = lhs.type.name, type(rhs), rhs, args
        if key not in numbers:
            value, number = promote(self, lhs, rhs, *args)
            if value is not lhs:
                return value, number
            number.handle.data.flags.writeable = False
            numbers[key] = number
        return lhs, numbers[key]

    return of_two
