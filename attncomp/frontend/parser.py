"""Text to syntax tree: lark's LALR parser, with every error translated and every size bounded.

Tokens are fed to the parser one by one, so that limits are checked while reading and the first
mistake in the text is the one reported. Nothing here recurses over the tree.
"""

from __future__ import annotations

import importlib.resources
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedToken

from attncomp.errors import (
    EmptyPatternError,
    NestingError,
    PatternError,
    PatternTooLargeError,
    Source,
    Span,
)
from attncomp.frontend.ast import Call, Complement, Difference, Expr, Intersection, Union
from attncomp.frontend.catalog import Argument, Value, lookup
from attncomp.frontend.diagnose import (
    Stop,
    Word,
    unexpected_character,
    unexpected_end,
    unexpected_word,
    word_operator,
)

MAX_CHARACTERS: Final = 100_000
MAX_NODES: Final = 4096
MAX_NESTING: Final = 64  # of parentheses in the text, and of operators in the tree

_MAX_DIGITS: Final = 400  # a longer literal exceeds every integer parameter and every float

_lark: Lark | None = None
_lark_lock = threading.Lock()


def parse(text: str, source_name: str = "<spec>") -> Expr:
    """The syntax tree of a pattern.

    Raises PatternError (one subclass per mistake, with a span in `source_name`), and TypeError
    if `text` is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected the pattern as a str, found {type(text).__name__}")
    source = Source(source_name, text)
    if len(text) > MAX_CHARACTERS:
        raise PatternTooLargeError(
            Span(source, MAX_CHARACTERS, MAX_CHARACTERS), limit=MAX_CHARACTERS, unit="characters"
        )
    return _expression(_read(source), source)


def _parser() -> Lark:
    """The parser, built once for all threads."""
    global _lark
    with _lark_lock:
        if _lark is None:
            grammar = importlib.resources.files("attncomp.frontend").joinpath("grammar.lark")
            lark = Lark(
                grammar.read_text(encoding="utf-8"),
                parser="lalr",
                lexer="basic",
                propagate_positions=True,
                maybe_placeholders=False,
            )
            lark.parse("full")  # the lexer compiles its expressions on first use
            _lark = lark
        return _lark


@dataclass(slots=True)
class _Progress:
    """The tokens that the parser has accepted so far, and the open parentheses among them."""

    last: Token | None = None
    opened: list[tuple[Token, Token | None]] = field(default_factory=list)  # '(', name before it

    def advance(self, token: Token) -> None:
        """Notes an accepted token."""
        if token.type == "LPAR":
            self.opened.append((token, self._callee()))
        elif token.type == "RPAR":
            self.opened.pop()
        self.last = token

    def check_nesting(self, source: Source, token: Token) -> None:
        """NestingError where `token` opens one parenthesis too many around a pattern."""
        opens = token.type == "LPAR" and self._callee() is None
        if opens and len(self.opened) >= MAX_NESTING:
            raise NestingError(_token_span(token, source), limit=MAX_NESTING)

    def stop(self, source: Source, accepts: Iterable[str]) -> Stop:
        """The place reached, for an error."""
        opened, callee = self.opened[-1] if self.opened else (None, None)
        return Stop(
            source=source,
            last=None if self.last is None else _word(self.last, source),
            opened=None if opened is None else _token_span(opened, source),
            callee=None if callee is None else str(callee),
            accepts=frozenset(accepts),
        )

    def _callee(self) -> Token | None:
        """The name that a parenthesis opened now would belong to."""
        return self.last if self.last is not None and self.last.type == "NAME" else None


def _read(source: Source) -> Tree[Token]:
    """Lark's tree of the text; PatternError where the text is none of the language."""
    state: Any = _parser().parse_interactive(source.text)  # lark leaves its methods untyped
    progress = _Progress()
    error: PatternError
    try:
        for token in state.lexer_thread.lex(state.parser_state):
            _check_word(source, token)
            progress.check_nesting(source, token)
            state.feed_token(token)
            progress.advance(token)
        if progress.last is None:
            raise EmptyPatternError(Span(source, 0, 0))
        return cast("Tree[Token]", state.feed_eof(progress.last))
    except UnexpectedCharacters as stray:
        stop = progress.stop(source, state.accepts())
        error = unexpected_character(stop, cast(int, stray.pos_in_stream))
    except UnexpectedToken as stray:
        stop = progress.stop(source, state.accepts())
        at_end = stray.token.type == "$END"
        error = (
            unexpected_end(stop) if at_end else unexpected_word(stop, _word(stray.token, source))
        )
    raise error  # outside of the handlers, so that lark's error is not its context


def _check_word(source: Source, token: Token) -> None:
    error = word_operator(_word(token, source)) if token.type == "NAME" else None
    if error is not None:
        raise error


def _expression(tree: Tree[Token], source: Source) -> Expr:
    """The tree of `Expr` for lark's tree, children first; bounds its size and depth."""
    done: dict[int, tuple[Expr, int]] = {}  # id of lark's node -> expression, its depth
    nodes = 0
    # Lark yields children before parents, deepest first; the sort is stable, so that mistakes are
    # met in the order of the text and children still before parents.
    for node in sorted(tree.iter_subtrees(), key=lambda subtree: subtree.meta.end_pos):
        if node.data in ("argument", "value"):
            continue
        span = _node_span(node, source)
        nodes += max(1, len(node.children) - 1) if node.data == "difference" else 1
        if nodes > MAX_NODES:
            raise PatternTooLargeError(span, limit=MAX_NODES, unit="operators and primitives")
        if node.data == "call":
            done[id(node)] = _call(node, source, span), 0
            continue
        parts = [done.pop(id(child)) for child in node.children]
        expr, depth = _operation(node, parts, source)
        if depth > MAX_NESTING:
            raise NestingError(span, limit=MAX_NESTING)
        done[id(node)] = expr, depth
    return done[id(tree)][0]


def _operation(
    node: Tree[Token], parts: list[tuple[Expr, int]], source: Source
) -> tuple[Expr, int]:
    """An operator applied to (expression, depth) pairs, with the depth of the result."""
    span = _node_span(node, source)
    operands = tuple(expr for expr, _ in parts)
    depth = 1 + max(depth for _, depth in parts)
    match node.data:
        case "union":
            return Union(operands, span), depth
        case "intersection":
            return Intersection(operands, span), depth
        case "negation":
            return Complement(operands[0], span), depth
        case "difference":
            left, depth = parts[0]
            for child, (right, right_depth) in zip(node.children[1:], parts[1:], strict=True):
                depth = 1 + max(depth, right_depth)
                left = Difference(left, right, Span(source, span.start, _outer_end(child)))
            return left, depth
        case _:
            raise AssertionError(f"the grammar has a rule that nothing reads: {node.data}")


def _call(node: Tree[Token], source: Source, span: Span) -> Call:
    """A primitive with its arguments bound; `node` holds NAME, arguments and perhaps RPAR."""
    name = cast(Token, node.children[0])
    primitive = lookup(str(name), _token_span(name, source))
    arguments = [_argument(child, source) for child in node.children if isinstance(child, Tree)]
    last = cast(Token, node.children[-1])  # ')', or the name itself
    bound = primitive.bind(arguments, missing_span=_token_span(last, source))
    return Call(primitive.name, bound, span)


def _argument(node: Tree[Token], source: Source) -> Argument:
    value = cast("Tree[Token]", node.children[-1])
    name = cast(Token, node.children[0]) if len(node.children) == 2 else None
    return Argument(
        name=None if name is None else str(name),
        value=_value(cast("list[Token]", value.children)),
        span=_node_span(node, source),
        name_span=None if name is None else _token_span(name, source),
        value_span=_node_span(value, source),
    )


def _value(tokens: list[Token]) -> Value:
    """A literal: an optional minus sign and one token."""
    literal = tokens[-1]
    sign = -1 if len(tokens) == 2 else 1
    match literal.type:
        case "INT":
            digits = literal.replace("_", "").lstrip("0") or "0"
            return sign * (int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS)
        case "FLOAT":
            return sign * float(literal.replace("_", ""))
        case "STRING":
            return str(literal[1:-1])
        case _:
            return literal.type == "TRUE"


def _word(token: Token, source: Source) -> Word:
    return Word(kind=token.type, span=_token_span(token, source))


def _token_span(token: Token, source: Source) -> Span:
    start = cast(int, token.start_pos)
    return Span(source, start, start + len(token))


def _node_span(node: Tree[Token], source: Source) -> Span:
    return Span(source, node.meta.start_pos, node.meta.end_pos)


def _outer_end(node: Token | Tree[Token]) -> int:
    """The end of an operand, with the parentheses around it."""
    meta = cast("Tree[Token]", node).meta
    return int(getattr(meta, "container_end_pos", meta.end_pos))
