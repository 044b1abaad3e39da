"""Mistakes in the predicate of a `where`."""

from __future__ import annotations

from attncomp.errors.base import PatternError


class DivisorError(PatternError):
    """A divisor in a predicate that is no constant other than 0. Fields: found."""

    template = "a divisor must be a constant other than 0, found {found}"


class SubscriptError(PatternError):
    """A subscript in a predicate that is an entry of a tensor itself. Fields: found."""

    template = "a subscript must be made of q, k, h, b, n and numbers, found {found}"


class TensorNameError(PatternError):
    """A tensor in a predicate whose name a call uses for something else. Fields: name, use."""

    template = "a tensor cannot be called {name}: that is {use}"


class RankError(PatternError):
    """A tensor in a predicate with another number of subscripts before. Fields: name, expected,
    found.
    """

    template = "tensor {name} has {expected} elsewhere, found {found}"


class PredicateRangeError(PatternError):
    """Arithmetic in a predicate that may leave the 64-bit integers."""

    template = "the numbers here may grow beyond 64 bits"


class UnknownIndexError(PatternError):
    """A name in a predicate that is neither an index nor a parameter. Fields: name."""

    template = "unknown name {name}"
    standing_hint = "known here: q, k, h, b, n, parameters, and tensors with subscripts"


class AmbiguousNameError(PatternError):
    """An index in a predicate that is a parameter of the definition as well. Fields: name."""

    template = "{name} is an index here and a parameter as well"
    standing_hint = "give the parameter another name"
