"""Tokens of a spec file grouped for writing: statements, brackets, operators, comments.

Brackets and the strength of operators decide, whatever the grammar makes of them. Parentheses
around a whole pattern, and a comma before a closing bracket, are left to the writing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from attncomp.errors import Source
from attncomp.frontend.diagnose import RESERVED, Word
from attncomp.frontend.layout import Body, Bracket, Comment, Leaf, Node, Row, bracket, chain
from attncomp.frontend.reader import tokens

# Weakest first. `-` of patterns is stronger than `&`, as that of numbers is.
_OPERATORS: Final = (
    ("or",),
    ("and",),
    ("<", "<=", ">", ">=", "==", "!="),
    ("|",),
    ("&",),
    ("+", "-"),
    ("*", "//", "%"),
)
_STRENGTH: Final[Mapping[str, int]] = MappingProxyType(
    {sign: strength for strength, signs in enumerate(_OPERATORS) for sign in signs}
)
_PREFIXES: Final[Mapping[str, str]] = MappingProxyType({"~": "~", "-": "-", "not": "not "})
_BRACKETS: Final[Mapping[str, str]] = MappingProxyType({"(": ")", "[": "]", "{": "}"})
_LINE_END: Final = re.compile(r"\r\n?|\n")
_BLANKS: Final = str.maketrans("\t\f", "  ")
_STRINGS: Final = frozenset({"STRING", "LONG_STRING"})


@dataclass(frozen=True, slots=True)
class DocLayout:
    """A docstring, in its quotes."""

    node: Leaf


@dataclass(frozen=True, slots=True)
class ImportLayout:
    """`from module import`, as one leaf, and names."""

    module: Leaf
    names: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class DefinitionLayout:
    """`pattern name(parameters)` and what it stands for."""

    head: Node
    body: Body


@dataclass(frozen=True, slots=True)
class ExampleLayout:
    """A pattern, `name=tensor` for each tensor, and the rows of the picture."""

    body: Body
    given: tuple[Node, ...]
    picture: tuple[str, ...]


Statement: TypeAlias = DocLayout | ImportLayout | DefinitionLayout | ExampleLayout


class Statements:
    """The statements of a file, which is known to be right, and its comments by gaps.

    `starts` holds the first token of each statement, and the end of the file.
    """

    def __init__(self, source: Source) -> None:
        self._words, self.gaps = _words_and_gaps(source)
        self._next = 0
        self._in_predicate = False  # within the brackets of a reserved word
        self._ends: set[int] = set()  # tokens before which a line may end
        self._operators: set[int] = set()
        self.starts: list[int] = []
        self.statements = list(self._read())
        self._settle()

    def _read(self) -> Iterator[Statement]:
        while self._next < len(self._words):
            self._start()
            match self._words[self._next].text:
                case "from":
                    yield self._import()
                case "pattern":
                    yield self._definition()
                case "example":
                    yield self._example()
                case string:
                    yield DocLayout(replace(self._leaf(), flat=_doc(string)))
        self._start()

    def _start(self) -> None:
        self.starts.append(self._next)
        self._ends.add(self._next)

    def _peek(self) -> str:
        return self._words[self._next].text if self._next < len(self._words) else ""

    def _leaf(self) -> Leaf:
        """The next token by itself."""
        word = self._words[self._next]
        flat = _string(word.text) if word.kind == "STRING" else word.text
        self._next += 1
        return Leaf(self._next - 1, self._next - 1, flat)

    def _import(self) -> ImportLayout:
        start = self._next
        self._leaf()
        module = ""
        while self._peek() != "import":
            module += self._leaf().flat
        end = self._leaf().end
        return ImportLayout(Leaf(start, end, f"from {module} import"), self._listed(self._leaf))

    def _definition(self) -> DefinitionLayout:
        head: Node = Row((("", self._leaf()), (" ", self._leaf())))
        if self._peek() == "(":
            head = Row((("", head), ("", self._bracket(comma=True))))
        self._leaf()
        return DefinitionLayout(head, self._body())

    def _example(self) -> ExampleLayout:
        self._leaf()
        body = self._body()
        given: tuple[Node, ...] = ()
        if self._peek() == "given":
            self._ends.add(self._next)
            self._leaf()
            given = self._listed(self._element)
        self._leaf()
        return ExampleLayout(body, given, _picture(self._leaf().flat))

    def _listed(self, read: Callable[[], Node]) -> tuple[Node, ...]:
        """What stands between commas outside of brackets; a line may end after each."""
        nodes = [read()]
        while self._peek() == ",":
            self._leaf()
            self._ends.add(self._next)
            nodes.append(read())
        return tuple(nodes)

    def _pattern(self) -> Node:
        """Operands and operators, and the modifiers behind them."""
        node = self._expression(0)
        if self._peek() != "with":
            return node
        self._ends.add(self._next)
        self._operators.add(self._next)
        sign = self._leaf()
        modifiers: list[tuple[str, Node]] = [("", self._primary())]
        while self._peek() == ",":
            self._leaf()
            modifiers.append((", ", self._primary()))
        return chain(node, [(sign, Row(tuple(modifiers)))])

    def _body(self) -> Body:
        node = self._pattern()
        close: int | None = None
        while isinstance(node, Bracket):
            self._ends -= {node.start, node.end}
            close = node.end if close is None else close
            (node,) = node.elements
        self._ends |= {node.start} if close is None else {node.start, close}
        return Body(node, close)

    def _expression(self, weakest: int) -> Node:
        """Operands and operators that are no weaker than asked for."""
        node = self._operand()
        while (strength := _STRENGTH.get(self._peek(), -1)) >= weakest:
            rest: list[tuple[Leaf, Node]] = []
            while _STRENGTH.get(self._peek()) == strength:
                self._ends.add(self._next)
                self._operators.add(self._next)
                rest.append((self._leaf(), self._expression(strength + 1)))
            node = chain(node, rest)
        return node

    def _operand(self) -> Node:
        start = self._next
        prefix = ""
        while self._peek() in _PREFIXES:
            prefix += _PREFIXES[self._leaf().flat]
        if not prefix:
            return self._primary()
        sign = Leaf(start, self._next - 1, prefix)
        is_not = prefix.endswith(" ")
        operand = self._expression(_STRENGTH["=="]) if is_not else self._primary()
        return Row((("", sign), ("", operand)))

    def _primary(self) -> Node:
        """A bracket, or a word with the brackets after it."""
        if self._peek() in _BRACKETS:
            return self._bracket(comma=self._peek() == "[")
        word = self._words[self._next]
        node: Node = self._leaf()
        while word.kind not in _STRINGS and self._peek() in _BRACKETS:
            outer = self._in_predicate
            self._in_predicate = word.text == "where" or (outer and word.text not in RESERVED)
            arguments = self._bracket(comma=self._peek() in ("(", "{"))
            self._in_predicate = outer
            node = Row((("", node), ("", arguments)))
        return node

    def _bracket(self, *, comma: bool) -> Bracket:
        """`comma`: the grammar takes one after the last element."""
        opening = self._leaf()
        elements: list[Node] = []
        while self._peek() != _BRACKETS[opening.flat]:
            self._ends.add(self._next)
            elements.append(self._element(in_heads=opening.flat == "{"))
            if self._peek() == ",":
                self._leaf()
        self._ends.add(self._next)
        return bracket(opening, elements, self._leaf(), comma=comma and not self._in_predicate)

    def _group(self) -> Node:
        """`slice -> pattern`."""
        slice_ = ""
        start = end = self._next
        while self._peek() != "->":
            if self._peek() == ":":
                slice_ += self._leaf().flat
            else:
                slice_ += self._expression(0).flat
            end = self._next - 1
        self._leaf()
        return Row((("", Leaf(start, end, slice_)), (" -> ", self._expression(0))))

    def _element(self, *, in_heads: bool = False) -> Node:
        """`value`, `name=value`, `name: type`, `name: type = value` or `slice -> pattern`."""
        if in_heads:
            return self._group()
        parts = [("", self._pattern())]
        equal = "="
        if self._peek() == ":":
            self._leaf()
            parts.append((": ", self._expression(0)))
            equal = " = "
        if self._peek() == "=":
            self._leaf()
            parts.append((equal, self._expression(0)))
        return Row(tuple(parts)) if len(parts) > 1 else parts[0][1]

    def _settle(self) -> None:
        """Moves comments to gaps where a line may end.

        Those after an operator go before it, as the operator itself goes to the next line; those
        before a comma or bracket go behind it. Of the others, the ends of lines go on to the next
        gap, whole lines back to the last one.
        """
        back = start = 0  # the last gap where a line may end, and where a statement begins
        starts = frozenset(self.starts)
        for token, gap in enumerate(self.gaps):
            if token in self._ends:
                back = token
                start = token if token in starts else start
                continue
            if not gap:
                continue
            moved = [replace(comment, blank=False) for comment in gap]
            gap.clear()
            if token - 1 in self._operators:
                _append(self.gaps[token - 1], moved)
            elif self._words[token].text in (",", "(", ")", "[", "]", "{", "}"):
                _prepend(self.gaps[token + 1], moved)
            else:
                following = self.gaps[token + 1]
                # The end of a statement has room for one comment.
                is_full = token + 1 in starts and following and not following[0].own_line
                line_ends = [comment for comment in moved if not comment.own_line]
                _append(self.gaps[back], [comment for comment in moved if comment.own_line])
                if is_full:
                    own_lines = [replace(comment, own_line=True) for comment in line_ends]
                    _append(self.gaps[start], own_lines)
                else:
                    _prepend(following, line_ends)


def _words_and_gaps(source: Source) -> tuple[list[Word], list[list[Comment]]]:
    """Tokens without comments, and the comments before each and before the end."""
    words: list[Word] = []
    gaps: list[list[Comment]] = [[]]
    found = tokens(source)
    starts = [*(word.span.start for word in found), len(source.text)][1:]  # of what follows each
    end = 0
    for word, until in zip(found, starts, strict=True):
        if word.kind == "COMMENT":
            own_line = not (words or gaps[-1]) or _line_ends(source.text[end : word.span.start]) > 0
            text = word.text.translate(_BLANKS).rstrip()
            blank = _line_ends(source.text[word.span.end : until]) > 1
            gaps[-1].append(Comment(text, own_line, blank))
        else:
            words.append(word)
            gaps.append([])
        end = word.span.end
    return words, gaps


def _line_ends(text: str) -> int:
    return len(_LINE_END.findall(text))


def _append(gap: list[Comment], moved: Iterable[Comment]) -> None:
    """Adds comments behind those of a gap; only the first of all may end a line."""
    for comment in moved:
        gap.append(replace(comment, own_line=True) if gap else comment)


def _prepend(gap: list[Comment], moved: list[Comment]) -> None:
    """Adds comments before those of a gap."""
    later = gap.copy()
    gap[:] = moved
    if moved and later and not later[0].own_line:
        later[0] = replace(later[0], own_line=True, blank=False)
    gap += later


def _string(text: str) -> str:
    """A string in double quotes, if it holds none."""
    return text if '"' in text else f'"{text[1:-1]}"'


def _doc(text: str) -> str:
    """A docstring in three double quotes, if those do not end it elsewhere."""
    content = _content(text)
    return text if '"""' in content or content.endswith('"') else f'"""{content}"""'


def _content(text: str) -> str:
    """What stands between the quotes of a string."""
    quotes = 3 if text[:3] in ('"""', "'''") else 1
    return text[quotes:-quotes]


def _picture(text: str) -> tuple[str, ...]:
    """The rows of a picture, one empty row between two heads."""
    rows: list[str] = []
    for row in map(str.strip, _LINE_END.split(_content(text))):
        if row or (rows and rows[-1]):
            rows.append(row)
    return tuple(rows if rows[-1] else rows[:-1])
