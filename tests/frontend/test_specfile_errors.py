"""The exact text for each mistake in a spec file."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from spec_support import drawn

from attncomp import errors
from attncomp.errors import PatternError
from attncomp.frontend.library import Library

Files = Callable[..., Library]

# One row a mistake: the file, the class, and what str() draws.
DRAWN = [
    (
        "# nothing\n",
        errors.NoDefinitionsError,
        """
        error: the file defines no pattern
         --> my.attn:1:1
          | # nothing
          | ^ write for example 'pattern mine(size: int = 256) = window(size)'
        """,
    ),
    (
        "pattern a = window(3)\npattern a = full",
        errors.DuplicateNameError,
        """
        error: 'a' is defined twice
         --> my.attn:2:9
          | pattern a = full
          |         ^
        first defined here:
         --> my.attn:1:9
          | pattern a = window(3)
          |         ^
        """,
    ),
    (
        "pattern longformer = full from longformer import longformer",
        errors.DuplicateNameError,
        """
        error: 'longformer' is defined twice
         --> my.attn:1:50
          | pattern longformer = full from longformer import longformer
          |                                                  ^^^^^^^^^^
        first defined here:
         --> my.attn:1:9
          | pattern longformer = full from longformer import longformer
          |         ^^^^^^^^^^
        """,
    ),
    (
        "pattern a(n: int, n: int) = window(n)",
        errors.DuplicateNameError,
        """
        error: 'n' is defined twice
         --> my.attn:1:19
          | pattern a(n: int, n: int) = window(n)
          |                   ^
        first defined here:
         --> my.attn:1:11
          | pattern a(n: int, n: int) = window(n)
          |           ^
        """,
    ),
    (
        "pattern window = full",
        errors.ShadowedPrimitiveError,
        """
        error: 'window' is a primitive and keeps its name
         --> my.attn:1:9
          | pattern window = full
          |         ^^^^^^
        """,
    ),
    (
        "pattern a(first: int) = window(first)",
        errors.ShadowedPrimitiveError,
        """
        error: 'first' is a primitive and keeps its name
         --> my.attn:1:11
          | pattern a(first: int) = window(first)
          |           ^^^^^
        """,
    ),
    (
        "from .other import full\npattern a = full",
        errors.ShadowedPrimitiveError,
        """
        error: 'full' is a primitive and keeps its name
         --> my.attn:1:20
          | from .other import full
          |                    ^^^^
        """,
    ),
    (
        "pattern example = full",
        errors.ReservedWordError,
        """
        error: 'example' is a reserved word
         --> my.attn:1:9
          | pattern example = full
          |         ^^^^^^^
        """,
    ),
    (
        "pattern a(where: int) = full",
        errors.ReservedWordError,
        """
        error: 'where' is a reserved word
         --> my.attn:1:11
          | pattern a(where: int) = full
          |           ^^^^^
        """,
    ),
    (
        "pattern a(n: itn) = window(n)",
        errors.UnknownTypeError,
        """
        error: unknown type 'itn': expected int, float, str or bool
         --> my.attn:1:14
          | pattern a(n: itn) = window(n)
          |              ^^^ did you mean 'int'?
        """,
    ),
    (
        "pattern a(n: int = 2.0) = window(n)",
        errors.ArgumentTypeError,
        """
        error: argument 'n' of a must be an integer, found 2.0
         --> my.attn:1:20
          | pattern a(n: int = 2.0) = window(n)
          |                    ^^^ did you mean '2'?
        """,
    ),
    (
        "pattern a(m: int, n: int = m) = window(n + m)",
        errors.UnexpectedTextError,
        """
        error: unexpected 'm': expected a value
         --> my.attn:1:28
          | pattern a(m: int, n: int = m) = window(n + m)
          |                            ^
        """,
    ),
    (
        "pattern a(m: int = 1, n: int) = window(n + m)",
        errors.ParameterOrderError,
        """
        error: parameter 'n' needs a default, as the one before it has
         --> my.attn:1:23
          | pattern a(m: int = 1, n: int) = window(n + m)
          |                       ^^^^^^
        """,
    ),
    (
        "pattern a(m: int, n: int) = window(m)",
        errors.UnusedNameError,
        """
        error: parameter 'n' is never used
         --> my.attn:1:19
          | pattern a(m: int, n: int) = window(m)
          |                   ^
        """,
    ),
    (
        "pattern a = full pattern _b = full",
        errors.UnusedNameError,
        """
        error: private pattern '_b' is never used
         --> my.attn:1:26
          | pattern a = full pattern _b = full
          |                          ^^
        """,
    ),
    (
        "pattern a(n: int) = window(m)",
        errors.UnknownParameterError,
        """
        error: unknown parameter 'm'
         --> my.attn:1:28
          | pattern a(n: int) = window(m)
          |                            ^ known parameters: n
        """,
    ),
    (
        "pattern a(n: int) = sparsek(n, gate=hard)",
        errors.UnknownParameterError,
        """
        error: unknown parameter 'hard'
         --> my.attn:1:37
          | pattern a(n: int) = sparsek(n, gate=hard)
          |                                     ^^^^ did you mean '"hard"'?
        """,
    ),
    (
        "pattern a(s: str) = window(s)",
        errors.ArgumentTypeError,
        """
        error: argument 'size' of window must be an integer, found a parameter of type str
         --> my.attn:1:28
          | pattern a(s: str) = window(s)
          |                            ^
        """,
    ),
    (
        "pattern a(n: int) = window(n, 2)",
        errors.TooManyArgumentsError,
        """
        error: window takes 1 argument, found 2
         --> my.attn:1:31
          | pattern a(n: int) = window(n, 2)
          |                               ^ the signature is window(size) or \
window(before=0, after=0)
        """,
    ),
    (
        "pattern a(n: int) = window(n) | windw(n)",
        errors.UnknownPatternError,
        """
        error: unknown pattern 'windw'
         --> my.attn:1:33
          | pattern a(n: int) = window(n) | windw(n)
          |                                 ^^^^^ did you mean 'window'?
        """,
    ),
    (
        "pattern a(n: int) = longformer(n)",
        errors.UnknownPatternError,
        """
        error: unknown pattern 'longformer'
         --> my.attn:1:21
          | pattern a(n: int) = longformer(n)
          |                     ^^^^^^^^^^ add 'from longformer import longformer'
        """,
    ),
    (
        "pattern a = full & a",
        errors.RecursiveDefinitionError,
        """
        error: pattern 'a' calls itself: a -> a
         --> my.attn:1:20
          | pattern a = full & a
          |                    ^
        """,
    ),
    (
        "pattern a = b pattern b = c | full pattern c = ~b",
        errors.RecursiveDefinitionError,
        """
        error: pattern 'b' calls itself: b -> c -> b
         --> my.attn:1:49
          | pattern a = b pattern b = c | full pattern c = ~b
          |                                                 ^
        """,
    ),
    (
        "pattern a = window(2 // (3 - 3))",
        errors.DivisionByZeroError,
        """
        error: '//' by zero
         --> my.attn:1:26
          | pattern a = window(2 // (3 - 3))
          |                          ^^^^^
        """,
    ),
    (
        "'Doc.' pattern a = full 'Stray.'",
        errors.StrayDocError,
        """
        error: this string documents nothing: the doc of a pattern stands before it
         --> my.attn:1:25
          | 'Doc.' pattern a = full 'Stray.'
          |                         ^^^^^^^^
        """,
    ),
    (
        "pattern a = full\nexample a = '''\n##\n#\n'''",
        errors.PictureError,
        """
        error: wrong picture: expected 2 gates, as in the rows above, found 1
         --> my.attn:4:1
          | #
          | ^
        """,
    ),
    (
        "pattern a = full\nexample a = '#0'",
        errors.PictureError,
        """
        error: wrong picture: expected '#' for 1, '.' for 0 or a digit for tenths, found '0'
         --> my.attn:2:15
          | example a = '#0'
          |               ^
        """,
    ),
    (
        "pattern a = full\nexample a = ' '",
        errors.PictureError,
        """
        error: wrong picture: expected a row of gates for each query, found none
         --> my.attn:2:13
          | example a = ' '
          |             ^^^
        """,
    ),
    (
        "pattern a = full\nexample a given s=[[1], [2, 3]] = '#'",
        errors.ExampleError,
        """
        error: the example cannot be drawn: the rows of its tensor differ in length
         --> my.attn:2:17
          | example a given s=[[1], [2, 3]] = '#'
          |                 ^^^^^^^^^^^^^^^
        """,
    ),
    (
        "pattern a = full\nexample a given s=[1], s=[2] = '#'",
        errors.DuplicateNameError,
        """
        error: 's' is defined twice
         --> my.attn:2:24
          | example a given s=[1], s=[2] = '#'
          |                        ^
        first defined here:
         --> my.attn:2:17
          | example a given s=[1], s=[2] = '#'
          |                 ^
        """,
    ),
    (
        "window(3)",
        errors.UnexpectedTextError,
        """
        error: unexpected 'window': expected a definition
         --> my.attn:1:1
          | window(3)
          | ^^^^^^ a pattern needs a name: 'pattern mine = ...'
        """,
    ),
]


@pytest.mark.parametrize(("text", "kind", "expected"), DRAWN)
def test_mistakes(files: Files, text: str, kind: type[PatternError], expected: str) -> None:
    with pytest.raises(PatternError) as caught:
        files(my=text)
    assert str(caught.value) == drawn(expected)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is None and caught.value.__context__ is None
