"""Groups of heads as text and as trees: what they read as, and where mistakes are."""

from __future__ import annotations

from textwrap import dedent

import pytest

from attncomp import errors
from attncomp import patterns as P
from attncomp.errors import HeadSliceError, PatternError
from attncomp.frontend.ast import Call, HeadGroups, HeadSlice, dump, to_text
from attncomp.frontend.formatter import format_text
from attncomp.frontend.heads import least_heads
from attncomp.frontend.library import Library
from attncomp.frontend.parser import parse
from attncomp.source import Source

FULL, CAUSAL = Call("full", ()), Call("causal", ())


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("heads{0:8->full,8:->causal,}", "heads{0:8 -> full, 8: -> causal}"),
        ("heads { : -> full }", "heads{0: -> full}"),
        ("heads{:-2 -> full, -2 -> causal, -1 -> full}", None),
        ("heads{0 -> full, 1:2 -> causal, 2: -> full}", None),
        ("heads{8: -> full | causal, :8 -> ~full}", "heads{8: -> full | causal, 0:8 -> ~full}"),
        (
            "~heads{0:4 -> heads{0:2 -> full, 2: -> causal}, 4: -> full} & (full | causal)",
            None,
        ),
    ],
)
def test_texts(text: str, canonical: str | None) -> None:
    tree = parse(text)
    if canonical is not None:
        assert to_text(tree) == canonical
    assert parse(to_text(tree)) == tree
    assert to_text(parse(to_text(tree))) == to_text(tree)


def test_trees() -> None:
    first, rest = HeadSlice(0, 8), HeadSlice(8, None)
    assert parse("heads{:8 -> full, 8: -> causal}") == HeadGroups(((first, FULL), (rest, CAUSAL)))
    assert parse("heads{:-1 -> full, -1 -> causal}") == HeadGroups(
        ((HeadSlice(0, -1), FULL), (HeadSlice(-1, None), CAUSAL))
    )
    assert dump(parse("heads{0 -> full, 1: -> causal}")).splitlines() == [
        "HeadGroups",
        "  0 ->",
        "    Call full",
        "  1: ->",
        "    Call causal",
    ]


def test_python() -> None:
    text = "heads{0:8 -> window(4), 8:-1 -> full, -1: -> causal}"
    parts = {"0:8": P.window(4), "8:-1": P.full(), -1: P.causal()}
    assert str(P.heads(parts)) == text
    assert P.heads(parts) == parse(text)
    with pytest.raises(HeadSliceError) as caught:
        P.heads({"1-2": P.full()})
    assert caught.value.message == (
        "wrong slice of heads: expected an index or a slice, found '1-2'"
    )
    assert caught.value.span is not None and "P.heads" in caught.value.span.text
    with pytest.raises(errors.HeadOverlapError, match=r"the heads 0:4 and 3: overlap"):
        P.heads({"0:4": P.full(), "3:": P.causal()})
    with pytest.raises(HeadSliceError, match="expected one slice or more, found none"):
        P.heads({})
    with pytest.raises(TypeError, match="expected a pattern for heads 0, found str"):
        P.heads({0: "full"})  # type: ignore[dict-item]


def test_definitions() -> None:
    text = """\
pattern split(n: int >= 1 = 2, size: int = 4) = heads{
    0 : 2*n -> window(size),   # near
    2*n: -> causal | first( size )}
"""
    library = Library.of(Source("my.attn", text))
    assert str(library.expand("split", ())) == ("heads{0:4 -> window(4), 4: -> causal | first(4)}")
    formatted = format_text(text)
    assert formatted == (
        "pattern split(n: int >= 1 = 2, size: int = 4) = heads{\n"
        "    0:2 * n -> window(size),  # near\n"
        "    2 * n: -> causal | first(size),\n"
        "}\n"
    )
    assert format_text(formatted) == formatted
    short = "pattern a = heads{0:8->full,-1->where(q[k]<h)|causal,}"
    assert format_text(short) == "pattern a = heads{0:8 -> full, -1 -> where(q[k] < h) | causal}\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("window(3)", 1),
        ("heads{0:8 -> full, 8: -> causal}", 9),
        ("heads{0:4 -> full, 4:8 -> causal}", 8),
        ("heads{0:4 -> full, -2: -> causal}", 6),
        ("heads{0:3 -> full, 3:-1 -> causal, -1 -> full}", 5),
        ("heads{0:2 -> full, 2: -> causal} | heads{0:6 -> full, 6: -> causal}", 7),
    ],
)
def test_least_heads(text: str, count: int) -> None:
    assert least_heads(parse(text)) == count


@pytest.mark.parametrize(
    ("text", "error", "drawn"),
    [
        (
            "heads{0:4 -> full, 3: -> causal}",
            errors.HeadOverlapError,
            """
            error: the heads 0:4 and 3: overlap
             --> <spec>:1:20
              | heads{0:4 -> full, 3: -> causal}
              |                    ^^
            0:4 stands here:
             --> <spec>:1:7
              | heads{0:4 -> full, 3: -> causal}
              |       ^^^
            """,
        ),
        (
            "heads{6: -> full, 0:4 -> causal}",
            errors.HeadGapError,
            """
            error: no group holds the heads 4:6
             --> <spec>:1:7
              | heads{6: -> full, 0:4 -> causal}
              |       ^^
            0:4 stands here:
             --> <spec>:1:19
              | heads{6: -> full, 0:4 -> causal}
              |                   ^^^
            """,
        ),
        (
            "heads{2: -> full}",
            errors.HeadGapError,
            """
            error: no group holds the heads 0:2
             --> <spec>:1:7
              | heads{2: -> full}
              |       ^^
            """,
        ),
        (
            "heads{4:4 -> full}",
            errors.HeadSliceError,
            """
            error: wrong slice of heads: 4:4 holds no head
             --> <spec>:1:7
              | heads{4:4 -> full}
              |       ^^^
            """,
        ),
        (
            "heads{-1:-3 -> full}",
            errors.HeadSliceError,
            """
            error: wrong slice of heads: -1:-3 holds no head
             --> <spec>:1:7
              | heads{-1:-3 -> full}
              |       ^^^^^
            """,
        ),
        (
            "heads{0:2.5 -> full}",
            errors.HeadSliceError,
            """
            error: wrong slice of heads: expected an integer, found 2.5
             --> <spec>:1:9
              | heads{0:2.5 -> full}
              |         ^^^
            """,
        ),
        (
            "heads{0:70_000 -> full}",
            errors.HeadSliceError,
            """
            error: wrong slice of heads: expected at most 65536 heads, found 70000
             --> <spec>:1:9
              | heads{0:70_000 -> full}
              |         ^^^^^^
            """,
        ),
        (
            "heads{0:n -> full}",
            errors.UnexpectedTextError,
            """
            error: unexpected 'n': expected a value
             --> <spec>:1:9
              | heads{0:n -> full}
              |         ^
            """,
        ),
        (
            "heads{}",
            errors.UnexpectedTextError,
            """
            error: unexpected '}': expected a slice of heads
             --> <spec>:1:7
              | heads{}
              |       ^
            """,
        ),
        (
            "heads(full)",
            errors.UnexpectedTextError,
            """
            error: unexpected '(': expected '{'
             --> <spec>:1:6
              | heads(full)
              |      ^ did you mean '{'?
            """,
        ),
        (
            "heads{0: -> full",
            errors.UnexpectedEndError,
            """
            error: unexpected end of the pattern: expected '}' to close '{' at 1:6
             --> <spec>:1:17
              | heads{0: -> full
              |                 ^
            """,
        ),
    ],
)
def test_mistakes(text: str, error: type[PatternError], drawn: str) -> None:
    with pytest.raises(error) as caught:
        parse(text)
    assert str(caught.value) == dedent(drawn).strip("\n")
