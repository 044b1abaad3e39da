"""Text to syntax: lark's LALR parser, with every error translated and every size bounded.

Tokens are fed to the parser one by one, so that limits are checked while reading and the first
mistake in the text is the one reported.
"""

from __future__ import annotations

import importlib.resources
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Literal, TypeAlias, cast

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedToken

from attncomp.errors import (
    EmptyPatternError,
    NestingError,
    PatternError,
    PatternTooLargeError,
    Source,
    Span,
    UnexpectedTextError,
    quoted,
)
from attncomp.frontend import syntax
from attncomp.frontend.condition_reader import read_condition
from attncomp.frontend.diagnose import (
    RESERVED,
    Stop,
    Word,
    reserved_word,
    unexpected_character,
    unexpected_end,
    unexpected_word,
)
from attncomp.frontend.limits import MAX_CHARACTERS, MAX_NESTING
from attncomp.frontend.literals import integer, literal, signed, string, tensor
from attncomp.frontend.modifier_reader import check_operands, read_modified
from attncomp.frontend.syntax import Item, Syntax

_COMMENT: Final = re.compile(r"#[^\r\n]*")
_OPENING: Final = ("LPAR", "LSQB", "LBRACE")
_PATTERNS: Final = frozenset({"union", "intersection", "difference", "negation", "call"})

_lark: Lark | None = None
_lark_lock = threading.Lock()


def read_pattern(source: Source) -> Syntax:
    """The syntax of one pattern; PatternError where the text is none."""
    return _pattern(_read(source, "expression"), source)


def read_file(source: Source) -> tuple[Item, ...]:
    """The items of a spec file in the order of the text; PatternError where it is none."""
    return tuple(
        _item(cast("Tree[Token]", node), source) for node in _read(source, "file").children
    )


def tokens(source: Source) -> list[Word]:
    """Every token and comment (kind COMMENT) of a text, in order; what is between is blank.

    Raises UnexpectedTextError for a character that begins none. The order of tokens is not checked.
    """
    found: list[Word] = []
    end = 0
    try:
        for token in _parser().lex(source.text):
            word = _word(token, source)
            found += _comments(source, end, word.span.start)
            found.append(word)
            end = word.span.end
        return found + list(_comments(source, end, len(source.text)))
    except UnexpectedCharacters as stray:
        position = cast(int, stray.pos_in_stream)
        error = UnexpectedTextError(
            Span(source, position, position + 1),
            found=quoted(source.text[position]),
            expected="a token",
        )
    raise error  # outside of the handler, so that lark's error is not its context


def _comments(source: Source, start: int, end: int) -> Iterator[Word]:
    for match in _COMMENT.finditer(source.text, start, end):
        yield Word(kind="COMMENT", span=Span(source, match.start(), match.end()))


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
                start=["expression", "file"],
                propagate_positions=True,
                maybe_placeholders=False,
            )
            lark.parse("full", start="expression")  # the lexer compiles its expressions now
            _lark = lark
        return _lark


_Start: TypeAlias = Literal["expression", "file"]


@dataclass(slots=True)
class _Progress:
    """The tokens that the parser has accepted so far, and the open brackets among them."""

    source: Source
    start: _Start
    count: int = 0
    last: Token | None = None
    opened: list[tuple[Token, Token | None]] = field(default_factory=list)  # '(', name before it

    def check(self, token: Token) -> None:
        """Raises NestingError for one bracket too many, and the errors of reserved words."""
        opens = token.type in _OPENING and self._callee() is None
        if opens and len(self.opened) >= MAX_NESTING:
            raise NestingError(_token_span(token, self.source), limit=MAX_NESTING)
        if token.type == "NAME" and token in RESERVED:
            raise reserved_word(self.stop(), _word(token, self.source))

    def advance(self, token: Token) -> None:
        """Notes an accepted token."""
        if token.type in _OPENING:
            self.opened.append((token, self._callee()))
        elif token.type in ("RPAR", "RSQB", "RBRACE"):
            self.opened.pop()
        self.last = token
        self.count += 1

    def stop(self) -> Stop:
        """The place reached, for an error."""
        opened, callee = self.opened[-1] if self.opened else (None, None)
        return Stop(
            source=self.source,
            is_file=self.start == "file",
            last=None if self.last is None else _word(self.last, self.source),
            opened=None if opened is None else _token_span(opened, self.source),
            callee=None if callee is None else str(callee),
            accepts=self._accepts(),
        )

    def _accepts(self) -> frozenset[str]:
        """The terminals that may follow.

        Read anew: a parser that has met an error may have completed what stands before it, and
        then accepts less.
        """
        state: Any = _parser().parse_interactive(self.source.text, start=self.start)
        for token in islice(state.lexer_thread.lex(state.parser_state), self.count):
            state.feed_token(token)
        return frozenset(state.accepts())

    def _callee(self) -> Token | None:
        """The name that a parenthesis opened now would belong to."""
        return self.last if self.last is not None and self.last.type == "NAME" else None


def _read(source: Source, start: _Start) -> Tree[Token]:
    """Lark's tree of the text; PatternError where the text is none of the language."""
    if len(source.text) > MAX_CHARACTERS:
        beyond = Span(source, MAX_CHARACTERS, MAX_CHARACTERS)
        raise PatternTooLargeError(beyond, limit=MAX_CHARACTERS, unit="characters")
    # Lark leaves its methods untyped.
    state: Any = _parser().parse_interactive(source.text, start=start)
    progress = _Progress(source, start)
    error: PatternError
    try:
        for token in state.lexer_thread.lex(state.parser_state):
            progress.check(token)
            state.feed_token(token)
            progress.advance(token)
        if progress.last is None and start == "expression":
            raise EmptyPatternError(Span(source, 0, 0))
        end = progress.last if progress.last is not None else Token("NAME", "", 0)
        return cast("Tree[Token]", state.feed_eof(end))
    except UnexpectedCharacters as stray:
        error = unexpected_character(progress.stop(), cast(int, stray.pos_in_stream))
    except UnexpectedToken as stray:
        stop = progress.stop()
        at_end = stray.token.type == "$END"
        error = (
            unexpected_end(stop) if at_end else unexpected_word(stop, _word(stray.token, source))
        )
    raise error  # outside of the handlers, so that lark's error is not its context


def _item(node: Tree[Token], source: Source) -> Item:
    span = _node_span(node, source)
    match node.data:
        case "doc":
            return syntax.Doc(string(cast(Token, node.children[0])), span)
        case "import":
            return _import(node, source)
        case "definition":
            return _definition(node, source)
        case _:
            pattern, *given, picture = cast("list[Tree[Token]]", node.children)
            return syntax.ExampleSyntax(
                _pattern(pattern, source),
                tuple(_given(child, source) for child in given),
                _node_span(picture, source),
                span,
            )


def _import(node: Tree[Token], source: Source) -> syntax.Import:
    module, *names = node.children
    assert isinstance(module, Tree)
    kinds = [cast(Token, child).type for child in module.children]
    level = kinds.index("NAME")
    return syntax.Import(
        level,
        tuple(str(child) for child in module.children if cast(Token, child).type == "NAME"),
        _node_span(module, source),
        tuple(_name(cast(Token, name), source) for name in names),
        _node_span(node, source),
    )


def _definition(node: Tree[Token], source: Source) -> syntax.DefinitionSyntax:
    name, *parts, body = node.children
    parameters = cast("Tree[Token]", parts[0]).children if parts else []
    return syntax.DefinitionSyntax(
        _name(cast(Token, name), source),
        tuple(_parameter(cast("Tree[Token]", child), source) for child in parameters),
        _pattern(cast("Tree[Token]", body), source),
        _node_span(node, source),
    )


def _parameter(node: Tree[Token], source: Source) -> syntax.ParameterSyntax:
    name, kind, *rest = cast("list[Any]", node.children)
    bounds = [part for part in rest if part.data == "bound"]
    default = rest[len(bounds) :]
    return syntax.ParameterSyntax(
        _name(name, source),
        _name(kind, source),
        tuple(_bound(bound, source) for bound in bounds),
        _arithmetic(cast("Tree[Token]", default[0]), source) if default else None,
        _node_span(node, source),
    )


def _bound(node: Tree[Any], source: Source) -> syntax.BoundSyntax:
    relation, number = cast("tuple[Any, Any]", node.children)
    return syntax.BoundSyntax(_name(relation, source), signed(number), _node_span(node, source))


def _given(node: Tree[Token], source: Source) -> syntax.Given:
    name, value = node.children
    return syntax.Given(
        _name(cast(Token, name), source),
        tensor(cast("Tree[Token]", value)),
        _node_span(node, source),
    )


def _pattern(tree: Tree[Token], source: Source) -> Syntax:
    """Children first, without recursion: a text may nest its operators as deep as it is long."""
    done: dict[int, tuple[Syntax, int]] = {}  # id of lark's node -> syntax, its depth
    for node in tree.iter_subtrees():  # children before parents
        if node.data == "call":
            done[id(node)] = _reference(node, source), 0
        elif node.data == "where":
            condition = read_condition(node.children[1], source, integer)
            done[id(node)] = syntax.WhereSyntax(condition, _node_span(node, source)), 0
        elif node.data == "modified":
            inner, depth = done.pop(id(node.children[0]))
            span = _node_span(node, source)
            done[id(node)] = read_modified(node, inner, _reference, source, span), depth
        elif node.data == "heads":
            parts = [done.pop(id(group.children[2])) for group in _trees(node)]
            done[id(node)] = (
                _heads(node, [part for part, _ in parts], source),
                1 + max(depth for _, depth in parts),
            )
        elif node.data in _PATTERNS:
            parts = [done.pop(id(child)) for child in node.children]
            done[id(node)] = _operation(node, parts, source)
    return done[id(tree)][0]


def _trees(node: Tree[Token]) -> list[Tree[Token]]:
    return [child for child in node.children if isinstance(child, Tree)]


def _heads(node: Tree[Token], patterns: list[Syntax], source: Source) -> syntax.HeadsSyntax:
    """`heads{...}` of the patterns of its groups."""
    slices = [_slice(_trees(group)[0], source) for group in _trees(node)]
    return syntax.HeadsSyntax(tuple(zip(slices, patterns, strict=True)), _node_span(node, source))


def _slice(node: Tree[Token], source: Source) -> syntax.SliceSyntax:
    ends: list[syntax.Arithmetic | None] = [None, None]
    place = 0
    for child in node.children:
        if isinstance(child, Tree):
            ends[place] = _arithmetic(child, source)
        else:
            place = 1
    return syntax.SliceSyntax(ends[0], ends[1], not place, _node_span(node, source))


def _operation(
    node: Tree[Token], parts: list[tuple[Syntax, int]], source: Source
) -> tuple[Syntax, int]:
    """An operator applied to (syntax, depth) pairs, with the depth of the result."""
    span = _node_span(node, source)
    check_operands([operand for operand, _ in parts])
    if node.data != "difference":
        depth = 1 + max(depth for _, depth in parts)
        operands = tuple(operand for operand, _ in parts)
        operation: Syntax = syntax.Operation(
            cast(syntax.OperationKind, str(node.data)), operands, span
        )
    else:
        operation, depth = parts[0]
        for child, (right, right_depth) in zip(node.children[1:], parts[1:], strict=True):
            depth = 1 + max(depth, right_depth)
            end = _outer_end(child)
            operation = syntax.Operation(
                "difference", (operation, right), Span(source, span.start, end)
            )
            if depth > MAX_NESTING:
                break
    if depth > MAX_NESTING:
        raise NestingError(span, limit=MAX_NESTING)
    return operation, depth


def _reference(node: Tree[Token], source: Source) -> syntax.Reference:
    """`node` holds NAME, arguments and perhaps RPAR."""
    name = _name(cast(Token, node.children[0]), source)
    arguments = tuple(_argument(c, source) for c in node.children if isinstance(c, Tree))
    end = _token_span(cast(Token, node.children[-1]), source)  # ')', or the name itself
    return syntax.Reference(name, arguments, end, _node_span(node, source))


def _argument(node: Tree[Token], source: Source) -> syntax.ArgumentSyntax:
    *name, value = node.children
    return syntax.ArgumentSyntax(
        _name(cast(Token, name[0]), source) if name else None,
        _arithmetic(cast("Tree[Token]", value), source),
        _node_span(node, source),
    )


def _arithmetic(node: Tree[Token], source: Source) -> syntax.Arithmetic:
    """Recursion goes as deep as parentheses do, which `_read` bounds."""
    span = _node_span(node, source)
    match node.data:
        case "literal":
            return syntax.Literal(literal(cast(Token, node.children[0])), span)
        case "parameter_name":
            return syntax.ParameterName(str(node.children[0]), span)
        case "minus":
            return syntax.Negation(_arithmetic(cast("Tree[Token]", node.children[1]), source), span)
        case _:
            parts = [
                _arithmetic(c, source) if isinstance(c, Tree) else str(c) for c in node.children
            ]
            operators = cast("list[str]", parts[1::2])
            operands = cast("list[syntax.Arithmetic]", parts[0::2])
            return syntax.Chain(operands[0], tuple(zip(operators, operands[1:], strict=True)), span)


def _name(token: Token, source: Source) -> syntax.Name:
    return syntax.Name(str(token), _token_span(token, source))


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
