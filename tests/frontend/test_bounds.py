"""Bounds of a definition's parameters: what they refuse, and where that is said."""

from __future__ import annotations

from textwrap import dedent

import pytest

import attncomp
from attncomp import errors
from attncomp import patterns as P
from attncomp.errors import ArgumentRangeError, PatternError
from attncomp.frontend.catalog import Argument, Parameter
from attncomp.frontend.formatter import format_text
from attncomp.frontend.library import Library, shipped
from attncomp.source import Source


def library(text: str) -> Library:
    return Library.of(Source("my.attn", text))


def test_parameters() -> None:
    text = "pattern a(i: int >= -1, j: int <= 8 >= 1 = 2, s: str = 'x') = where(i * j >= k) & _s(s)"
    found = library(text + " pattern _s(s: str) = sparsek(4, gate=s)").definition("a").parameters
    assert found == (
        Parameter(name="i", type=int, minimum=-1),
        Parameter(name="j", type=int, minimum=1, maximum=8, default=2),
        Parameter(name="s", type=str, default="x"),
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("neighborhood(0)", "argument 'size' of neighborhood must be at least 1, found 0"),
        ("block_diffusion(-3)", "argument 'size' of block_diffusion must be at least 1, found -3"),
        ("tree(-1)", "argument 'drafts' of tree must be at least 1, found -1"),
        (
            "sparse_transformer_fixed(4, c=0)",
            "argument 'c' of sparse_transformer_fixed must be at least 1, found 0",
        ),
        (
            "sparse_transformer_strided(0)",
            "argument 'stride' of sparse_transformer_strided must be at least 1, found 0",
        ),
    ],
)
def test_shipped_patterns(call: str, message: str) -> None:
    with pytest.raises(ArgumentRangeError) as caught:
        attncomp.compile(call)
    assert caught.value.message == message
    assert caught.value.span is not None and caught.value.span.text in call


def test_functions() -> None:
    with pytest.raises(ArgumentRangeError) as caught:
        P.neighborhood(0)
    assert caught.value.message == "argument 'size' of neighborhood must be at least 1, found 0"
    assert caught.value.span is not None and caught.value.span.text == "P.neighborhood(0)"


def test_calls_inside_of_definitions() -> None:
    """A literal is refused when the file is read, a computed value when its call is."""
    text = "pattern a(n: int <= 4) = window(n) pattern b(m: int) = a(2 * m)"
    mine = library(text)
    assert str(mine.expand("b", [Argument("m", 2)])) == "window(4)"
    with pytest.raises(ArgumentRangeError) as caught:
        mine.expand("b", [Argument("m", 3)])
    assert caught.value.message == "argument 'n' of a must be at most 4, found 6"
    assert [note.text for note in caught.value.notes] == ["in b(m=3)"]
    with pytest.raises(ArgumentRangeError, match="argument 'n' of a must be at most 4, found 5"):
        library("pattern a(n: int <= 4) = window(n) pattern b = a(5)")


@pytest.mark.parametrize(
    ("text", "error", "drawn"),
    [
        (
            "pattern a(n: int >= 1 = 0) = window(n)",
            errors.ArgumentRangeError,
            """
            error: argument 'n' of a must be at least 1, found 0
             --> my.attn:1:25
              | pattern a(n: int >= 1 = 0) = window(n)
              |                         ^
            """,
        ),
        (
            "pattern a(n: str >= 1) = sparsek(4, gate=n)",
            errors.BoundError,
            """
            error: wrong bound of parameter 'n': values of type str have no order
             --> my.attn:1:18
              | pattern a(n: str >= 1) = sparsek(4, gate=n)
              |                  ^^^^
            """,
        ),
        (
            "pattern a(n: int >= 1 >= 2) = window(n)",
            errors.BoundError,
            """
            error: wrong bound of parameter 'n': it has a bound '>=' already
             --> my.attn:1:23
              | pattern a(n: int >= 1 >= 2) = window(n)
              |                       ^^^^
            """,
        ),
        (
            "pattern a(n: int <= 2.5) = window(n)",
            errors.BoundError,
            """
            error: wrong bound of parameter 'n': it must be an integer, found 2.5
             --> my.attn:1:18
              | pattern a(n: int <= 2.5) = window(n)
              |                  ^^^^^^
            """,
        ),
        (
            "pattern a(n: int >= 3 <= 2) = window(n)",
            errors.BoundError,
            """
            error: wrong bound of parameter 'n': no number is at least 3 and at most 2
             --> my.attn:1:23
              | pattern a(n: int >= 3 <= 2) = window(n)
              |                       ^^^^
            """,
        ),
        (
            "pattern a(n: int <= 2 >= 3) = window(n)",
            errors.BoundError,
            """
            error: wrong bound of parameter 'n': no number is at least 3 and at most 2
             --> my.attn:1:23
              | pattern a(n: int <= 2 >= 3) = window(n)
              |                       ^^^^
            """,
        ),
        (
            "pattern a(n: float <= 1e999) = full",
            errors.BoundError,
            """
            error: wrong bound of parameter 'n': it must be finite
             --> my.attn:1:20
              | pattern a(n: float <= 1e999) = full
              |                    ^^^^^^^^
            """,
        ),
        (
            "pattern a(n: int > 0) = window(n)",
            errors.UnexpectedTextError,
            """
            error: unexpected '>': expected '>=' or '<='
             --> my.attn:1:18
              | pattern a(n: int > 0) = window(n)
              |                  ^
            """,
        ),
        (
            "pattern a(n: int == 2) = window(n)",
            errors.UnexpectedTextError,
            """
            error: unexpected '==': expected '='
             --> my.attn:1:18
              | pattern a(n: int == 2) = window(n)
              |                  ^^ did you mean '='?
            """,
        ),
        (
            "pattern a(n: int >= m) = window(n)",
            errors.UnexpectedTextError,
            """
            error: unexpected 'm': expected a number
             --> my.attn:1:21
              | pattern a(n: int >= m) = window(n)
              |                     ^
            """,
        ),
        (
            "pattern a(n: int >= 1 2) = window(n)",
            errors.UnexpectedTextError,
            """
            error: unexpected '2': expected ',' or ')' to close '(' at 1:10
             --> my.attn:1:23
              | pattern a(n: int >= 1 2) = window(n)
              |                       ^
            """,
        ),
    ],
)
def test_mistakes(text: str, error: type[PatternError], drawn: str) -> None:
    with pytest.raises(error) as caught:
        library(text)
    assert str(caught.value) == dedent(drawn).strip("\n")


def test_format() -> None:
    text = "pattern a(n:int>=1<=8=2,x:float>=-0.5=0.) = window(n)"
    assert (
        format_text(text) == "pattern a(n: int >= 1 <= 8 = 2, x: float >= -0.5 = 0.) = window(n)\n"
    )


def test_every_shipped_size_is_bounded() -> None:
    """No shipped definition takes a size of 0."""
    for name in shipped():
        for parameter in shipped().definition(name).parameters:
            if parameter.type is not int or parameter.name in {"lag", "seed"}:
                continue
            with pytest.raises(ArgumentRangeError):
                attncomp.compile(f"{name}({parameter.name}=0)")
