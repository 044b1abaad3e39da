"""The syntax tree of a pattern, its canonical text and its drawing.

    Expr = Call(name, arguments) | Complement(operand) | Difference(left, right)
         | Intersection(members) | Union(members)

Spans do not take part in comparison: equal trees are equal patterns as written, blanks,
comments, redundant parentheses and defaulted arguments aside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from typing_extensions import assert_never

from attncomp.errors import Span
from attncomp.frontend.catalog import Value, lookup, value_text


@dataclass(frozen=True, slots=True)
class Call:
    """A primitive with every parameter bound, defaults included, in the declared order."""

    name: str
    arguments: tuple[tuple[str, Value], ...]
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Union:
    """`A | B | ...`: two members or more; a member that is a union itself is merged."""

    members: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        merged = tuple(
            part for m in self.members for part in (m.members if isinstance(m, Union) else (m,))
        )
        _require_two(merged)
        object.__setattr__(self, "members", merged)


@dataclass(frozen=True, slots=True)
class Intersection:
    """`A & B & ...`: two members or more; a member that is an intersection itself is merged."""

    members: tuple[Expr, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        merged = tuple(
            part
            for m in self.members
            for part in (m.members if isinstance(m, Intersection) else (m,))
        )
        _require_two(merged)
        object.__setattr__(self, "members", merged)


@dataclass(frozen=True, slots=True)
class Difference:
    """`A - B`: A where B is not."""

    left: Expr
    right: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Complement:
    """`~A`: the keys that A leaves out."""

    operand: Expr
    span: Span | None = field(default=None, compare=False, repr=False)


Expr: TypeAlias = Call | Union | Intersection | Difference | Complement


def _require_two(members: tuple[Expr, ...]) -> None:
    if len(members) < 2:
        raise ValueError(f"expected two members or more, found {len(members)}")


def _strength(expr: Expr) -> int:
    """How tightly the outermost operator binds; higher is tighter."""
    match expr:
        case Union():
            return 0
        case Intersection():
            return 1
        case Difference():
            return 2
        case Complement():
            return 3
        case Call():
            return 4
        case _:
            assert_never(expr)


def to_text(expr: Expr) -> str:
    """The canonical text: one line, fewest parentheses, defaulted arguments left out.

    `parse(to_text(expr)) == expr` for every tree within the parser's limits.
    """

    def operand(part: Expr, at_least: int) -> str:
        text = to_text(part)
        return text if _strength(part) >= at_least else f"({text})"

    match expr:
        case Call():
            return _call_text(expr)
        case Complement():
            return "~" + operand(expr.operand, 3)
        case Difference():
            return f"{operand(expr.left, 2)} - {operand(expr.right, 3)}"
        case Intersection():
            return " & ".join(operand(member, 2) for member in expr.members)
        case Union():
            return " | ".join(operand(member, 1) for member in expr.members)
        case _:
            assert_never(expr)


def _call_text(call: Call) -> str:
    """`window(256)`, `sparsek(k=512, lag=256)`, `full`: keywords where there is a choice."""
    parameters = lookup(call.name, call.span).parameters
    defaults = {parameter.name: parameter.default for parameter in parameters}
    written = [(name, value) for name, value in call.arguments if value != defaults[name]]
    if not written:
        return call.name
    if len(parameters) == 1:
        return f"{call.name}({value_text(written[0][1])})"
    return f"{call.name}({', '.join(f'{name}={value_text(value)}' for name, value in written)})"


def dump(expr: Expr) -> str:
    """The tree, one node a line, children indented by two blanks."""

    def lines(node: Expr, depth: int) -> list[str]:
        head = "  " * depth
        match node:
            case Call():
                bound = "".join(f" {name}={value_text(value)}" for name, value in node.arguments)
                return [f"{head}Call {node.name}{bound}"]
            case Complement():
                children: tuple[Expr, ...] = (node.operand,)
            case Difference():
                children = (node.left, node.right)
            case Intersection() | Union():
                children = node.members
            case _:
                assert_never(node)
        below = [line for child in children for line in lines(child, depth + 1)]
        return [f"{head}{type(node).__name__}", *below]

    return "\n".join(lines(expr, 0))
