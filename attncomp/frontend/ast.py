"""The syntax tree of a pattern, its canonical text and its drawing.

    Expr = Call(name, arguments) | Where(condition) | Complement(operand)
         | Difference(left, right) | Intersection(members) | Union(members)
     | HeadGroups(groups) | Modified(pattern, modifiers)

Spans do not take part in comparison: equal trees are equal patterns as written, blanks,
comments, redundant parentheses and defaulted arguments aside.

Nodes combine with the operators of the language, `str(node)` is the canonical text, and every
node knows its extent, so that no tree, wherever it comes from, passes the limits: a node that
would raises PatternTooLargeError or NestingError at its span.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from types import FunctionType
from typing import NamedTuple, NoReturn, TypeAlias, cast

from typing_extensions import Never, assert_never

from attncomp.errors import (
    ModifiedOperandError,
    NestingError,
    PatternTooLargeError,
    RepeatedModifierError,
    Span,
    cropped,
    quoted,
)
from attncomp.frontend.caller import caller
from attncomp.frontend.catalog import Value, value_text
from attncomp.frontend.limits import MAX_NESTING, MAX_NODES
from attncomp.frontend.modifiers import MODIFIERS, Modifier
from attncomp.frontend.predicate import Condition, condition_text, extent_of
from attncomp.frontend.primitives import lookup
from attncomp.frontend.slices import HeadSlice, check_slices


class Extent(NamedTuple):
    """How many nodes a tree has, and how many operators stand above one another in it."""

    nodes: int
    depth: int


_LEAF = Extent(1, 0)


class _Operators:
    """`|`, `&`, `-` and `~` between trees, as the language has them; spans are the caller's.

    Raises TypeError for an operand that is no pattern, and where a pattern is used as a condition:
    `and`, `or` and `not` would otherwise drop parts of it unseen.
    """

    __slots__ = ()

    def __or__(self, other: Expr) -> Union:
        return Union((cast("Expr", self), _operand(other, "right side of '|'")), caller())

    def __and__(self, other: Expr) -> Intersection:
        return Intersection((cast("Expr", self), _operand(other, "right side of '&'")), caller())

    def __sub__(self, other: Expr) -> Difference:
        return Difference(cast("Expr", self), _operand(other, "right side of '-'"), caller())

    def __invert__(self) -> Complement:
        return Complement(cast("Expr", self), caller())

    def with_(self, *modifiers: Modifier) -> Modified:
        """`pattern with modifier, ...`: TypeError for none, and for what is no modifier."""
        for modifier in modifiers:
            if not isinstance(modifier, Modifier):
                raise TypeError(f"expected modifiers, found {_found(modifier)}")
        if not modifiers:
            raise TypeError("expected one modifier or more, found none")
        return Modified(cast("Expr", self), modifiers, caller())

    def __ror__(self, other: Never) -> NoReturn:
        raise _no_pattern(other, "left side of '|'")

    def __rand__(self, other: Never) -> NoReturn:
        raise _no_pattern(other, "left side of '&'")

    def __rsub__(self, other: Never) -> NoReturn:
        raise _no_pattern(other, "left side of '-'")

    def __bool__(self) -> NoReturn:
        raise TypeError("a pattern is neither true nor false: combine patterns with | & - ~")

    def __str__(self) -> str:
        return to_text(cast("Expr", self))


def _operand(value: Expr, side: str) -> Expr:
    if not isinstance(value, Expr):
        raise _no_pattern(value, side)
    return value


def _no_pattern(value: object, side: str) -> TypeError:
    return TypeError(f"the {side} must be a pattern, found {_found(value)}")


def _found(value: object) -> str:
    if isinstance(value, FunctionType):
        return f"the function {value.__name__} (did you mean '{value.__name__}(...)'?)"
    return f"{type(value).__name__} {cropped(repr(value))}"


@dataclass(frozen=True, slots=True)
class Call(_Operators):
    """A primitive with every parameter bound, defaults included, in the declared order."""

    name: str
    arguments: tuple[tuple[str, Value], ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def extent(self) -> Extent:
        """One node without operators."""
        return _LEAF


@dataclass(frozen=True, slots=True)
class Union(_Operators):
    """`A | B | ...`: two members or more; a member that is a union itself is merged."""

    members: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)
    extent: Extent = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _merge(self)


@dataclass(frozen=True, slots=True)
class Intersection(_Operators):
    """`A & B & ...`: two members or more; a member that is an intersection itself is merged."""

    members: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)
    extent: Extent = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _merge(self)


@dataclass(frozen=True, slots=True)
class Difference(_Operators):
    """`A - B`: A where B is not."""

    left: Expr
    right: Expr
    span: Span | None = field(default=None, compare=False, repr=False)
    extent: Extent = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_operands(self.left, self.right)
        _set_extent(self, [self.left.extent, self.right.extent])


@dataclass(frozen=True, slots=True)
class Complement(_Operators):
    """`~A`: the keys that A leaves out."""

    operand: Expr
    span: Span | None = field(default=None, compare=False, repr=False)
    extent: Extent = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_operands(self.operand)
        _set_extent(self, [self.operand.extent])


@dataclass(frozen=True, slots=True)
class Where(_Operators):
    """`where(condition)`: the pairs whose indices meet a condition."""

    condition: Condition
    span: Span | None = field(default=None, compare=False, repr=False)
    extent: Extent = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _set_extent(self, [Extent(*extent_of(self.condition))])


@dataclass(frozen=True, slots=True)
class HeadGroups(_Operators):
    """`heads{slice -> A, ...}`: the pattern of the group that the query head is in.

    Raises HeadOverlapError and HeadGapError at the slices where these alone tell of heads in two
    groups or none; where ends count from the last head, only a number of heads tells.
    """

    groups: tuple[tuple[HeadSlice, Expr], ...]
    span: Span | None = field(default=None, compare=False, repr=False)
    extent: Extent = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_slices([heads for heads, _ in self.groups])
        _set_extent(self, [member.extent for _, member in self.groups])


@dataclass(frozen=True, slots=True)
class Modified(_Operators):
    """`A with modifier, ...`: the attention of A with other logits; the gates are those of A.

    The modifiers are one or more of different names, in the order of the table; those of a pattern
    that has some itself are merged. RepeatedModifierError where one is given twice.
    """

    pattern: Expr
    modifiers: tuple[Modifier, ...]
    span: Span | None = field(default=None, compare=False, repr=False)
    extent: Extent = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        modifiers = self.modifiers
        if isinstance(self.pattern, Modified):
            modifiers = (*self.pattern.modifiers, *modifiers)
            object.__setattr__(self, "pattern", self.pattern.pattern)
        known: dict[str, Modifier] = {}
        for modifier in modifiers:
            if known.setdefault(modifier.name, modifier) is not modifier:
                raise RepeatedModifierError(modifier.span, name=quoted(modifier.name))
        for inner in _modified_groups(self.pattern):
            for modifier in inner.modifiers:
                if modifier.name in known:
                    raise RepeatedModifierError(
                        known[modifier.name].span, name=quoted(modifier.name)
                    )
        object.__setattr__(self, "modifiers", tuple(known[m] for m in MODIFIERS if m in known))
        object.__setattr__(self, "extent", self.pattern.extent)


Expr: TypeAlias = (
    Call | Where | Union | Intersection | Difference | Complement | HeadGroups | Modified
)


def _modified_groups(expr: Expr) -> Iterator[Modified]:
    """A pattern with modifiers, or those that are its groups."""
    if isinstance(expr, Modified):
        yield expr
        yield from _modified_groups(expr.pattern)
    elif isinstance(expr, HeadGroups):
        for _, member in expr.groups:
            yield from _modified_groups(member)


def _check_operands(*operands: Expr) -> None:
    """ModifiedOperandError for an operand with modifiers, or with groups that have some."""
    for operand in operands:
        for modified in _modified_groups(operand):
            raise ModifiedOperandError(modified.span)


def _merge(node: Union | Intersection) -> None:
    """Takes the members of members of the same kind; the operators between those go."""
    kind = type(node)
    _check_operands(*node.members)
    groups = [member.members if isinstance(member, kind) else (member,) for member in node.members]
    members = tuple(chain.from_iterable(groups))
    if len(members) < 2:
        raise ValueError(f"expected two members or more, found {len(members)}")
    # Of the members as given, since a union that grows by one operand after the other has many.
    gone = [isinstance(member, kind) for member in node.members]
    extents = [member.extent for member in node.members]
    _set_extent(
        node,
        [Extent(e.nodes - less, e.depth - less) for e, less in zip(extents, gone, strict=True)],
    )
    object.__setattr__(node, "members", members)


def _set_extent(
    node: Where | Union | Intersection | Difference | Complement | HeadGroups,
    operands: list[Extent],
) -> None:
    """Notes the extent of a node over operands; raises PatternError at its span beyond limits."""
    extent = Extent(1 + sum(e.nodes for e in operands), 1 + max(e.depth for e in operands))
    if extent.nodes > MAX_NODES:
        raise PatternTooLargeError(node.span, limit=MAX_NODES, unit="operators and primitives")
    if extent.depth > MAX_NESTING:
        raise NestingError(node.span, limit=MAX_NESTING)
    object.__setattr__(node, "extent", extent)


def _strength(expr: Expr) -> int:
    """How tightly the outermost operator binds; higher is tighter."""
    match expr:
        case Modified():
            return -1
        case Union():
            return 0
        case Intersection():
            return 1
        case Difference():
            return 2
        case Complement():
            return 3
        case Call() | Where() | HeadGroups():
            return 4
        case _:
            assert_never(expr)


def to_text(expr: Expr) -> str:
    """The canonical text: one line, fewest parentheses, defaulted arguments left out.

    `parse(to_text(expr)) == expr` for every tree.
    """

    def operand(part: Expr, at_least: int) -> str:
        text = to_text(part)
        return text if _strength(part) >= at_least else f"({text})"

    match expr:
        case Call():
            return _call_text(expr)
        case Where():
            return f"where({condition_text(expr.condition)})"
        case HeadGroups():
            groups = ", ".join(f"{heads} -> {operand(part, 0)}" for heads, part in expr.groups)
            return f"heads{{{groups}}}"
        case Complement():
            return "~" + operand(expr.operand, 3)
        case Difference():
            return f"{operand(expr.left, 2)} - {operand(expr.right, 3)}"
        case Intersection():
            return " & ".join(operand(member, 2) for member in expr.members)
        case Union():
            return " | ".join(operand(member, 1) for member in expr.members)
        case Modified():
            return f"{to_text(expr.pattern)} with {', '.join(map(str, expr.modifiers))}"
        case _:
            assert_never(expr)


def _call_text(call: Call) -> str:
    """`window(256)`, `sparsek(k=512, lag=256)`, `full`: keywords where there is a choice."""
    return lookup(call.name, call.span).call_text(call.arguments)


def dump(expr: Expr) -> str:
    """The tree, one node a line, children indented by two blanks."""

    def lines(node: Expr, depth: int) -> list[str]:
        head = "  " * depth
        match node:
            case Call():
                bound = "".join(f" {name}={value_text(value)}" for name, value in node.arguments)
                return [f"{head}Call {node.name}{bound}"]
            case Where():
                return [f"{head}Where {condition_text(node.condition)}"]
            case Complement():
                children: tuple[Expr, ...] = (node.operand,)
            case Difference():
                children = (node.left, node.right)
            case Intersection() | Union():
                children = node.members
            case Modified():
                names = ", ".join(map(str, node.modifiers))
                return [f"{head}Modified {names}", *lines(node.pattern, depth + 1)]
            case HeadGroups():
                groups = [
                    [f"{head}  {heads} ->", *lines(part, depth + 2)] for heads, part in node.groups
                ]
                return [f"{head}HeadGroups", *chain.from_iterable(groups)]
            case _:
                assert_never(node)
        below = [line for child in children for line in lines(child, depth + 1)]
        return [f"{head}{type(node).__name__}", *below]

    return "\n".join(lines(expr, 0))
