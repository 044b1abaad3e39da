"""What a user sees for each mistake in a pattern: class, place, exact text."""

from __future__ import annotations

from textwrap import dedent

import pytest

from attncomp import errors
from attncomp.errors import PatternError
from attncomp.frontend.ast import dump, to_text
from attncomp.frontend.limits import MAX_CHARACTERS, MAX_NESTING, MAX_NODES
from attncomp.frontend.parser import parse


def failure(text: str) -> PatternError:
    with pytest.raises(PatternError) as caught:
        parse(text)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return caught.value


# One row a mistake: the text, the class, and what str() draws.
DRAWN = [
    (
        "sparsek(k=512) | windw(256)",
        errors.UnknownPatternError,
        """
        error: unknown pattern 'windw'
         --> <spec>:1:18
          | sparsek(k=512) | windw(256)
          |                  ^^^^^ did you mean 'window'?
        """,
    ),
    (
        "zzz",
        errors.UnknownPatternError,
        """
        error: unknown pattern 'zzz'
         --> <spec>:1:1
          | zzz
          | ^^^ known patterns: blocks, causal, chunk, dilated, documents, first, full, \
lifetime, prefix_lm, random_blocks, sparsek, strided, threshold, topk_blocks, window
        """,
    ),
    (
        "window(sise=3)",
        errors.UnknownArgumentError,
        """
        error: window has no argument 'sise'
         --> <spec>:1:8
          | window(sise=3)
          |        ^^^^ did you mean 'size'?
        """,
    ),
    (
        "sparsek(8, k=9)",
        errors.RepeatedArgumentError,
        """
        error: argument 'k' of sparsek is given twice
         --> <spec>:1:12
          | sparsek(8, k=9)
          |            ^^^
        """,
    ),
    (
        "window(2.0)",
        errors.ArgumentTypeError,
        """
        error: argument 'size' of window must be an integer, found 2.0
         --> <spec>:1:8
          | window(2.0)
          |        ^^^ did you mean '2'?
        """,
    ),
    (
        "sparsek(k=1, gate=True)",
        errors.ArgumentTypeError,
        """
        error: argument 'gate' of sparsek must be a string, found True
         --> <spec>:1:19
          | sparsek(k=1, gate=True)
          |                   ^^^^
        """,
    ),
    (
        "window(size=0)",
        errors.ArgumentRangeError,
        """
        error: argument 'size' of window must be at least 1, found 0
         --> <spec>:1:13
          | window(size=0)
          |             ^
        """,
    ),
    (
        "sparsek(k=8, gate='hrad')",
        errors.ArgumentRangeError,
        """
        error: argument 'gate' of sparsek must be one of "key_value", "value", "hard", \
"straight_through", "logit", found 'hrad'
         --> <spec>:1:19
          | sparsek(k=8, gate='hrad')
          |                   ^^^^^^ did you mean "hard"?
        """,
    ),
    (
        "sparsek(k=8, 1)",
        errors.ArgumentOrderError,
        """
        error: positional argument of sparsek stands behind a keyword argument
         --> <spec>:1:14
          | sparsek(k=8, 1)
          |              ^ the signature is sparsek(k, lag=0, gate="key_value", scores="scores")
        """,
    ),
    (
        "full | sparsek(lag=2)",
        errors.MissingArgumentError,
        """
        error: sparsek needs argument 'k'
         --> <spec>:1:21
          | full | sparsek(lag=2)
          |                     ^ the signature is sparsek(k, lag=0, gate="key_value", \
scores="scores")
        """,
    ),
    (
        "window - full",
        errors.MissingArgumentError,
        """
        error: window needs argument 'size'
         --> <spec>:1:1
          | window - full
          | ^^^^^^ the signature is window(size) or window(before=0, after=0)
        """,
    ),
    (
        "window(1, 2, 3)",
        errors.TooManyArgumentsError,
        """
        error: window takes 1 argument, found 3
         --> <spec>:1:11
          | window(1, 2, 3)
          |           ^ the signature is window(size) or window(before=0, after=0)
        """,
    ),
    (
        "full | window(after=1, size=8)",
        errors.ArgumentFormError,
        """
        error: argument 'size' of window cannot stand beside 'after'
         --> <spec>:1:24
          | full | window(after=1, size=8)
          |                        ^^^^^^ the signature is window(size) or window(before=0, after=0)
        """,
    ),
    (
        "window(256",
        errors.UnexpectedEndError,
        """
        error: unexpected end of the pattern: expected ')' to close '(' at 1:7
         --> <spec>:1:11
          | window(256
          |           ^
        """,
    ),
    (
        "full |  # and then?\n",
        errors.UnexpectedEndError,
        """
        error: unexpected end of the pattern: expected a pattern
         --> <spec>:1:7
          | full |  # and then?
          |       ^
        """,
    ),
    (
        "window 256",
        errors.UnexpectedTextError,
        """
        error: unexpected '256': expected an operator
         --> <spec>:1:8
          | window 256
          |        ^^^ did you mean 'window(256)'?
        """,
    ),
    (
        "full\n  & (causal ||\nwindow(3))",
        errors.UnexpectedTextError,
        """
        error: unexpected '||': expected an operator
         --> <spec>:2:13
          |   & (causal ||
          |             ^^ did you mean '|'?
        """,
    ),
    (
        "  # nothing\n",
        errors.EmptyPatternError,
        """
        error: empty pattern
         --> <spec>:1:1
          |   # nothing
          | ^ write for example 'window(256)', or 'full' for all keys
        """,
    ),
    (
        "(" * (MAX_NESTING + 1) + "full",
        errors.NestingError,
        f"""
        error: pattern is nested deeper than 64 levels
         --> <spec>:1:65
          | {"(" * 65}full
          | {" " * 64}^
        """,
    ),
]


@pytest.mark.parametrize(("text", "kind", "drawn"), DRAWN)
def test_drawing(text: str, kind: type[PatternError], drawn: str) -> None:
    error = failure(text)
    assert type(error) is kind
    assert str(error) == dedent(drawn).strip("\n")


# Text, the text under the carets, the column, expected, hint.
UNEXPECTED = [
    ("full && full", "&&", 6, "an operator", "did you mean '&'?"),
    ("full -- full", "--", 6, "an operator", "did you mean '-'?"),
    ("window(--1)", "--", 8, "a number", "did you mean '-'?"),
    ("sparsek(k==1)", "==", 10, "'='", "did you mean '='?"),
    ("full | | full", "|", 8, "a pattern", None),
    ("full and full", "and", 6, "an operator", "did you mean '&'?"),
    ("full or full", "or", 6, "an operator", "did you mean '|'?"),
    ("not full", "not", 1, "a pattern", "did you mean '~'?"),
    ("window(size:256)", ":", 12, "'='", "did you mean '='?"),
    ("window(size 256)", "256", 13, "'='", "did you mean 'size=256'?"),
    ("window[256]", "[", 7, "an operator", "did you mean '('?"),
    ("window(1 2)", "2", 10, "',' or ')' to close '(' at 1:7", None),
    ("window(1,,2)", ",", 10, "an argument", None),
    ("window(-)", ")", 9, "a number", None),
    ("window(first(1))", "first", 8, "a value", None),
    ("sparsek(hard)", "hard", 9, "a value", "did you mean '\"hard\"'?"),
    ("sparsek(1, gate=hard)", "hard", 17, "a value", "did you mean '\"hard\"'?"),
    ("sparsek(1, gate=true)", "true", 17, "a value", "did you mean 'True'?"),
    ("sparsek(1, gate='hard)", "'", 17, "a value", "the string is not closed on its line"),
    ("full)", ")", 5, "an operator", "no '(' is open"),
    ("()", ")", 2, "a pattern", None),
    ("(full full)", "full", 7, "an operator or ')' to close '(' at 1:1", "join patterns"),
    ("full (causal)", "causal", 7, "a value", None),
    ("full ~causal", "~", 6, "an operator", "did you mean '-'?"),
    ("256", "256", 1, "a pattern", None),
    ("full + causal", "+", 6, "an operator", "did you mean '|'?"),
    ("full \u2229 causal", "\u2229", 6, "an operator", "did you mean '&'?"),
    ("!full", "!", 1, "a pattern", "did you mean '~'?"),
    ("full $", "$", 6, "an operator", None),
    ("True", "True", 1, "a pattern", None),
    ("window(\u0663)", "\u0663", 8, "an argument", None),  # a digit, but not an ASCII one
]


@pytest.mark.parametrize(("text", "found", "column", "expected", "hint"), UNEXPECTED)
def test_unexpected_text(
    text: str, found: str, column: int, expected: str, hint: str | None
) -> None:
    error = failure(text)
    assert type(error) is errors.UnexpectedTextError
    assert error.span is not None
    assert error.message == f"unexpected '{found}': expected {expected}"
    assert (error.span.text, error.span.line, error.span.column) == (found, 1, column)
    if hint is None:
        assert error.hint is None
    else:
        assert error.hint is not None and error.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("window(", "')' to close '(' at 1:7"),
        ("window(size", "'='"),
        ("window(size=", "a value"),
        ("window(size=-", "a number"),
        ("(full &", "a pattern"),
        ("(\n (full)", "')' to close '(' at 1:1"),
        ("~", "a pattern"),
    ],
)
def test_unexpected_end(text: str, expected: str) -> None:
    error = failure(text)
    assert type(error) is errors.UnexpectedEndError
    assert error.message == f"unexpected end of the pattern: expected {expected}"
    assert error.span is not None and (error.span.start, error.span.text) == (len(text), "")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("window('8')", errors.ArgumentTypeError, "must be an integer, found '8'"),
        ("window(True)", errors.ArgumentTypeError, "must be an integer, found True"),
        ("window(-1)", errors.ArgumentRangeError, "must be at least 1, found -1"),
        ("first(0)", errors.ArgumentRangeError, "must be at least 1, found 0"),
        ("sparsek(1, lag=-1)", errors.ArgumentRangeError, "must be at least 0, found -1"),
        ("window(2147483648)", errors.ArgumentRangeError, "at most 2147483647, found 2147483648"),
        ("window(" + "9" * 9999 + ")", errors.ArgumentRangeError, "found " + "9" * 37 + "..."),
        ("full(1)", errors.TooManyArgumentsError, "full takes no arguments, found 1"),
    ],
)
def test_argument_values(text: str, kind: type[PatternError], message: str) -> None:
    error = failure(text)
    assert type(error) is kind
    assert error.message.endswith(message)


def test_invisible_characters_are_named() -> None:
    error = failure("full\u200b")
    assert error.message == "unexpected character U+200B: expected an operator"
    assert "\u200b" not in str(error)


def test_the_first_mistake_is_reported() -> None:
    assert type(failure("full full $ windw")) is errors.UnexpectedTextError
    assert failure("windw | wndow").message == "unknown pattern 'windw'"
    assert failure("windw - ~(full & ~wndow)").message == "unknown pattern 'windw'"


@pytest.mark.parametrize("value", [None, 3, b"full", ["full"]])
def test_only_strings_are_parsed(value: object) -> None:
    with pytest.raises(
        TypeError, match="expected the pattern as a str, found " + type(value).__name__
    ):
        parse(value)  # type: ignore[arg-type]


class TestLimits:
    @pytest.mark.parametrize(
        "shape", ["{o}full{c}", "{t}full", "full{d}", "{o}window(1){c}", "{a}full{c}"]
    )
    def test_nesting(self, shape: str) -> None:
        def nested(levels: int) -> str:
            return shape.format(
                o="(" * levels,
                c=")" * levels,
                t="~" * levels,
                d=" - full" * levels,
                a="causal - (" * levels,
            )

        deepest = parse(nested(MAX_NESTING))
        assert parse(to_text(deepest)) == deepest
        assert hash(parse(to_text(deepest))) == hash(deepest)
        assert dump(deepest).splitlines()[-1].lstrip().startswith("Call ")
        assert type(failure(nested(MAX_NESTING + 1))) is errors.NestingError

    def test_nesting_holds_for_long_runs(self) -> None:
        assert type(failure("~" * 90_000 + "full")) is errors.NestingError
        assert type(failure("(" * 90_000)) is errors.NestingError

    def test_nodes(self) -> None:
        parse("full" + " | full" * (MAX_NODES - 2))  # the union is a node as well
        error = failure("full" + " | full" * (MAX_NODES - 1))
        assert type(error) is errors.PatternTooLargeError
        assert error.message == "pattern is larger than 4096 operators and primitives"

    def test_chained_differences_count_each_operator(self) -> None:
        chain = "full - full - full"  # five nodes
        parse(" | ".join([chain] * 819))
        assert type(failure(" | ".join([chain] * 820))) is errors.PatternTooLargeError

    def test_characters(self) -> None:
        parse("full".ljust(MAX_CHARACTERS))
        error = failure("full".ljust(MAX_CHARACTERS + 1))
        assert type(error) is errors.PatternTooLargeError
        assert error.message == "pattern is larger than 400000 characters"
