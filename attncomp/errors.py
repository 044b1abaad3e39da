"""Every error that attncomp raises on purpose: one class per mistake.

`PatternError` and its subclasses point at a place in the text of a pattern; `CallError` and its
subclasses name an argument of a call. All of them derive from `AttncompError`, survive pickling
and carry their parts as attributes, so that tools need not read the message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from attncomp.source import Note as Note
from attncomp.source import Source as Source
from attncomp.source import Span as Span
from attncomp.source import cropped as cropped
from attncomp.source import printable as printable
from attncomp.source import quoted as quoted
from attncomp.source import suggest as suggest

_MAX_NOTES = 8  # that str() shows in full


class AttncompError(Exception):
    """Base of all errors of this package."""

    def __reduce__(self) -> tuple[Callable[..., AttncompError], tuple[Any, ...]]:
        # Exception.__reduce__ calls the class with positional arguments only.
        return _restored, (type(self), self.args, self.__dict__.copy())


def _restored(
    cls: type[AttncompError], args: tuple[object, ...], attributes: dict[str, object]
) -> AttncompError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    return error


class PatternError(AttncompError, ValueError):
    """A pattern that cannot be understood, with the place of the mistake.

    Attributes: `message` (one line), `span` (None where the pattern was built without text),
    `hint` (what to write instead, or None) and `notes` (other places, such as the calls that led
    to a mistake inside of a definition, innermost first). `str()` draws the lines with carets.
    """

    template: ClassVar[str]
    standing_hint: ClassVar[str | None] = None

    message: str
    span: Span | None
    hint: str | None
    notes: tuple[Note, ...]

    def __init__(
        self,
        span: Span | None,
        *,
        hint: str | None = None,
        notes: tuple[Note, ...] = (),
        **fields: object,
    ) -> None:
        self.message = self.template.format(**fields)
        self.span = span
        self.hint = hint if hint is not None else self.standing_hint
        self.notes = notes or getattr(span, "notes", ())
        super().__init__(self.message)

    def __str__(self) -> str:
        if self.span is not None:
            first = f"error: {self.message}\n{self.span.render(self.hint)}"
        else:
            first = f"error: {self.message}" + (f" ({self.hint})" if self.hint else "")
        notes = list(map(str, self.notes))
        if len(notes) > _MAX_NOTES:
            kept = _MAX_NOTES // 2
            notes[kept:-kept] = [f"({len(notes) - 2 * kept} more)"]
        return "\n".join((first, *notes))


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


class UnreadableFileError(PatternError):
    """A spec file that cannot be read. Fields: path, reason."""

    template = "cannot read {path}: {reason}"


class UnknownModuleError(PatternError):
    """An import from a file that is not there. Fields: module, path."""

    template = "unknown module {module}: there is no file {path}"


class UnknownImportError(PatternError):
    """An import of a name that its file does not define. Fields: name, module."""

    template = "{module} defines no {name}"


class CyclicImportError(PatternError):
    """Files that import one another in a circle. Fields: chain."""

    template = "imports go in a circle: {chain}"


class RecursiveDefinitionError(PatternError):
    """A definition that calls itself, directly or through others. Fields: name, chain."""

    template = "pattern {name} calls itself: {chain}"


class DuplicateNameError(PatternError):
    """A name that is given twice. Fields: name."""

    template = "{name} is defined twice"


class ShadowedPrimitiveError(PatternError):
    """A definition, parameter or import with the name of a primitive. Fields: name."""

    template = "{name} is a primitive and keeps its name"


class UnusedNameError(PatternError):
    """An import, parameter or private definition that nothing uses. Fields: what, name."""

    template = "{what} {name} is never used"


class UnknownTypeError(PatternError):
    """A parameter whose type is none of the language. Fields: name."""

    template = "unknown type {name}: expected int, float, str or bool"


class ParameterOrderError(PatternError):
    """A parameter without default behind one with. Fields: name."""

    template = "parameter {name} needs a default, as the one before it has"


class StrayDocError(PatternError):
    """A string that documents nothing."""

    template = "this string documents nothing: the doc of a pattern stands before it"


class NoDefinitionsError(PatternError):
    """A spec file without definitions."""

    template = "the file defines no pattern"
    standing_hint = "write for example 'pattern mine(size: int = 256) = window(size)'"


class PictureError(PatternError):
    """The picture of an example that draws no matrix of gates. Fields: expected, found."""

    template = "wrong picture: expected {expected}, found {found}"


class ExampleError(PatternError):
    """Tensors of an example that do not fit its pattern. Fields: reason."""

    template = "the example cannot be drawn: {reason}"


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

    noun = "a tensor named"


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
