"""What a call has to fulfil: every mistake has an error of its own, before any kernel runs.

Only attributes are read, so that a check costs microseconds and torch.compile can trace it.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from attncomp import knobs
from attncomp.errors import (
    MissingTensorError,
    OptionError,
    TensorDeviceError,
    TensorDtypeError,
    TensorLayoutError,
    TensorShapeError,
    UnknownTensorError,
    suggest,
)

MIN_HEAD_DIM: Final = 16
MAX_HEAD_DIM: Final = 256
CALL_OPTIONS: Final = ("scale", "return_lse")

_NARROW = (torch.float16, torch.bfloat16, torch.float32)
_DTYPES: Final[Mapping[str, tuple[torch.dtype, ...]]] = {
    "triton": _NARROW,
    "torch": (*_NARROW, torch.float64),
    "reference": (*_NARROW, torch.float64),
}
SCORE_DTYPES: Final = (*_NARROW, torch.float64)
_LAYOUTS: Final = (
    ("q", "[B, Hq, Nq, D]"),
    ("k", "[B, Hk, Nk, D]"),
    ("v", "[B, Hk, Nk, Dv]"),
)


def check_tensors(q: object, k: object, v: object, pattern: str) -> None:
    """Raise MissingTensorError for the first of q, k and v that is no tensor."""
    for (subject, layout), value in zip(_LAYOUTS, (q, k, v), strict=True):
        check_given(subject, value, layout, pattern)


def check_given(subject: str, value: object, layout: str, pattern: str) -> None:
    """Raise MissingTensorError for what is no tensor; layout says which one was expected."""
    if not isinstance(value, Tensor):
        found = "none" if value is None else type(value).__name__
        raise MissingTensorError(subject=subject, expected=layout, found=found, pattern=pattern)


def check_query_key_value(q: Tensor, k: Tensor, v: Tensor, backend: str, pattern: str) -> None:
    """Raise the CallError of the first thing that is wrong with q, k or v."""
    for (subject, layout), tensor in zip(_LAYOUTS, (q, k, v), strict=True):
        if tensor.ndim != 4:
            raise TensorShapeError(
                subject=subject, expected=layout, found=tuple(tensor.shape), pattern=pattern
            )
        check_device(subject, tensor, q, pattern)
        check_layout(subject, tensor, pattern)
    _check_dtypes(q, k, v, backend, pattern)
    _check_query(q, pattern)
    _check_key_value(q, k, v, pattern)


def check_device(subject: str, tensor: Tensor, q: Tensor, pattern: str) -> None:
    """Raise TensorDeviceError for a tensor elsewhere than q."""
    if tensor.device != q.device:
        raise TensorDeviceError(
            subject=subject,
            expected=f"{q.device}, q's own",
            found=str(tensor.device),
            pattern=pattern,
        )


def check_layout(subject: str, tensor: Tensor, pattern: str) -> None:
    """Raise TensorLayoutError for a tensor that is not strided, or has gaps in its rows."""
    if tensor.layout is not torch.strided:
        raise TensorLayoutError(
            subject=subject, expected="strided", found=name_of(tensor.layout), pattern=pattern
        )
    if tensor.stride(-1) != 1:
        raise TensorLayoutError(
            subject=subject,
            expected="with a last stride of 1 (call .contiguous())",
            found=f"strides {list(tensor.stride())}",
            pattern=pattern,
        )


def name_of(value: torch.dtype | torch.layout) -> str:
    """`float32`: a dtype or layout without its module."""
    return str(value).removeprefix("torch.")


def names_of(dtypes: Sequence[torch.dtype]) -> str:
    """`float16, bfloat16 or float32`."""
    *names, last = map(name_of, dtypes)
    return f"{', '.join(names)} or {last}"


def _check_dtypes(q: Tensor, k: Tensor, v: Tensor, backend: str, pattern: str) -> None:
    if q.dtype not in _DTYPES[backend]:
        raise TensorDtypeError(
            subject="q",
            expected=f"{names_of(_DTYPES[backend])} on backend '{backend}'",
            found=name_of(q.dtype),
            pattern=pattern,
        )
    for subject, tensor in (("k", k), ("v", v)):
        if tensor.dtype != q.dtype:
            raise TensorDtypeError(
                subject=subject,
                expected=f"{name_of(q.dtype)}, q's own",
                found=name_of(tensor.dtype),
                pattern=pattern,
            )


def _check_query(q: Tensor, pattern: str) -> None:
    _, heads, n_queries, head_dim = q.shape
    if heads < 1 or n_queries < 1 or not MIN_HEAD_DIM <= head_dim <= MAX_HEAD_DIM:
        raise TensorShapeError(
            subject="q",
            expected=f"[B, Hq, Nq, D] with Hq, Nq >= 1 and {MIN_HEAD_DIM} <= D <= {MAX_HEAD_DIM}",
            found=tuple(q.shape),
            pattern=pattern,
        )


def _check_key_value(q: Tensor, k: Tensor, v: Tensor, pattern: str) -> None:
    batch, heads, _, head_dim = q.shape
    key_batch, kv_heads, n_keys, key_dim = k.shape
    fits = key_batch == batch and key_dim == head_dim and kv_heads >= 1 and n_keys >= 1
    if not fits or heads % kv_heads:
        raise TensorShapeError(
            subject="k",
            expected=f"[{batch}, Hk, Nk, {head_dim}] with Nk >= 1 and Hk dividing {heads} heads",
            found=tuple(k.shape),
            pattern=pattern,
        )
    value_batch, value_heads, n_values, value_dim = v.shape
    fits = value_batch == batch and value_heads == kv_heads and n_values == n_keys
    if not fits or not MIN_HEAD_DIM <= value_dim <= MAX_HEAD_DIM:
        raise TensorShapeError(
            subject="v",
            expected=f"[{batch}, {kv_heads}, {n_keys}, Dv] with "
            f"{MIN_HEAD_DIM} <= Dv <= {MAX_HEAD_DIM}",
            found=tuple(v.shape),
            pattern=pattern,
        )


def check_names(given: Mapping[str, object], known: Sequence[str], pattern: str) -> None:
    """Raise UnknownTensorError for a keyword that is none of the known ones."""
    for name in given:
        if name not in known:
            close = suggest(name, (*known, *CALL_OPTIONS))
            hint = f" (did you mean '{close}'?)" if close is not None else ""
            raise UnknownTensorError(
                subject=name,
                expected=f"a tensor named {_quoted_list(known)}" if known else "no tensors",
                found=f"'{name}'{hint}",
                pattern=pattern,
            )


def _quoted_list(names: Sequence[str]) -> str:
    *others, last = (f"'{name}'" for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def check_scores(
    name: str, tensor: Tensor, n_keys: int, pattern: str, q: Tensor | None = None
) -> None:
    """Raise the CallError of the first thing that is wrong with a score tensor [B, G, Nk].

    Without the q that it is for, batch, number of groups and device are free.
    """
    if tensor.layout is not torch.strided:
        check_layout(name, tensor, pattern)
    fits = tensor.ndim == 3 and tensor.shape[1] >= 1 and tensor.shape[2] == n_keys
    if fits and q is not None:
        fits = tensor.shape[0] == q.shape[0] and q.shape[1] % tensor.shape[1] == 0
    if not fits:
        batch, groups = ("B", ">= 1") if q is None else (q.shape[0], f"dividing {q.shape[1]} heads")
        raise TensorShapeError(
            subject=name,
            expected=f"[{batch}, G, {n_keys}] with G {groups}",
            found=tuple(tensor.shape),
            pattern=pattern,
        )
    if q is not None:
        check_device(name, tensor, q, pattern)
    check_real(name, tensor, pattern)


def check_real(name: str, tensor: Tensor, pattern: str) -> None:
    """Raise TensorDtypeError for a tensor that is none of floats."""
    if tensor.dtype not in SCORE_DTYPES:
        raise TensorDtypeError(
            subject=name,
            expected=names_of(SCORE_DTYPES),
            found=name_of(tensor.dtype),
            pattern=pattern,
        )


def check_learned(name: str, tensor: Tensor, width: int | None, pattern: str, q: Tensor) -> None:
    """Raise the CallError of the first thing that is wrong with a tensor [Hq] of a modifier.

    width: of a second dimension, None for none.
    """
    if tensor.layout is not torch.strided:
        check_layout(name, tensor, pattern)
    expected = (q.shape[1],) if width is None else (q.shape[1], width)
    if tuple(tensor.shape) != expected:
        raise TensorShapeError(
            subject=name, expected=expected, found=tuple(tensor.shape), pattern=pattern
        )
    check_device(name, tensor, q, pattern)
    check_real(name, tensor, pattern)


def check_thresholds(
    name: str, tensor: Tensor, heads: int, pattern: str, q: Tensor | None = None
) -> None:
    """Raise the CallError of the first thing that is wrong with thresholds [Hq].

    q is the call's, None for a mask.
    """
    if tensor.layout is not torch.strided:
        check_layout(name, tensor, pattern)
    if tuple(tensor.shape) != (heads,):
        raise TensorShapeError(
            subject=name, expected=(heads,), found=tuple(tensor.shape), pattern=pattern
        )
    if q is not None:
        check_device(name, tensor, q, pattern)
    check_real(name, tensor, pattern)


def check_options(backend: str | None, options: Mapping[str, object], autotune: object) -> None:
    """OptionError for options of `compile` that there are not, and for values they do not have."""
    if options:
        found = _unknown(next(iter(options)), ("autotune", "backend", "library"))
        expected = "option 'autotune', 'backend' or 'library'"
        raise OptionError(subject="compile", expected=expected, found=found)
    if not isinstance(autotune, bool):
        raise OptionError(subject="autotune", expected="True or False", found=repr(autotune))
    if backend is not None and backend not in knobs.BACKENDS:
        *others, last = knobs.BACKENDS
        raise OptionError(
            subject="backend",
            expected=f"{', '.join(others)} or {last}",
            found=_unknown(backend, knobs.BACKENDS),
        )


def check_tunable(backend: str | None, pattern: str | None = None) -> None:
    """OptionError for autotune on a backend without schedules."""
    if backend == "reference":
        expected = "backend triton or torch, as 'reference' has no schedules"
        raise OptionError(subject="autotune", expected=expected, found="True", pattern=pattern)


def _unknown(name: object, known: tuple[str, ...]) -> str:
    close = suggest(name, known) if isinstance(name, str) else None
    return f"{name!r}" + (f" (did you mean '{close}'?)" if close is not None else "")


def checked_scale(scale: object, head_dim: int, pattern: str, *, own: bool = False) -> float:
    """The scale as a float, 1 / sqrt(D) for None; OptionError unless it is a finite number.

    own: whether the pattern or one of its groups has a scale, with which a call gives none.
    """
    if own and scale is not None:
        expected = "none, as the pattern has its own"
        raise OptionError(subject="scale", expected=expected, found=scale, pattern=pattern)
    if scale is None:
        return head_dim**-0.5
    found: object = type(scale).__name__
    if not isinstance(scale, bool) and isinstance(scale, numbers.Real):
        try:
            found = float(scale)
        except OverflowError:
            found = "a number too large for a float"
    if not isinstance(found, float) or not math.isfinite(found):
        raise OptionError(subject="scale", expected="a finite number", found=found, pattern=pattern)
    return found


def checked_length(name: str, size: Any) -> int:
    """A number of positions as an int; OptionError unless it is an integer of 1 or more."""
    try:
        length = 0 if isinstance(size, bool) else operator.index(size)
    except TypeError:
        length = 0
    if length < 1:
        raise OptionError(subject=name, expected="a length of 1 or more", found=repr(size))
    return length
