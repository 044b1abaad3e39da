"""Where the lines of a formatted expression end.

    Node = Leaf | Row | Chain | Bracket

Every node knows its text on one line, `flat`, and its tokens, `start` to `end` inclusive. Comments
stand in gaps: that of a token lies between it and the token before, and may hold comments only
where a line may end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeAlias

from typing_extensions import assert_never

MAX_COLUMNS: Final = 88  # of a line, a comment at its end aside
INDENT: Final = 4


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment, on a line of its own or at the end of one; `blank`: a blank line follows."""

    text: str
    own_line: bool
    blank: bool = False


@dataclass(frozen=True, slots=True)
class Leaf:
    """Tokens that are never separated."""

    start: int
    end: int
    flat: str


@dataclass(frozen=True, slots=True)
class Row:
    """Nodes between which no line ends, each with the text before it: `name`, `=` and a value."""

    parts: tuple[tuple[str, Node], ...]

    @property
    def start(self) -> int:
        return self.parts[0][1].start

    @property
    def end(self) -> int:
        return self.parts[-1][1].end

    @property
    def flat(self) -> str:
        return "".join(before + node.flat for before, node in self.parts)


@dataclass(frozen=True, slots=True)
class Chain:
    """Operands between operators of one strength; a line may end before an operator."""

    first: Node
    rest: tuple[tuple[Leaf, Node], ...]
    flat: str

    @property
    def start(self) -> int:
        return self.first.start

    @property
    def end(self) -> int:
        return self.rest[-1][1].end


@dataclass(frozen=True, slots=True)
class Bracket:
    """Elements between brackets; `comma`: the last one takes a comma if each has its own line."""

    opening: str
    elements: tuple[Node, ...]
    closing: str
    comma: bool
    start: int
    end: int
    flat: str


Node: TypeAlias = Leaf | Row | Chain | Bracket


@dataclass(frozen=True, slots=True)
class Body:
    """A pattern as a whole, its parentheses aside; `close` is the token of the closing one."""

    node: Node
    close: int | None


def bracket(
    opening: Leaf, elements: Sequence[Node], closing: Leaf, *, comma: bool = False
) -> Bracket:
    """Elements between two tokens."""
    return Bracket(
        opening.flat,
        tuple(elements),
        closing.flat,
        comma,
        opening.start,
        closing.end,
        opening.flat + ", ".join([element.flat for element in elements]) + closing.flat,
    )


def chain(first: Node, rest: Sequence[tuple[Leaf, Node]]) -> Chain:
    """Operands with operators, each after the first."""
    parts = [first.flat, *(f"{sign.flat} {operand.flat}" for sign, operand in rest)]
    return Chain(first, tuple(rest), " ".join(parts))


class Writer:
    """Text in the making: nodes are written on one line where they fit it.

    `gaps` has the comments before each token. `tail` is always the number of columns that what
    follows a node needs on the node's last line.
    """

    def __init__(self, gaps: Sequence[Sequence[Comment]]) -> None:
        self._gaps = gaps
        self._before = [0, *accumulate(len(gap) for gap in gaps)]  # comments before a token's gap
        self._parts: list[str] = []
        self._column = 0

    def take(self) -> str:
        """The text since the last call."""
        text = "".join(self._parts)
        self._parts.clear()
        self._column = 0
        return text

    def write(self, text: str) -> None:
        """Continues the line."""
        self._parts.append(text)
        self._column += len(text)

    def commented(self, start: int, end: int) -> bool:
        """Whether a comment stands in the gap of one of the tokens, `end` included."""
        return self._before[end + 1] > self._before[start]

    def fits(self, columns: int) -> bool:
        """Whether the line has that many columns left."""
        return self._column + columns <= MAX_COLUMNS

    def end_line(self, token: int, indent: int, inner: int | None = None) -> None:
        """Ends the line before a token, whose comments are indented by `inner`, if not as it is."""
        for comment in self._gaps[token]:
            if comment.own_line:
                self._parts.append("\n" + " " * (indent if inner is None else inner))
            else:
                self._parts.append("  ")
            self._parts.append(comment.text)
        self._parts.append("\n" + " " * indent)
        self._column = indent

    def node(self, node: Node, indent: int, tail: int) -> None:
        """Writes a node; lines after its first are indented by `indent` or more."""
        if self._is_flat(node, node.start + 1, node.end, tail):
            self.write(node.flat)
            return
        match node:
            case Leaf():
                self.write(node.flat)
            case Row():
                self._row(node, indent, tail)
            case Chain():
                self._chain(node, indent, tail)
            case Bracket():
                self._bracket(node, indent, tail)
            case _:
                assert_never(node)

    def body(self, body: Body, tail: int) -> None:
        """Writes a pattern, in parentheses if its operators or comments end lines."""
        node = body.node
        close = node.end if body.close is None else body.close
        if self._is_flat(node, node.start, close, tail):
            self.write(node.flat)
        elif self._needs_parentheses(body):
            self.write("(")
            self.end_line(node.start, INDENT)
            self.node(node, INDENT, 0)
            if body.close is None:
                self._parts.append("\n")
                self._column = 0
            else:
                self.end_line(body.close, 0, INDENT)
            self.write(")")
        else:
            self.node(node, 0, tail)

    def opening(self, body: Body) -> int:
        """The columns that a pattern needs on its first line."""
        return 1 if self._needs_parentheses(body) else _opening(body.node)

    def _needs_parentheses(self, body: Body) -> bool:
        start = body.node.start
        return (
            isinstance(body.node, Chain)
            or self.commented(start, start)
            or (body.close is not None and self.commented(body.node.end + 1, body.close))
        )

    def _is_flat(self, node: Node, start: int, end: int, tail: int) -> bool:
        return not self.commented(start, end) and self.fits(len(node.flat) + tail)

    def _row(self, row: Row, indent: int, tail: int) -> None:
        for number, (before, node) in enumerate(row.parts, start=1):
            self.write(before)
            hanging = indent + INDENT if isinstance(node, Chain) else indent
            self.node(node, hanging, tail if number == len(row.parts) else 0)

    def _chain(self, node: Chain, indent: int, tail: int) -> None:
        self._operand(node.first, indent, 0)
        for sign, operand in node.rest:
            self.end_line(sign.start, indent)
            self.write(sign.flat + " ")
            self._operand(operand, indent, tail if operand is node.rest[-1][1] else 0)

    def _operand(self, operand: Node, indent: int, tail: int) -> None:
        self.node(operand, indent + INDENT if isinstance(operand, Chain) else indent, tail)

    def _bracket(self, node: Bracket, indent: int, tail: int) -> None:
        self.write(node.opening)
        for element in node.elements:
            self.end_line(element.start, indent + INDENT)
            has_comma = node.comma or element is not node.elements[-1]
            self.node(element, indent + INDENT, int(has_comma))
            if has_comma:
                self.write(",")
        self.end_line(node.end, indent, indent + INDENT)
        self.write(node.closing)


def _opening(node: Node) -> int:
    """The columns before the first place where a line of the node may end."""
    match node:
        case Leaf():
            return len(node.flat)
        case Row():
            *others, (before, last) = node.parts
            return (
                sum(len(part[0] + part[1].flat) for part in others) + len(before) + _opening(last)
            )
        case Chain():
            return _opening(node.first)
        case Bracket():
            return len(node.opening)
        case _:
            assert_never(node)
