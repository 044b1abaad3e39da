"""Hints at the habits of other languages: exact text and place."""

from __future__ import annotations

import pytest
from spec_support import library_of

from attncomp.errors import PatternError
from attncomp.frontend.parser import parse

GROUP = "heads{:4 -> window(2) with sink, 4: -> full}"
OPEN = "a relation, an operator or ')' to close '(' at 1:6"
FUNCTION = "a predicate has no functions, and subscripts stand in '[...]'"
# text, what is unexpected there, what was expected, the column and the hint
PATTERNS = [
    (
        GROUP,
        "with",
        "an operator or '}' to close '{' at 1:6",
        23,
        "a group's modifiers stand in parentheses: '(... with ...)'",
    ),
    ("full with sink with alibi", "with", "','", 16, "did you mean ','?"),
    ("heads(0:4 -> full)", "(", "'{'", 6, "did you mean '{'?"),
    ("heads[0:4 -> full]", "[", "'{'", 6, "did you mean '{'?"),
    ("heads{0:4: full}", ":", "'->'", 10, "did you mean '->'?"),
    ("heads{0:4 => full}", "=", "'->'", 11, "did you mean '->'?"),
    (
        "heads{0:4 -> full; 4: -> full}",
        ";",
        "an operator or '}' to close '{' at 1:6",
        18,
        "did you mean ','?",
    ),
    ("where(q > k, k > 2)", ",", OPEN, 12, "did you mean 'and'?"),
    ("where(abs(q - k) < 3)", "(", OPEN, 10, FUNCTION),
    ("where(seg(q) == seg(k))", "(", OPEN, 10, FUNCTION),
    (
        "where(seg[q][k])",
        "[",
        OPEN,
        13,
        "all subscripts of a tensor stand in one pair of brackets: 't[q, k]'",
    ),
]
FILES = [
    ("import longformer", "import", "a definition", 1, "did you mean 'from ... import ...'?"),
    (
        "from longformer import longformer as l",
        "as",
        "',' or a definition",
        35,
        "an imported pattern keeps its name",
    ),
    ("pattern a(w) = first(w)", ")", "':'", 12, "a parameter has a type: 'w: int'"),
    ("pattern a(w = 3) = first(w)", "=", "':'", 13, "a parameter has a type: 'w: int'"),
    (
        "a = first(3)",
        "a",
        "a definition",
        1,
        "a pattern needs a name: 'pattern mine = ...'",
    ),
]


def check(error: PatternError, found: str, expected: str, column: int, hint: str) -> None:
    assert error.message == f"unexpected '{found}': expected {expected}"
    assert error.span is not None
    assert (error.span.line, error.span.column, error.span.text) == (1, column, found)
    assert str(error).endswith(f"{'^' * len(found)} {hint}")


@pytest.mark.parametrize(("text", "found", "expected", "column", "hint"), PATTERNS)
def test_patterns(text: str, found: str, expected: str, column: int, hint: str) -> None:
    with pytest.raises(PatternError) as caught:
        parse(text)
    check(caught.value, found, expected, column, hint)


@pytest.mark.parametrize(("text", "found", "expected", "column", "hint"), FILES)
def test_files(text: str, found: str, expected: str, column: int, hint: str) -> None:
    with pytest.raises(PatternError) as caught:
        library_of(text)
    check(caught.value, found, expected, column, hint)


@pytest.mark.parametrize(("name", "meant"), [("q_idx", "q"), ("kv_idx", "k"), ("Q", "q")])
def test_indices_of_flex_attention(name: str, meant: str) -> None:
    with pytest.raises(PatternError) as caught:
        parse(f"where({name} > 3)")
    assert caught.value.message == f"unknown name '{name}'"
    assert str(caught.value).endswith(f"^ did you mean '{meant}'?")
