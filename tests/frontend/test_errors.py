"""How errors are drawn, what the errors of later stages say, and that all of them travel."""

from __future__ import annotations

import copy
import pickle
from textwrap import dedent

import pytest

from attncomp import errors
from attncomp.errors import PatternError, Source, Span
from attncomp.frontend.parser import parse


def failure(text: str) -> PatternError:
    with pytest.raises(PatternError) as caught:
        parse(text)
    return caught.value


class TestDrawing:
    def test_source_name_line_and_column(self) -> None:
        with pytest.raises(PatternError) as caught:
            parse("full\r\n| windw(3)\r\n", "specs/a.attn")
        assert str(caught.value).splitlines()[1:] == [
            " --> specs/a.attn:2:3",
            "  | | windw(3)",
            "  |   ^^^^^ did you mean 'window'?",
        ]

    def test_tabs_keep_alignment(self) -> None:
        _, _, line, carets = str(failure("\t\twindw(3)")).splitlines()
        assert "\t" not in line
        assert line.index("windw") == carets.index("^")

    def test_wide_characters_keep_alignment(self) -> None:
        text = 'sparsek(1, gate="\u65e5\u672c")'
        carets = str(failure(text)).splitlines()[-1]
        assert carets == "  | " + " " * 16 + "^" * 6

    @pytest.mark.parametrize("behind", [0, 1000])
    @pytest.mark.parametrize("before", [0, 1000])
    def test_long_lines_are_cropped(self, before: int, behind: int) -> None:
        text = "full |" * before + " windw(3) " + "| full" * behind
        _, place, line, carets = str(failure(text)).splitlines()
        assert place == f" --> <spec>:1:{6 * before + 2}"
        assert len(line) <= 92 and line.index("windw") == carets.index("^")
        assert line.startswith("  | ...") == (before > 0)
        assert line.endswith("...") == (behind > 0)

    def test_a_long_span_is_cropped(self) -> None:
        _, _, line, carets = str(failure("w" * 500)).splitlines()
        assert line == "  | " + "w" * 85 + "..."
        assert carets.startswith("  | " + "^" * 85 + " known")

    def test_span_over_lines_shows_the_first(self) -> None:
        source = Source("a", "one\ntwo (three\nfour) five")
        assert (
            Span(source, 8, 19).render("here") == " --> a:2:5\n  | two (three\n  |     ^^^^^^ here"
        )

    def test_span_at_the_end(self) -> None:
        assert Span(Source("a", "one"), 3, 3).render() == " --> a:1:4\n  | one\n  |    ^"
        assert Span(Source("a", "one\n"), 4, 4).render() == " --> a:2:1\n  |\n  | ^"

    @pytest.mark.parametrize(
        "text", ["\x1b[31m full", "full '\x1b\ud800'", "window(size '\x1b')", "window('\x1b')"]
    )
    def test_terminal_controls_are_not_repeated(self, text: str) -> None:
        drawn = str(failure(text))
        assert all(line.isprintable() for line in drawn.split("\n"))

    @pytest.mark.parametrize(("start", "end"), [(-1, 0), (2, 1), (0, 4)])
    def test_span_outside_of_the_text(self, start: int, end: int) -> None:
        with pytest.raises(ValueError, match=f"span {start}:{end} is outside a text of 3"):
            Span(Source("a", "one"), start, end)


SOURCE = Source("<spec>", "~sparsek(k=8)")
SPAN = Span(SOURCE, 1, 13)


class TestErrorsOfLaterStages:
    def test_soft_complement(self) -> None:
        assert str(errors.SoftComplementError(SPAN)) == dedent("""\
            error: a soft pattern has no complement
             --> <spec>:1:2
              | ~sparsek(k=8)
              |  ^^^^^^^^^^^^ only sparsek(..., gate="hard") may stand here""")

    def test_gate_mode(self) -> None:
        error = errors.GateModeError(SPAN, expected='"value"', found='"logit"')
        assert error.message == (
            'soft members must share one gate mode: expected "value", found "logit"'
        )

    def test_without_a_span(self) -> None:
        assert str(errors.SoftComplementError(None)) == (
            "error: a soft pattern has no complement "
            '(only sparsek(..., gate="hard") may stand here)'
        )

    def test_verification(self) -> None:
        error = errors.VerificationError("two outputs", pass_name="simplify", node="%3")
        assert str(error) == "pass 'simplify' left an invalid graph at %3: two outputs"


@pytest.mark.parametrize(
    ("kind", "noun"),
    [
        (errors.TensorShapeError, "shape "),
        (errors.TensorDtypeError, "dtype "),
        (errors.TensorDeviceError, "device "),
        (errors.TensorLayoutError, "layout "),
        (errors.MissingTensorError, "tensor "),
        (errors.UnknownTensorError, ""),
        (errors.OptionError, ""),
    ],
)
def test_call_errors(kind: type[errors.CallError], noun: str) -> None:
    error = kind(subject="scores", expected="[2, G, 64]", found=(2, 3, 64), pattern="sparsek(k=8)")
    assert str(error) == (
        f"scores: expected {noun}[2, G, 64], found [2, 3, 64] (pattern 'sparsek(k=8)')"
    )
    assert str(kind(subject="x", expected=1, found=2)) == f"x: expected {noun}1, found 2"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownPatternError(SPAN, name="'a'", hint="b"),
        errors.GateModeError(None, expected="a", found="b"),
        errors.TensorShapeError(subject="q", expected=(1,), found=(2,)),
        errors.VerificationError("why", pass_name="p", node="n"),
        errors.BackendError("no GPU"),
        errors.CacheError("read-only"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling_and_copying(error: errors.AttncompError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("windw", "window"),
        ("WINDOW", "window"),
        ("casual", "causal"),
        ("TopK", "topk_blocks"),
        ("to", None),
        ("global", None),
        ("zzz", None),
        ("", None),
    ],
)
def test_suggest(name: str, found: str | None) -> None:
    assert errors.suggest(name, ["topk_blocks_too", "topk_blocks", "window", "causal", "moba"]) == (
        found
    )
