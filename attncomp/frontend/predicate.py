"""The syntax tree of a predicate, what stands inside `where(...)`, and its canonical text.

    Condition = Compare(relation, left, right) | And(parts) | Or(parts) | Not(operand)
    Integer   = Number(value) | Variable(name) | Arithmetic(operator, left, right)
              | Negative(operand) | Entry(tensor, indices)

A chain `a < b < c` is `And((a < b, b < c))`. As in the trees of patterns, spans take no part in
comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from typing_extensions import assert_never

from attncomp.errors import Span

VariableName: TypeAlias = Literal["q", "k", "h", "b", "n"]
Relation: TypeAlias = Literal["<", "<=", ">", ">=", "==", "!="]
Operator: TypeAlias = Literal["+", "-", "*", "//", "%"]

VARIABLES: Final[tuple[VariableName, ...]] = get_args(VariableName)
RELATIONS: Final[tuple[Relation, ...]] = get_args(Relation)
OPERATORS: Final[tuple[Operator, ...]] = get_args(Operator)


@dataclass(frozen=True, slots=True)
class Number:
    """An integer constant of 0 or more."""

    value: int
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Variable:
    """q, k: positions of query and key; h: query head; b: row of the batch; n: number of keys."""

    name: VariableName
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`left operator right`; `//` rounds down and `%` has the sign of its divisor, as in Python."""

    operator: Operator
    left: Integer
    right: Integer
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Negative:
    """`-operand`."""

    operand: Integer
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """`tensor[i, j, ...]`: an entry of an integer tensor that is given at the call.

    An entry outside of the tensor counts as 0.
    """

    tensor: str
    indices: tuple[Integer, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


Integer: TypeAlias = "Number | Variable | Arithmetic | Negative | Entry"


@dataclass(frozen=True, slots=True)
class Compare:
    """`left relation right`."""

    relation: Relation
    left: Integer
    right: Integer
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class And:
    """All of the parts, two or more; a part of the same kind is merged."""

    parts: tuple[Condition, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _merge(self)


@dataclass(frozen=True, slots=True)
class Or:
    """Any of the parts, two or more; a part of the same kind is merged."""

    parts: tuple[Condition, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _merge(self)


@dataclass(frozen=True, slots=True)
class Not:
    """Not the operand."""

    operand: Condition
    span: Span | None = field(default=None, compare=False, repr=False)


Condition: TypeAlias = "Compare | And | Or | Not"
Node = TypeVar("Node", bound="Condition | Integer")


def _merge(node: And | Or) -> None:
    kind = type(node)
    groups = [part.parts if isinstance(part, kind) else (part,) for part in node.parts]
    object.__setattr__(node, "parts", tuple(part for group in groups for part in group))


_OR, _AND, _NOT, _COMPARE = range(4)
_SUM, _PRODUCT, _NEGATIVE = range(3)


def condition_text(condition: Condition, at_least: int = _OR) -> str:
    """The canonical text, with the fewest parentheses; `at_least` is how tightly it must bind."""
    match condition:
        case Compare(relation, left, right):
            strength = _COMPARE
            text = f"{integer_text(left)} {relation} {integer_text(right)}"
        case And(parts):
            strength, text = _AND, " and ".join(condition_text(part, _NOT) for part in parts)
        case Or(parts):
            strength, text = _OR, " or ".join(condition_text(part, _AND) for part in parts)
        case Not(operand):
            strength, text = _NOT, "not " + condition_text(operand, _NOT)
        case _:
            assert_never(condition)
    return text if strength >= at_least else f"({text})"


def integer_text(integer: Integer, at_least: int = _SUM) -> str:
    """The canonical text of an integer expression, with the fewest parentheses."""
    match integer:
        case Number(value):
            return str(value)
        case Variable(name):
            return name
        case Entry(tensor, indices):
            return f"{tensor}[{', '.join(map(integer_text, indices))}]"
        case Negative(operand):
            strength, text = _NEGATIVE, "-" + integer_text(operand, _NEGATIVE)
        case Arithmetic(operator, left, right):
            strength = _SUM if operator in ("+", "-") else _PRODUCT
            text = f"{integer_text(left, strength)} {operator} {integer_text(right, strength + 1)}"
        case _:
            assert_never(integer)
    return text if strength >= at_least else f"({text})"


def extent_of(condition: Condition) -> tuple[int, int]:
    """How many nodes a predicate has, and how many stand above one another below its root."""
    nodes, deepest = 0, 0
    left: list[tuple[Condition | Integer, int]] = [(condition, 0)]
    while left:
        node, depth = left.pop()
        nodes, deepest = nodes + 1, max(deepest, depth)
        left += [(child, depth + 1) for child in children(node)]
    return nodes, deepest


def at(node: Node, span: Span | None) -> Node:
    """The same predicate with all of its parts at one place."""
    return replace(with_parts(node, lambda part: at(part, span)), span=span)


def with_parts(node: Node, step: Callable[[Any], Any]) -> Node:
    """The node with what `step` makes of its parts in their place."""
    made: Any = node
    match made:
        case Compare() | Arithmetic():
            made = replace(made, left=step(made.left), right=step(made.right))
        case And() | Or():
            made = replace(made, parts=tuple(map(step, made.parts)))
        case Entry():
            made = replace(made, indices=tuple(map(step, made.indices)))
        case Not() | Negative():
            made = replace(made, operand=step(made.operand))
    result: Node = made
    return result


def children(node: Condition | Integer) -> tuple[Condition | Integer, ...]:
    """The parts that a node is made of."""
    match node:
        case Compare(_, left, right) | Arithmetic(_, left, right):
            return left, right
        case And(parts) | Or(parts) | Entry(_, parts):
            return parts
        case Not(operand) | Negative(operand):
            return (operand,)
        case Number() | Variable():
            return ()
        case _:
            assert_never(node)
