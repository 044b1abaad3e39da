"""One spec file: what it means, and the exact text for each mistake in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from spec_support import library_of

from attncomp import errors
from attncomp.errors import PatternError, Source
from attncomp.frontend.ast import to_text
from attncomp.frontend.catalog import REQUIRED
from attncomp.frontend.library import Library
from attncomp.frontend.parser import parse
from attncomp.frontend.reader import tokens
from attncomp.frontend.specfile import parse_file

Files = Callable[..., Library]

GOOD = '''\
"""What the file is for."""

from streaming_llm import streaming_llm  # shipped

"""
Doc of mine.

    indented
"""
pattern mine(
    n: int,
    half: float = 1 // 2 + 0.5,  # no parameter of a primitive is a float
    gate: str = 'hard',
    twice: bool = False,
) = (window(n - 1 + 2 * 3) | near(half, twice)) & ~first(n // 2 % 3) - sparsek(-(-n), gate=gate)

pattern near(half: float, twice: bool) = both(half, twice=twice)
pattern both(half: float, twice: bool) = _keep(half, twice) | streaming_llm(size=7)
pattern _keep(half: float, twice: bool) = full
'''


def test_a_file_as_read() -> None:
    file = parse_file(Source("my.attn", GOOD))
    assert file.doc == "What the file is for."
    assert list(file.definitions) == ["mine", "near", "both", "_keep"]
    assert list(file.exported) == ["mine", "near", "both"]
    mine = file.definitions["mine"]
    assert mine.doc == "Doc of mine.\n\n    indented"
    assert mine.signature == 'mine(n, half=0.5, gate="hard", twice=False)'
    assert [p.type for p in mine.parameters] == [int, float, str, bool]
    assert mine.parameters[0].default is REQUIRED
    assert type(mine.parameters[1].default) is float
    assert (mine.span.text, mine.span.line) == ("mine", 10)
    assert {name: span.text for name, span in mine.places.items()} == {
        "n": "n", "half": "half", "gate": "gate", "twice": "twice",
    }  # fmt: skip
    assert file.definitions["near"].doc == ""


def test_the_only_public_pattern_has_the_doc_of_its_file() -> None:
    file = parse_file(Source("a", "'The file.' pattern a = _b pattern _b = full"))
    assert file.definitions["a"].doc == "The file."
    assert file.definitions["_b"].doc == ""
    file = parse_file(Source("a", "'The file.' 'The pattern.' pattern a = full"))
    assert file.definitions["a"].doc == "The pattern."


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("20 - 3 - 4", 13),
        ("100 // 7 // 2", 7),
        ("-7 // 2", -4),
        ("-7 % 5", 3),
        ("7 % 4 * 2", 6),
        ("2 - -3", 5),
        ("-(1 + n)", -11),
        ("n * n - n", 90),
        ("1_000 + 0", 1000),
    ],
)
def test_arithmetic(written: str, value: int) -> None:
    library = library_of(f"pattern f(n: int) = window(100 + {written} - 0 * n)")
    assert to_text(parse("f(10)", library=library)) == f"window({100 + value})"
    assert eval(written, {"n": 10}) == value


def test_arithmetic_outside_of_definitions() -> None:
    assert parse("sparsek(k=2 * (3 + 1), lag=9 % 4)") == parse("sparsek(k=8, lag=1)")


def test_examples() -> None:
    library = library_of(
        "pattern a(n: int) = window(n)\n"
        "example a(1 + 1) = '''\n\n   #..\r\n\t59.  \n'''\n"
        "example a(n=3) given scores=[1, -2.5, 3e1,], more=[[[0]]] = '#'\n"
    )
    first, second = library.examples
    assert first.picture == ("#..", "59.")
    assert (first.text, first.span.line) == ("a(1 + 1)", 2)
    assert to_text(first.expand()) == "window(2)"
    assert dict(first.tensors) == {}
    assert second.picture == ("#",)
    assert dict(second.tensors) == {"scores": (1.0, -2.5, 30.0), "more": (((0.0,),),)}


def test_tokens_with_comments() -> None:
    text = "# one\npattern a = window(2) # two #\n| full  # three"
    words = tokens(Source("a", text))
    assert [(w.kind, w.text) for w in words if w.kind == "COMMENT"] == [
        ("COMMENT", "# one"), ("COMMENT", "# two #"), ("COMMENT", "# three"),
    ]  # fmt: skip
    assert "".join(w.text for w in words) == text.replace("\n", "").replace(" = ", "=").replace(
        "pattern a", "patterna"
    ).replace(") #", ")#").replace("| full  #", "|full#")
    assert [w.span.start for w in words] == sorted(w.span.start for w in words)
    with pytest.raises(errors.UnexpectedTextError, match="unexpected '\\$': expected a token"):
        tokens(Source("a", "pattern $"))


# Text before the mistake, the text at it, and what was expected.
UNEXPECTED = [
    ("pattern a = full |\n", "pattern", " b = full", "a pattern"),
    ("pattern a ", "full", "", "'=' or '('"),
    ("pattern a(n", ",", " m: int) = full", "':'"),
    ("pattern a(n: ", "3", ") = full", "a type: int, float, str or bool"),
    ("pattern a(n: int ", "m", ": int) = full", "',' or ')' to close '(' at 1:10"),
    ("pattern a(n: int, ", "3", ") = full", "a parameter"),
    ("pattern a(n: int) = window(n ", "n", ")", "',' or ')' to close '(' at 1:27"),
    ("pattern a(n: int) = window(", "n", "(3))", "a value"),
    ("pattern a = full ", "full", "", "an operator or a definition"),
    ("pattern a = (full ", "example", " a", "an operator or ')' to close '(' at 1:13"),
    ("pattern ", "3", " = full", "a name"),
    ("from ", "3", "", "a module"),
    ("from . ", "import", " a", "a module"),
    ("from a ", "full", "", "'.' or 'import'"),
    ("from a import b ", "c", "", "',' or a definition"),
    ("example full ", "'#'", "", "an operator or '='"),
    ("example full = ", "3", "", "a picture"),
    ("example full given s=", "'#'", "", "a number or '['"),
    ("example full given s=[1 ", "2", "] = ''", "',' or ']' to close '[' at 1:22"),
    ("example full given s=[1] ", "t", "=[1] = ''", "',' or '='"),
]


@pytest.mark.parametrize(("before", "found", "after", "expected"), UNEXPECTED)
def test_unexpected_text(files: Files, before: str, found: str, after: str, expected: str) -> None:
    with pytest.raises(PatternError) as caught:
        files(my=before + found + after)
    span = caught.value.span
    assert span is not None
    assert caught.value.message == f"unexpected '{found}': expected {expected}"
    assert (span.start, span.text) == (len(before), found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pattern a", "'=' or '('"),
        ("pattern a(", "')' to close '(' at 1:10"),
        ("pattern a(n:", "a type: int, float, str or bool"),
        ("pattern a =", "a pattern"),
        ("pattern a = full\nexample a", "an operator or '='"),
        ("pattern a = full\nexample a =", "a picture"),
        ("example full given s=[", "']' to close '[' at 1:22"),
        ("from .a import", "a name"),
    ],
)
def test_unexpected_end(files: Files, text: str, expected: str) -> None:
    with pytest.raises(PatternError) as caught:
        files(my=text)
    assert caught.value.message == f"unexpected end of the file: expected {expected}"


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_a_string_without_end(files: Files, quotes: str) -> None:
    with pytest.raises(errors.UnexpectedTextError) as caught:
        files(my=f"pattern a = full\n{quotes}doc\n")
    assert caught.value.hint == "the string is not closed"
    assert caught.value.span is not None and caught.value.span.line == 2
