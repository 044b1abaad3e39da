"""Translation of the parser's stops into errors that say what was expected and what to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from attncomp.errors import (
    PatternError,
    ReservedWordError,
    Source,
    Span,
    UnexpectedEndError,
    UnexpectedTextError,
    quoted,
)
from attncomp.frontend.primitives import PRIMITIVES

# What begins an item or part of a spec file, and what later versions of the language will need.
KEYWORDS: Final = frozenset({"pattern", "example", "from", "import", "given"})
RESERVED: Final = KEYWORDS | {"with", "where", "heads", "and", "or", "not", "in"}

_VALUES: Final = frozenset({"INT", "FLOAT", "STRING", "TRUE", "FALSE"})

_WORDS: Final[Mapping[str, str]] = MappingProxyType({"and": "&", "or": "|", "not": "~"})

# Characters of other languages for operators between two patterns, and before one.
_INFIX: Final[Mapping[str, str]] = MappingProxyType(
    {
        "+": "|",
        "*": "&",
        "\\": "-",
        "\u222a": "|",  # union
        "\u2229": "&",  # intersection
        "\u2216": "-",  # set minus
        "\u2212": "-",  # minus sign
        "\u2013": "-",  # en dash
        "[": "(",
        "{": "(",
    }
)
# Inside of a predicate, likewise.
_WRITTEN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "=": "==",
        "&": "and",
        ",": "and",
        "|": "or",
        "/": "//",
        "\u2264": "<=",
        "\u2265": ">=",
        "\u2260": "!=",
    }
)
# In groups of heads: what may follow, what stands there, what was meant.
_FOR_HEADS: Final = (("LBRACE", "([", "{"), ("ARROW", ":=", "->"), ("RBRACE", ";", ","))
_PREFIX: Final[Mapping[str, str]] = MappingProxyType({"!": "~", "\u00ac": "~"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A token: its terminal in the grammar and its place."""

    kind: str
    span: Span

    @property
    def text(self) -> str:
        """The characters of the token."""
        return self.span.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Where reading stopped.

    `last` is the token before, `opened` the innermost open bracket, `callee` the name before that,
    and `accepts` holds the terminals that could have followed. `is_file`: the text is a spec file.
    """

    source: Source
    is_file: bool
    last: Word | None
    opened: Span | None
    callee: str | None
    accepts: frozenset[str]

    @property
    def wants_operator(self) -> bool:
        """Whether a complete pattern stands before the stop."""
        return "AMPERSAND" in self.accepts

    @property
    def last_kind(self) -> str | None:
        """The terminal before the stop."""
        return None if self.last is None else self.last.kind

    @property
    def wants_modifier(self) -> bool:
        """Whether a complete modifier stands before the stop."""
        others = {"AMPERSAND", "PERCENT"}
        return "COMMA" in self.accepts and not self.accepts & others and not self.is_file

    @property
    def wants_item(self) -> bool:
        """Whether a definition may begin at the stop."""
        return "PATTERN" in self.accepts

    @property
    def wants_equal(self) -> bool:
        """Whether a bare word among the arguments of a pattern awaits its value."""
        return "EQUAL" in self.accepts and "PERCENT" in self.accepts and not self.is_file

    @property
    def closing(self) -> str | None:
        """The closing bracket that is due, with the place of the opening one."""
        if self.opened is None:
            return None
        bracket = {"(": ")", "[": "]", "{": "}"}[self.opened.text]
        place = f"{self.opened.line}:{self.opened.column}"
        return f"'{bracket}' to close '{self.opened.text}' at {place}"

    @property
    def expected(self) -> str:
        """What may stand at the stop, in words."""
        accepts = self.accepts
        if self.wants_equal:
            return "'='"
        if accepts >= {"RELATION", "PLUS"}:
            return f"a relation, an operator or {self.closing}"
        if "OR" in accepts:
            return f"'and', 'or' or {self.closing}"
        if accepts >= {"COLON", "INT"}:
            return "a slice of heads"
        if self.wants_operator:
            return f"an operator or {self._next}" if self._next else "an operator"
        if "COMMA" in accepts:
            return f"',' or {self._next}" if self._next else "','"
        if accepts >= {"STRING", "RPAR"}:
            return "an argument"
        for terminal, phrase in _EXPECTED:
            if terminal in accepts:
                return phrase
        return self._named

    @property
    def _next(self) -> str | None:
        """What follows a complete pattern, name or tensor."""
        if self.closing is not None:
            return self.closing
        return "a definition" if self.wants_item else "'='" if "EQUAL" in self.accepts else None

    @property
    def _named(self) -> str:
        """What a name at the stop would stand for; signs where no name may follow."""
        if "NAME" not in self.accepts:
            return " or ".join(_SIGNS[terminal] for terminal in sorted(self.accepts & set(_SIGNS)))
        if self.last is not None and self.last.kind == "COLON":
            return "a type: int, float, str or bool"
        if "RPAR" in self.accepts:
            return "a parameter"
        if "DOT" in self.accepts:
            return "a module"
        return "a name" if self.is_file and self.last_kind != "WITH" else "a modifier"


# The first terminal that may follow says what is awaited.
_EXPECTED: Final = (
    ("TILDE", "a pattern"),
    ("NOT", "a condition"),
    ("PATTERN", "a definition"),
    ("LONG_STRING", "a picture"),
    ("STRING", "a value"),
    ("LSQB", "a number or '['"),
    ("INT", "a number"),
)
_SIGNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ARROW": "'->'",
        "COLON": "':'",
        "LBRACE": "'{'",
        "DOT": "'.'",
        "EQUAL": "'='",
        "IMPORT": "'import'",
        "LPAR": "'('",
    }
)


def reserved_word(stop: Stop, word: Word) -> PatternError:
    """`word`, a reserved one, stands where a name may, or for an operator."""
    operator = _WORDS.get(word.text)
    if operator is not None and ("TILDE" in stop.accepts or "NAME" not in stop.accepts):
        return UnexpectedTextError(
            word.span,
            found=quoted(word.text),
            expected="a pattern" if operator == "~" else "an operator",
            hint=f"did you mean '{operator}'?",
        )
    if "NAME" in stop.accepts:
        return ReservedWordError(word.span, name=quoted(word.text))
    return UnexpectedTextError(
        word.span, found=quoted(word.text), expected=stop.expected, hint=_modifier_hint(stop, word)
    )


def _modifier_hint(stop: Stop, word: Word) -> str | None:
    """For a second `with`, or one in a group of heads."""
    if word.kind != "WITH":
        return None
    if stop.wants_modifier:
        return "did you mean ','?"
    in_group = stop.opened is not None and stop.opened.text == "{"
    return "a group's modifiers stand in parentheses: '(... with ...)'" if in_group else None


def unexpected_end(stop: Stop) -> UnexpectedEndError:
    """The text ends at `stop`, behind its last token."""
    end = 0 if stop.last is None else stop.last.span.end
    closes = bool(stop.accepts & {"RPAR", "RSQB", "RBRACE"}) and not stop.wants_equal
    return UnexpectedEndError(
        Span(stop.source, end, end),
        text="file" if stop.is_file else "pattern",
        expected=stop.closing if closes else stop.expected,
    )


def unexpected_character(stop: Stop, position: int) -> UnexpectedTextError:
    """The character at `position` begins no token."""
    character = stop.source.text[position]
    shown = quoted(character) if character.isprintable() else f"character U+{ord(character):04X}"
    hint = _operator_hint(stop, character)
    if character in "\"'":
        long = stop.source.text.startswith(character * 3, position)
        hint = "the string is not closed" if long else "the string is not closed on its line"
    return UnexpectedTextError(
        Span(stop.source, position, position + 1), found=shown, expected=stop.expected, hint=hint
    )


def _operator_hint(stop: Stop, text: str) -> str | None:
    """For a sign of another language: the operator that was perhaps meant."""
    if text == ":" and "EQUAL" in stop.accepts:
        return "did you mean '='?"
    if text == "/" and "QUOTIENT" in stop.accepts:
        return "did you mean '//'?"
    for terminal, written, meant in _FOR_HEADS:
        if terminal in stop.accepts and text in written:
            return f"did you mean '{meant}'?"
    if "RELATION" in stop.accepts and text in _WRITTEN:
        return f"did you mean '{_WRITTEN[text]}'?"
    table = _INFIX if stop.wants_operator else _PREFIX if "TILDE" in stop.accepts else {}
    return f"did you mean '{table[text]}'?" if text in table else None


def unexpected_word(stop: Stop, word: Word) -> PatternError:
    """`word` cannot follow what stands before `stop`."""
    last = stop.last
    if word.kind in {"AND", "OR", "NOT", "WHERE", "HEADS", "WITH"}:
        return reserved_word(stop, word)
    if word.kind == "RELATION" and word.text == "==" and "EQUAL" in stop.accepts:
        return UnexpectedTextError(
            word.span, found="'=='", expected="'='", hint="did you mean '='?"
        )
    if word.text in KEYWORDS and "NAME" in stop.accepts:
        # Before a keyword of a file it is a pattern or a module that is missing.
        if not (stop.is_file and stop.accepts & {"TILDE", "DOT"}):
            return ReservedWordError(word.span, name=quoted(word.text))
    elif last is not None and _is_doubled(last, word):
        return UnexpectedTextError(
            Span(stop.source, last.span.start, word.span.end),
            found=quoted(last.text + word.text),
            expected=_wanted_by_doubled(stop, last),
            hint=f"did you mean '{last.text}'?",
        )
    expected = stop.expected
    if last is not None and _is_bare(stop, word):
        # A bare word among the arguments is the mistake, not what follows it.
        word, expected, hint = last, "a value", value_hint(last.text, stop.callee)
    else:
        hint = (
            _operator_hint(stop, word.text) or _join_hint(stop, word) or _position_hint(stop, word)
        )
    return UnexpectedTextError(word.span, found=quoted(word.text), expected=expected, hint=hint)


def _is_bare(stop: Stop, word: Word) -> bool:
    """Whether a name among arguments, which awaits '=', is followed by what joins patterns."""
    if not stop.accepts >= {"EQUAL", "PERCENT"} or word.kind in _VALUES or word.kind == "COLON":
        return False
    return not stop.is_file or word.kind in {"LPAR", "BAR", "AMPERSAND", "TILDE"}


def _is_doubled(last: Word, word: Word) -> bool:
    """Whether two tokens together are `||`, `&&`, `--` or `==`."""
    return (
        last.kind == word.kind
        and word.kind in {"BAR", "AMPERSAND", "MINUS", "EQUAL"}
        and last.span.end == word.span.start
    )


def _wanted_by_doubled(stop: Stop, last: Word) -> str:
    """What was expected where the first of two equal tokens stands."""
    if last.kind == "EQUAL":
        return "'='"
    return "an operator" if "TILDE" in stop.accepts else stop.expected


def value_hint(text: str, callee: str | None) -> str | None:
    """For a word in place of a value: the string or truth value that was perhaps meant."""
    if text.lower() in {"true", "false"}:
        return f"did you mean '{text.capitalize()}'?"
    primitive = PRIMITIVES.get(callee) if callee is not None else None
    if primitive is not None and any(text in p.choices for p in primitive.parameters):
        return f"did you mean '\"{text}\"'?"
    return None


def _join_hint(stop: Stop, word: Word) -> str | None:
    """For a name and a value side by side: how they belong together."""
    last = stop.last
    if last is None or word.kind not in _VALUES or len(last.text) + len(word.text) > 36:
        return None
    if stop.wants_operator and last.kind == "NAME":
        return f"did you mean {quoted(f'{last.text}({word.text})')}?"
    joined = quoted(f"{last.text}={word.text}")
    is_named = "EQUAL" in stop.accepts and last.kind not in _VALUES
    return f"did you mean {joined}?" if is_named else None


def _file_hint(stop: Stop, word: Word) -> str | None:
    """For a token in place of a definition, or behind the name of a parameter."""
    if stop.accepts == {"COLON"} and stop.last is not None:
        return f"a parameter has a type: {quoted(stop.last.text + ': int')}"
    if not stop.wants_item or stop.wants_operator:
        return None
    if word.text == "as":
        return "an imported pattern keeps its name"
    if word.kind == "IMPORT":
        return "did you mean 'from ... import ...'?"
    is_pattern = word.kind in {"NAME", "LPAR", "TILDE"}
    return "a pattern needs a name: 'pattern mine = ...'" if is_pattern else None


def _predicate_hint(stop: Stop, word: Word) -> str | None:
    """For a bracket behind a complete number in a predicate."""
    if word.kind == "LPAR" and stop.last_kind == "NAME":
        return "a predicate has no functions, and subscripts stand in '[...]'"
    if word.kind == "LSQB" and stop.last_kind == "RSQB":
        return "all subscripts of a tensor stand in one pair of brackets: 't[q, k]'"
    return None


def _position_hint(stop: Stop, word: Word) -> str | None:
    """For a token behind a complete pattern, or in place of a definition."""
    if stop.is_file and (hint := _file_hint(stop, word)) is not None:
        return hint
    if "RELATION" in stop.accepts:
        return _predicate_hint(stop, word)
    if stop.wants_modifier and word.kind in {"BAR", "AMPERSAND", "MINUS", "TILDE"}:
        return "'with' stands after the whole pattern"
    if not stop.wants_operator:
        return None
    match word.kind:
        case "PATTERN" | "EXAMPLE" | "FROM":
            return "definitions stand in a .attn file"
        case "RPAR":
            return "no '(' is open" if stop.opened is None else None
        case "TILDE":
            return "did you mean '-'?"
        case "NAME" | "LPAR":
            return "join patterns with '|', '&' or '-'"
        case _:
            return None
