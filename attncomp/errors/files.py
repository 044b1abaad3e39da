"""Mistakes in spec files and between them."""

from __future__ import annotations

from attncomp.errors.base import PatternError


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


class BoundError(PatternError):
    """A bound that a parameter cannot have. Fields: name, reason."""

    template = "wrong bound of parameter {name}: {reason}"


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
