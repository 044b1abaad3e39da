"""What a text says, before any name is looked up: patterns with calls, and the items of spec files.

    Syntax = Reference(name, arguments) | WhereSyntax(condition) | HeadsSyntax(groups)
           | Operation(kind, operands) | ModifiedSyntax(pattern, modifiers)
    Arithmetic = Literal | ParameterName | Negation | Chain
    Item = Doc | Import | DefinitionSyntax | ExampleSyntax

Every node has its span. No tree is deeper than `limits.MAX_NESTING` operators or parentheses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as OneOf
from typing import TypeAlias

from typing_extensions import assert_never

from attncomp.errors import Span
from attncomp.frontend.catalog import Value
from attncomp.frontend.predicate import Condition

OperationKind: TypeAlias = OneOf["union", "intersection", "difference", "negation"]


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, a string, True or False."""

    value: Value
    span: Span


@dataclass(frozen=True, slots=True)
class ParameterName:
    """A parameter of the definition around it."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Negation:
    """`-operand`."""

    operand: Arithmetic
    span: Span


@dataclass(frozen=True, slots=True)
class Chain:
    """`first + a - b` or `first * a // b % c`: operators of one strength, from the left."""

    first: Arithmetic
    rest: tuple[tuple[str, Arithmetic], ...]
    span: Span


Arithmetic: TypeAlias = Literal | ParameterName | Negation | Chain


@dataclass(frozen=True, slots=True)
class Name:
    """A word and its place."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class ArgumentSyntax:
    """`value` or `name=value`."""

    name: Name | None
    value: Arithmetic
    span: Span


@dataclass(frozen=True, slots=True)
class Reference:
    """A primitive or definition with arguments; `end` is its ')', or the name itself."""

    name: Name
    arguments: tuple[ArgumentSyntax, ...]
    end: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator: two operands or more for | and &, two for -, one for ~."""

    kind: OperationKind
    operands: tuple[Syntax, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class WhereSyntax:
    """`where(condition)`; a Variable in it may be a parameter."""

    condition: Condition
    span: Span


@dataclass(frozen=True, slots=True)
class ModifiedSyntax:
    """`pattern with modifier, ...`."""

    pattern: Syntax
    modifiers: tuple[Reference, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class SliceSyntax:
    """`start:stop`, either of which may lack, or an index: `start` alone, `is_index`."""

    start: Arithmetic | None
    stop: Arithmetic | None
    is_index: bool
    span: Span

    @property
    def ends(self) -> tuple[Arithmetic, ...]:
        """The numbers that are written."""
        return tuple(end for end in (self.start, self.stop) if end is not None)


@dataclass(frozen=True, slots=True)
class HeadsSyntax:
    """`heads{slice -> pattern, ...}`."""

    groups: tuple[tuple[SliceSyntax, Syntax], ...]
    span: Span


Syntax: TypeAlias = Reference | WhereSyntax | HeadsSyntax | Operation | ModifiedSyntax


def parts_of(syntax: Syntax) -> tuple[Syntax, ...]:
    """The patterns that a pattern is made of."""
    match syntax:
        case Reference() | WhereSyntax():
            return ()
        case Operation():
            return syntax.operands
        case HeadsSyntax():
            return tuple(part for _, part in syntax.groups)
        case ModifiedSyntax():
            return (syntax.pattern,)
        case _:
            assert_never(syntax)


@dataclass(frozen=True, slots=True)
class Doc:
    """A string that stands for itself, without its quotes."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Import:
    """`from ..a.b import names`: level 2, module ("a", "b")."""

    level: int
    module: tuple[str, ...]
    module_span: Span
    names: tuple[Name, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class BoundSyntax:
    """`>= 1`: a relation, whichever it is, and a number."""

    relation: Name
    value: int | float
    span: Span


@dataclass(frozen=True, slots=True)
class ParameterSyntax:
    """`name: type >= minimum <= maximum = default`, of which all but name and type may lack."""

    name: Name
    type: Name
    bounds: tuple[BoundSyntax, ...]
    default: Arithmetic | None
    span: Span


@dataclass(frozen=True, slots=True)
class DefinitionSyntax:
    """`pattern name(parameters) = body`."""

    name: Name
    parameters: tuple[ParameterSyntax, ...]
    body: Syntax
    span: Span


TensorLiteral: TypeAlias = "float | tuple[TensorLiteral, ...]"


@dataclass(frozen=True, slots=True)
class Given:
    """`name=[1, 2]`: a tensor for an example; `rows` spans the brackets."""

    name: Name
    value: TensorLiteral
    span: Span


@dataclass(frozen=True, slots=True)
class ExampleSyntax:
    """`example pattern given tensors = picture`; `picture` spans the string with its quotes."""

    pattern: Syntax
    given: tuple[Given, ...]
    picture: Span
    span: Span


Item: TypeAlias = Doc | Import | DefinitionSyntax | ExampleSyntax
