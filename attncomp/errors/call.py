"""Mistakes in a call, and what keeps a correct one from running."""

from __future__ import annotations

from typing import ClassVar

from attncomp.errors.base import AttncompError


class CallError(AttncompError, ValueError):
    """A compiled pattern called with an argument that does not fit.

    Fields: `subject` (the argument's name), `expected`, `found` (tuples are drawn as shapes) and
    `pattern` (its text, or None where no pattern is concerned).
    """

    noun: ClassVar[str] = ""

    def __init__(
        self, *, subject: str, expected: object, found: object, pattern: str | None = None
    ) -> None:
        self.subject = subject
        self.expected = expected
        self.found = found
        self.pattern = pattern
        noun = f"{self.noun} " if self.noun else ""
        where = f" (pattern '{pattern}')" if pattern is not None else ""
        super().__init__(
            f"{subject}: expected {noun}{_shape(expected)}, found {_shape(found)}{where}"
        )


def _shape(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


class MissingTensorError(CallError):
    """A tensor that the pattern needs is not given."""

    noun = "tensor"


class UnknownTensorError(CallError):
    """A tensor that the pattern does not use is given."""


class TensorShapeError(CallError):
    """A tensor has the wrong shape."""

    noun = "shape"


class TensorDtypeError(CallError):
    """A tensor has the wrong dtype."""

    noun = "dtype"


class TensorDeviceError(CallError):
    """A tensor lies on the wrong device."""

    noun = "device"


class TensorLayoutError(CallError):
    """A tensor has strides or a layout that no kernel takes."""

    noun = "layout"


class OptionError(CallError):
    """An option that is not a tensor (scale, backend, ...) has a value that is not allowed."""


class HeadGroupError(CallError):
    """Groups of heads that do not cut the heads of a call into parts."""


class BackendError(AttncompError, RuntimeError):
    """A path that cannot run here; the message says which and why."""


class VerificationError(AttncompError, RuntimeError):
    """A pass left an invalid graph: a defect of this package. Names the pass and the node."""

    def __init__(self, reason: str, *, pass_name: str, node: str) -> None:
        self.reason = reason
        self.pass_name = pass_name
        self.node = node
        super().__init__(f"pass {pass_name!r} left an invalid graph at {node}: {reason}")


class CacheError(AttncompError, RuntimeError):
    """The kernel cache can neither be read nor rebuilt; the message names the path."""
