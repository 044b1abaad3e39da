"""Translation of the parser's stops into errors that say what was expected and what to write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from attncomp.errors import Source, Span, UnexpectedEndError, UnexpectedTextError, quoted
from attncomp.frontend.catalog import PRIMITIVES

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

    `last` is the token before, `opened` the innermost open parenthesis, `callee` the name before
    that, and `accepts` holds the terminals that could have followed.
    """

    source: Source
    last: Word | None
    opened: Span | None
    callee: str | None
    accepts: frozenset[str]

    @property
    def wants_operator(self) -> bool:
        """Whether a complete pattern stands before the stop."""
        return bool(self.accepts & {"BAR", "AMPERSAND", "$END"})

    @property
    def closing(self) -> str | None:
        """The closing parenthesis that is due, with the place of the opening one."""
        if self.opened is None:
            return None
        return f"')' to close '(' at {self.opened.line}:{self.opened.column}"

    @property
    def expected(self) -> str:
        """What may stand at the stop, in words."""
        accepts = self.accepts
        if "TILDE" in accepts:
            return "a pattern"
        if "STRING" in accepts:
            return "an argument" if "NAME" in accepts else "a value"
        if "INT" in accepts:
            return "a number"
        if "EQUAL" in accepts:
            return "'='"
        if "COMMA" in accepts:
            return f"',' or {self.closing}"
        return f"an operator or {self.closing}" if self.closing else "an operator"


def word_operator(word: Word) -> UnexpectedTextError | None:
    """The error for `and`, `or`, `not` in place of an operator; None for any other token."""
    operator = _WORDS.get(word.text) if word.kind == "NAME" else None
    if operator is None:
        return None
    return UnexpectedTextError(
        word.span,
        found=quoted(word.text),
        expected="a pattern" if operator == "~" else "an operator",
        hint=f"did you mean '{operator}'?",
    )


def unexpected_end(stop: Stop) -> UnexpectedEndError:
    """The text ends at `stop`, behind its last token."""
    end = 0 if stop.last is None else stop.last.span.end
    closing = stop.closing if "RPAR" in stop.accepts else None
    return UnexpectedEndError(
        Span(stop.source, end, end), expected=stop.expected if closing is None else closing
    )


def unexpected_character(stop: Stop, position: int) -> UnexpectedTextError:
    """The character at `position` begins no token."""
    character = stop.source.text[position]
    shown = quoted(character) if character.isprintable() else f"character U+{ord(character):04X}"
    hint = None
    if character in "\"'":
        hint = "the string is not closed on its line"
    elif character == ":" and "EQUAL" in stop.accepts:
        hint = "did you mean '='?"
    else:
        table = _INFIX if stop.wants_operator else _PREFIX if "TILDE" in stop.accepts else {}
        if character in table:
            hint = f"did you mean '{table[character]}'?"
    return UnexpectedTextError(
        Span(stop.source, position, position + 1), found=shown, expected=stop.expected, hint=hint
    )


def unexpected_word(stop: Stop, word: Word) -> UnexpectedTextError:
    """`word` cannot follow what stands before `stop`."""
    last = stop.last
    if last is not None and _is_doubled(last, word):
        return UnexpectedTextError(
            Span(stop.source, last.span.start, word.span.end),
            found=quoted(last.text + word.text),
            expected=_wanted_by_doubled(stop, last),
            hint=f"did you mean '{last.text}'?",
        )
    expected = stop.expected
    if last is not None and "EQUAL" in stop.accepts and word.kind not in _VALUES:
        # A bare word among the arguments is the mistake, not what follows it.
        word, expected, hint = last, "a value", _value_hint(stop, last)
    elif expected == "a value":
        hint = _value_hint(stop, word)
    else:
        hint = _join_hint(stop, word) or _position_hint(stop, word)
    return UnexpectedTextError(word.span, found=quoted(word.text), expected=expected, hint=hint)


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


def _value_hint(stop: Stop, word: Word) -> str | None:
    """For a word in place of a value: the string or truth value that was perhaps meant."""
    if word.text.lower() in {"true", "false"}:
        return f"did you mean '{word.text.capitalize()}'?"
    primitive = PRIMITIVES.get(stop.callee) if stop.callee is not None else None
    if primitive is not None and any(word.text in p.choices for p in primitive.parameters):
        return f"did you mean '\"{word.text}\"'?"
    return None


def _join_hint(stop: Stop, word: Word) -> str | None:
    """For a name and a value side by side: how they belong together."""
    last = stop.last
    if last is None or word.kind not in _VALUES or len(last.text) + len(word.text) > 36:
        return None
    if stop.wants_operator and last.kind == "NAME":
        return f"did you mean {quoted(f'{last.text}({word.text})')}?"
    joined = quoted(f"{last.text}={word.text}")
    return f"did you mean {joined}?" if "EQUAL" in stop.accepts else None


def _position_hint(stop: Stop, word: Word) -> str | None:
    """For a token behind a complete pattern."""
    if not stop.wants_operator:
        return None
    match word.kind:
        case "RPAR":
            return "no '(' is open"
        case "TILDE":
            return "did you mean '-'?"
        case "NAME" | "LPAR":
            return "join patterns with '|', '&' or '-'"
        case _:
            return None
