"""Mistakes in a pattern, as a text or as a tree."""

from __future__ import annotations

from attncomp.errors.base import PatternError


class UnknownPatternError(PatternError):
    """A name that no primitive has. Fields: name."""

    template = "unknown pattern {name}"


class UnknownArgumentError(PatternError):
    """A keyword that the primitive does not take. Fields: pattern, argument."""

    template = "{pattern} has no argument {argument}"


class RepeatedArgumentError(PatternError):
    """An argument given twice. Fields: pattern, argument."""

    template = "argument {argument} of {pattern} is given twice"


class ArgumentTypeError(PatternError):
    """An argument of the wrong type. Fields: pattern, argument, expected, found."""

    template = "argument {argument} of {pattern} must be {expected}, found {found}"


class ArgumentRangeError(PatternError):
    """An argument outside its range or choices. Fields: pattern, argument, expected, found."""

    template = "argument {argument} of {pattern} must be {expected}, found {found}"


class ArgumentOrderError(PatternError):
    """A positional argument behind a keyword. Fields: pattern."""

    template = "positional argument of {pattern} stands behind a keyword argument"


class MissingArgumentError(PatternError):
    """A required argument that is not given. Fields: pattern, argument."""

    template = "{pattern} needs argument {argument}"


class ArgumentFormError(PatternError):
    """Two arguments that no call may have together. Fields: pattern, argument, other."""

    template = "argument {argument} of {pattern} cannot stand beside {other}"


class TooManyArgumentsError(PatternError):
    """More arguments than parameters. Fields: pattern, expected, found."""

    template = "{pattern} takes {expected}, found {found}"


class UnexpectedEndError(PatternError):
    """The text stops where something must follow. Fields: text, expected."""

    template = "unexpected end of the {text}: expected {expected}"


class UnexpectedTextError(PatternError):
    """Text that cannot stand where it stands. Fields: found, expected."""

    template = "unexpected {found}: expected {expected}"


class ReservedWordError(PatternError):
    """A word of the language in place of a name. Fields: name."""

    template = "{name} is a reserved word"


class UnknownParameterError(PatternError):
    """A name among values that is no parameter of the definition. Fields: name."""

    template = "unknown parameter {name}"


class ArithmeticTypeError(PatternError):
    """Arithmetic on a string or a truth value. Fields: operator, found."""

    template = "{operator} needs numbers, found {found}"


class DivisionByZeroError(PatternError):
    """`//` or `%` by zero. Fields: operator."""

    template = "{operator} by zero"


class ArithmeticRangeError(PatternError):
    """A result of arithmetic that no parameter could take. Fields: operator."""

    template = "the result of {operator} is too large"


class SoftComplementError(PatternError):
    """`~A` or `B - A` with a soft A, for which 1 - A has no sparse form."""

    template = "a soft pattern has no complement"
    standing_hint = 'only sparsek(..., gate="hard") may stand here'


class GateModeError(PatternError):
    """Two soft members of one pattern differ in their gate mode. Fields: expected, found."""

    template = "soft members must share one gate mode: expected {expected}, found {found}"


class HeadSliceError(PatternError):
    """A slice of heads that is none. Fields: reason."""

    template = "wrong slice of heads: {reason}"


class HeadOverlapError(PatternError):
    """Two groups of heads that share heads. Fields: first, second."""

    template = "the heads {first} and {second} overlap"


class HeadGapError(PatternError):
    """Heads that no group holds, before the slice at the place. Fields: heads."""

    template = "no group holds the heads {heads}"


class NestingError(PatternError):
    """Parentheses or operators nested too deeply. Fields: limit."""

    template = "pattern is nested deeper than {limit} levels"


class PatternTooLargeError(PatternError):
    """A text or a tree over the size limit. Fields: limit, unit."""

    template = "pattern is larger than {limit} {unit}"


class EmptyPatternError(PatternError):
    """A text of blanks and comments only."""

    template = "empty pattern"
    standing_hint = "write for example 'window(256)', or 'full' for all keys"
