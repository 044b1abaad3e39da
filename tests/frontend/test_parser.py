"""What texts mean: trees, spans, canonical text, the catalog."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import attncomp
from attncomp import errors
from attncomp.frontend import reader
from attncomp.frontend.ast import (
    Call,
    Complement,
    Difference,
    Expr,
    Intersection,
    Union,
    dump,
    to_text,
)
from attncomp.frontend.catalog import MAX_INTEGER, Argument, Parameter, Primitive
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import PRIMITIVES

FULL = Call("full", ())
CAUSAL = Call("causal", ())


def window(size: int) -> Call:
    return Call("window", (("size", size),))


def sparsek(k: int, lag: int = 0, gate: str = "key_value", scores: str = "scores") -> Call:
    return Call("sparsek", (("k", k), ("lag", lag), ("gate", gate), ("scores", scores)))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("full", FULL),
        ("full()", FULL),
        ("((full))", FULL),
        ("window(256)", window(256)),
        ("window(size = 1_000,)", window(1000)),
        ("window(007)", window(7)),
        ("sparsek(8)", sparsek(8)),
        ("sparsek(8, 4, 'hard')", sparsek(8, 4, "hard")),
        ('sparsek(gate="logit", k=8)', sparsek(8, 0, "logit")),
        ("~full - causal", Difference(Complement(FULL), CAUSAL)),
        ("~(full - causal)", Complement(Difference(FULL, CAUSAL))),
        ("full - causal - window(1)", Difference(Difference(FULL, CAUSAL), window(1))),
        ("full - (causal - window(1))", Difference(FULL, Difference(CAUSAL, window(1)))),
        ("full - causal & window(1)", Intersection((Difference(FULL, CAUSAL), window(1)))),
        ("full & causal - window(1)", Intersection((FULL, Difference(CAUSAL, window(1))))),
        ("full | causal & window(1)", Union((FULL, Intersection((CAUSAL, window(1)))))),
        ("(full | causal) & window(1)", Intersection((Union((FULL, CAUSAL)), window(1)))),
        ("full | (causal | window(1))", Union((FULL, CAUSAL, window(1)))),
        ("full & (causal & window(1))", Intersection((FULL, CAUSAL, window(1)))),
        ("~~full", Complement(Complement(FULL))),
        (" # one\r\n full # two | full\n | # three\r causal", Union((FULL, CAUSAL))),
    ],
)
def test_trees(text: str, tree: Expr) -> None:
    assert parse(text) == tree
    assert hash(parse(text)) == hash(tree)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("full( )", "full"),
        ("sparsek(512,256)|window( size=256 )", "sparsek(k=512, lag=256) | window(256)"),
        ("sparsek(8, 0, 'key_value')", "sparsek(k=8)"),
        ("sparsek(8, gate='hard')", 'sparsek(k=8, gate="hard")'),
        ("((full) - (causal)) - (full)", "full - causal - full"),
        ("full - (causal - full)", "full - (causal - full)"),
        ("~(full)", "~full"),
        ("~(full & causal)", "~(full & causal)"),
        ("(~full) - ~causal", "~full - ~causal"),
        ("((full & causal) | (full - causal))", "full & causal | full - causal"),
        ("(full | causal) & (full & causal)", "(full | causal) & full & causal"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert to_text(parse(text)) == canonical


def test_dump() -> None:
    text = "sparsek(k=8) | ~(window(4) - full) & causal"
    assert dump(parse(text)).splitlines() == [
        "Union",
        '  Call sparsek k=8 lag=0 gate="key_value" scores="scores"',
        "  Intersection",
        "    Complement",
        "      Difference",
        "        Call window size=4",
        "        Call full",
        "    Call causal",
    ]


def test_spans() -> None:
    text = " ( full | (causal) ) - (~window( 3 )) - (full) "
    outer = parse(text, "here")
    assert isinstance(outer, Difference)
    inner = outer.left
    assert isinstance(inner, Difference)
    union, complement = inner.left, inner.right
    assert isinstance(union, Union) and isinstance(complement, Complement)
    found = [
        node.span.text
        for node in (outer, inner, union, *union.members, complement, complement.operand)
        if node.span is not None
    ]
    assert found == [
        text.strip(),
        "( full | (causal) ) - (~window( 3 ))",
        "full | (causal)",
        "full",
        "causal",
        "~window( 3 )",
        "window( 3 )",
    ]
    assert outer.span is not None and outer.span.source.name == "here"


def test_nodes_merge_and_refuse_single_members() -> None:
    assert Union((FULL, Union((CAUSAL, FULL)))).members == (FULL, CAUSAL, FULL)
    assert Intersection((Intersection((FULL, CAUSAL)), FULL)).members == (FULL, CAUSAL, FULL)
    for node in (Union, Intersection):
        with pytest.raises(ValueError, match="expected two members or more, found 1"):
            node((FULL,))


def test_text_of_an_unknown_primitive() -> None:
    with pytest.raises(errors.UnknownPatternError, match="unknown pattern 'windw'"):
        to_text(Call("windw", ()))


def test_the_parser_is_built_once_by_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    make = reader.Lark

    def counted(*arguments: object, **options: object) -> object:
        built.append(None)
        return make(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reader, "_lark", None)
    monkeypatch.setattr(reader, "Lark", counted)
    texts = [f"window({size}) | full" for size in range(1, 101)]
    with ThreadPoolExecutor(8) as pool:
        trees = list(pool.map(parse, texts))
    assert trees == [Union((window(size), FULL)) for size in range(1, 101)]
    assert len(built) == 1


# Round trip

CALLS = st.one_of(
    st.sampled_from([FULL, CAUSAL]),
    st.builds(window, st.integers(1, MAX_INTEGER)),
    st.builds(lambda n: Call("first", (("count", n),)), st.integers(1, MAX_INTEGER)),
    st.builds(
        sparsek,
        st.integers(1, MAX_INTEGER),
        st.integers(0, MAX_INTEGER),
        st.sampled_from(["key_value", "value", "hard", "straight_through", "logit"]),
        st.sampled_from(["scores", "near"]),
    ),
)


def compound(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    members = st.lists(inner, min_size=2, max_size=4).map(tuple)
    return st.one_of(
        st.builds(Union, members),
        st.builds(Intersection, members),
        st.builds(Difference, inner, inner),
        st.builds(Complement, inner),
    )


EXPRESSIONS: st.SearchStrategy[Expr] = st.recursive(CALLS, compound, max_leaves=30)


@given(EXPRESSIONS)
@example(Difference(FULL, Union((FULL, Difference(Complement(FULL), CAUSAL)))))
def test_round_trip(tree: Expr) -> None:
    text = to_text(tree)
    assert parse(text) == tree
    assert to_text(parse(text)) == text
    assert parse(f"( {text.replace(' ', '  # why' + chr(10))} )") == tree


@given(EXPRESSIONS)
def test_canonical_text_has_no_needless_parentheses(tree: Expr) -> None:
    text = to_text(tree)
    for start in (i for i, c in enumerate(text) if c == "(" and not text[i - 1 : i].isalnum()):
        depth = 0
        for end in range(start, len(text)):
            depth += (text[end] == "(") - (text[end] == ")")
            if depth == 0:
                break
        assert parse(text[:start] + " " + text[start + 1 : end] + text[end + 1 :]) != tree


# Catalog


@pytest.mark.parametrize("primitive", PRIMITIVES.values(), ids=lambda p: p.name)
def test_rows_are_consistent(primitive: Primitive) -> None:
    assert PRIMITIVES[primitive.name] is primitive
    assert primitive.name.isidentifier() and primitive.doc.endswith(".")
    parameters = [parameter for form in primitive.forms for parameter in form]
    assert len({parameter.name for parameter in parameters}) == len(parameters)
    for parameter in parameters:
        assert parameter.doc.endswith(".")
        if isinstance(parameter.default, int | float | str):
            checked = parameter.check(primitive.name, Argument(None, parameter.default))
            assert checked == parameter.default


def test_signature() -> None:
    assert PRIMITIVES["full"].signature == "full"
    assert PRIMITIVES["first"].signature == "first(count)"
    both = "window(size) or window(before=0, after=0)"
    assert PRIMITIVES["window"].signature == both
    assert PRIMITIVES["sparsek"].signature == 'sparsek(k, lag=0, gate="key_value", scores="scores")'


SCALED = Primitive(
    name="scaled",
    parameters=(
        Parameter(name="factor", type=float, minimum=0.5, doc="A factor."),
        Parameter(name="wrap", type=bool, default=False, doc="Whether."),
    ),
    doc="A row with the types that no primitive has yet.",
)


class TestOtherTypes:
    @pytest.mark.parametrize(
        ("written", "value"), [("2", 2.0), ("0.5", 0.5), ("1e3", 1000.0), ("1_0.", 10.0)]
    )
    def test_numbers(self, monkeypatch: pytest.MonkeyPatch, written: str, value: float) -> None:
        monkeypatch.setattr("attncomp.frontend.primitives.PRIMITIVES", {"scaled": SCALED})
        tree = parse(f"scaled({written}, wrap=True)")
        assert tree == Call("scaled", (("factor", value), ("wrap", True)))
        assert isinstance(tree, Call) and type(tree.arguments[0][1]) is float
        assert parse(to_text(tree)) == tree

    @pytest.mark.parametrize(
        ("written", "message"),
        [
            ("1e999", "must be finite, found 1e999"),
            ("9" * 9999, "must be finite, found " + "9" * 37 + "..."),
            ("-" + "9" * 9999, "must be finite, found -" + "9" * 36 + "..."),
            ("0.25", "must be at least 0.5, found 0.25"),
            ("'1'", "must be a number, found '1'"),
            ("1, wrap=1", "must be True or False, found 1"),
        ],
    )
    def test_bad_values(self, monkeypatch: pytest.MonkeyPatch, written: str, message: str) -> None:
        monkeypatch.setattr("attncomp.frontend.primitives.PRIMITIVES", {"scaled": SCALED})
        with pytest.raises(errors.PatternError) as caught:
            parse(f"scaled({written})")
        assert caught.value.message.endswith(message)

    def test_binding_without_text(self) -> None:
        bound = SCALED.bind([Argument("wrap", True), Argument("factor", 2)])
        assert bound == (("factor", 2.0), ("wrap", True))
        with pytest.raises(errors.MissingArgumentError) as caught:
            SCALED.bind()
        assert caught.value.span is None


def test_trees_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        window(3).name = "full"  # type: ignore[misc]


@pytest.mark.parametrize("text", ["causal", "chunk(size=2)", "strided(step=2)", "first(count=2)"])
def test_conditions_of_the_catalog_are_what_patterns_mean(text: str) -> None:
    call = parse(text)
    assert isinstance(call, Call)
    condition = PRIMITIVES[call.name].doc.rsplit(": ", 1)[1].removesuffix(".")
    n = 6
    expected = [
        [eval(condition, {"q": q, "k": k, **dict(call.arguments)}) for k in range(n)]
        for q in range(n)
    ]
    assert attncomp.compile(text).mask(n)[0, 0].bool().tolist() == expected
