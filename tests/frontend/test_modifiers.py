"""`with`: how modifiers are written, in texts, spec files and Python, and the mistakes in them."""

from __future__ import annotations

from textwrap import dedent

import pytest
from hypothesis import given
from strategies import modified, patterns

from attncomp import errors
from attncomp import patterns as P
from attncomp.errors import PatternError, Source
from attncomp.frontend.ast import Call, Modified, dump, to_text
from attncomp.frontend.formatter import format_text
from attncomp.frontend.library import Library
from attncomp.frontend.modifiers import Modifier
from attncomp.frontend.parser import parse


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("full with sink", "full with sink"),
        ("full|causal with sink,softcap( 30 )", "full | causal with softcap(30), sink"),
        ("(full with softcap(0.5))", "full with softcap(0.5)"),
        ("((full) with sink('s')) with scale(2)", 'full with scale(2), sink(logits="s")'),
        ("~full with alibi()", "~full with alibi"),
        ("full with alibi(slopes='standard',)", "full with alibi"),
        ('full with alibi("s")', 'full with alibi(slopes="s")'),
        ("full with bias(8), bias"[:17], "full with bias(8)"),
        ("full with bias(size=8, table='t')", 'full with bias(8, table="t")'),
        ("full with scale(1e-3)", "full with scale(0.001)"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    tree = parse(text)
    assert to_text(tree) == canonical
    assert parse(canonical) == tree


@given(modified(patterns()))
def test_drawn_patterns_read_back(tree: Modified) -> None:
    assert parse(to_text(tree)) == tree


def test_the_tree() -> None:
    tree = parse("window(3) with sink, softcap(2)")
    assert isinstance(tree, Modified)
    assert tree.pattern == Call("window", (("size", 3),))
    assert tree.modifiers == (
        Modifier("softcap", (("cap", 2.0),)),
        Modifier("sink", (("logits", "sink"),)),
    )
    assert dump(tree) == "Modified softcap(2), sink\n  Call window size=3"
    assert tree.span is not None and tree.span.text == "window(3) with sink, softcap(2)"
    assert tree.modifiers[0].span is not None and tree.modifiers[0].span.text == "softcap(2)"


MISTAKES = {
    "full with sinc": ("unknown modifier 'sinc'", "sinc", "did you mean 'sink'?"),
    "full with window(3)": (
        "unknown modifier 'window'",
        "window",
        "'window' is a pattern, which stands before 'with'",
    ),
    "full with x": (
        "unknown modifier 'x'",
        "x",
        "known modifiers: alibi, bias, scale, sink, softcap",
    ),
    "full | sink": (
        "unknown pattern 'sink'",
        "sink",
        "'sink' is a modifier, which stands behind 'with'",
    ),
    "full with sink, alibi, sink": ("modifier 'sink' is given twice", "sink", None),
    "(full with sink) | causal": (
        "a pattern with modifiers cannot be combined with others",
        "(full with sink)",
        "'with' stands after the whole pattern",
    ),
    "causal - (full with sink)": (
        "a pattern with modifiers cannot be combined with others",
        "(full with sink)",
        "'with' stands after the whole pattern",
    ),
    "~(full with sink)": (
        "a pattern with modifiers cannot be combined with others",
        "(full with sink)",
        "'with' stands after the whole pattern",
    ),
    "full with sink | causal": (
        "unexpected '|': expected ','",
        "|",
        "'with' stands after the whole pattern",
    ),
    "full with sink alibi": ("unexpected 'alibi': expected ','", "alibi", None),
    "full with": ("unexpected end of the pattern: expected a modifier", "", None),
    "full with sink,": ("unexpected end of the pattern: expected a modifier", "", None),
    "with sink": ("'with' is a reserved word", "with", None),
    "window(with=3)": ("'with' is a reserved word", "with", None),
    "full with softcap": (
        "softcap needs argument 'cap'",
        "softcap",
        "the signature is softcap(cap)",
    ),
    "full with softcap(0)": (
        "argument 'cap' of softcap must be more than 0, found 0",
        "0",
        None,
    ),
    "full with softcap(-2.5)": (
        "argument 'cap' of softcap must be more than 0, found -2.5",
        "-2.5",
        None,
    ),
    "full with softcap(1e999)": (
        "argument 'cap' of softcap must be finite, found 1e999",
        "1e999",
        None,
    ),
    "full with scale('2')": (
        "argument 'factor' of scale must be a number, found '2'",
        "'2'",
        None,
    ),
    "full with alibi(slope='s')": (
        "alibi has no argument 'slope'",
        "slope",
        "did you mean 'slopes'?",
    ),
    "full with alibi(slopes='a b')": (
        "argument 'slopes' of alibi must be a name: letters, digits and _, found 'a b'",
        "'a b'",
        None,
    ),
    "full with bias(0)": ("argument 'size' of bias must be at least 1, found 0", "0", None),
    "full with bias(1048577)": (
        "argument 'size' of bias must be at most 1048576, found 1048577",
        "1048577",
        None,
    ),
    "full with sink('a', 'b')": (
        "sink takes 1 argument, found 2",
        "'b'",
        'the signature is sink(logits="sink")',
    ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes(text: str) -> None:
    message, marked, hint = MISTAKES[text]
    with pytest.raises(PatternError) as caught:
        parse(text)
    error = caught.value
    assert (error.message, error.hint) == (message, hint)
    assert error.span is not None
    # The last place where it stands, parentheses around it aside.
    assert error.span.text == marked.strip("()") or error.span.text == marked
    assert error.span.start in (text.rfind(marked), text.rfind(marked.strip("()")))


def test_each_mistake_has_its_class() -> None:
    for text, kind in {
        "full with sinc": errors.UnknownModifierError,
        "full with sink, sink": errors.RepeatedModifierError,
        "full & (full with sink)": errors.ModifiedOperandError,
    }.items():
        with pytest.raises(kind):
            parse(text)


def library(text: str) -> Library:
    return Library.of(Source("mine.attn", dedent(text)))


def test_definitions() -> None:
    found = library("""
        pattern capped(w: int, cap: float = 2.0) = window(w) with softcap(2 * cap), alibi
        pattern both(w: int) = capped(w, cap=w)
    """)
    assert to_text(parse("capped(3)", library=found)) == "window(3) with softcap(4), alibi"
    assert to_text(parse("both(3) with sink", library=found)) == (
        "window(3) with softcap(6), alibi, sink"
    )
    with pytest.raises(errors.ModifiedOperandError) as caught:
        parse("capped(3) | full", library=found)
    body = "window(w) with softcap(2 * cap), alibi"
    assert caught.value.span is not None and caught.value.span.text == body
    assert str(caught.value).endswith(
        "^ 'with' stands after the whole pattern\n"
        "in capped(w=3), called here:\n --> <spec>:1:1\n  | capped(3) | full\n  | ^^^^^^^^^"
    )
    with pytest.raises(errors.RepeatedModifierError):
        parse("capped(3) with softcap(1)", library=found)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("full with sinc", errors.UnknownModifierError),
        ("full with softcap(0)", errors.ArgumentRangeError),
        ("full with softcap(u)", errors.UnknownParameterError),
        ("full with softcap('a')", errors.ArgumentTypeError),
        ("full with scale(s)", errors.ArgumentTypeError),
        ("(full with sink) | full", errors.ModifiedOperandError),
    ],
)
def test_definitions_are_checked_before_any_call(body: str, kind: type[PatternError]) -> None:
    with pytest.raises(kind):
        library(f"pattern mine(s: str) = {body}\n")


def test_parameters_of_modifiers_count_as_used() -> None:
    library("pattern mine(c: float) = full with softcap(c)\n")
    with pytest.raises(errors.UnusedNameError):
        library("pattern mine(c: float) = full with softcap(3)\n")


def test_formatter() -> None:
    text = (
        "pattern a(c:float)=( window(3)|first( 4 )with softcap( c ),sink )# one\n"
        "pattern b = window(1000) | first(1000) | chunk(1000) & causal # two\n"
        "   with alibi,softcap(30), sink\n"
        "example a(2.0) with alibi = '#'"
    )
    formatted = dedent("""\
        pattern a(c: float) = window(3) | first(4) with softcap(c), sink  # one

        pattern b = (
            window(1000) | first(1000) | chunk(1000) & causal  # two
            with alibi, softcap(30), sink
        )

        example a(2.0) with alibi = "#"
        """)
    found = format_text(text)
    assert format_text(found) == found
    assert found == formatted


def test_from_python() -> None:
    pattern = (P.sparsek(k=512) | P.window(256)).with_(P.softcap(30), P.sink())
    assert str(pattern) == "sparsek(k=512) | window(256) with softcap(30), sink"
    assert pattern == parse(str(pattern))
    assert pattern.with_(P.alibi()) == parse(str(pattern) + ", alibi")
    with pytest.raises(errors.ModifiedOperandError):
        pattern | P.full()
    with pytest.raises(errors.ModifiedOperandError):
        _ = ~pattern
    with pytest.raises(errors.ArgumentRangeError) as caught:
        P.softcap(0)
    assert __file__ in str(caught.value)
    for arguments, message in (
        ((), "expected one modifier or more, found none"),
        (("sink",), "expected modifiers, found str 'sink'"),
        (
            (P.sink,),
            "expected modifiers, found the function sink (did you mean 'sink(...)'?)",
        ),
    ):
        with pytest.raises(TypeError) as wrong:
            P.full().with_(*arguments)  # type: ignore[arg-type]
        assert str(wrong.value) == message
