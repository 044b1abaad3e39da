"""Patterns from Python are the patterns of the language, with Python's lines in their errors."""

from __future__ import annotations

import functools
import inspect
import operator
import pickle
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from mypy import api as mypy
from strategies import modified
from strategies import patterns as drawn_patterns
from typing_extensions import assert_never

import attncomp
from attncomp import errors
from attncomp import patterns as P
from attncomp.codegen.plan_text import plan_text
from attncomp.frontend.ast import (
    Call,
    Complement,
    Difference,
    Expr,
    HeadGroups,
    Intersection,
    Modified,
    Union,
    Where,
    dump,
)
from attncomp.frontend.catalog import (
    GATE_MODES,
    REQUIRED,
    Signature,
    Value,
    value_text,
)
from attncomp.frontend.library import shipped
from attncomp.frontend.modifiers import MODIFIERS, Modifier
from attncomp.frontend.parser import parse
from attncomp.frontend.predicate import condition_text
from attncomp.frontend.primitives import PRIMITIVES
from attncomp.runtime.cache import cache_key

PACKAGE = Path(attncomp.__file__).parent
EXACT = sys.version_info >= (3, 11)  # code objects hold columns


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (P.full(), "full"),
        (P.window(256), "window(256)"),
        (P.window(size=8), "window(8)"),
        (P.window(before=7, after=2), "window(before=7, after=2)"),
        (P.window(after=2), "window(after=2)"),
        (P.window(after=0), "window(before=0)"),
        (P.dilated(4, 2) | P.strided(8), "dilated(size=4, step=2) | strided(8)"),
        (P.sparsek(8), "sparsek(k=8)"),
        (P.sparsek(8, 4, "hard"), 'sparsek(k=8, lag=4, gate="hard")'),
        (P.window(8) | P.first(2) - P.causal(), "window(8) | first(2) - causal"),
        (~P.full() - P.causal(), "~full - causal"),
        (~(P.full() - P.causal()), "~(full - causal)"),
        (P.full() - P.causal() - P.window(1), "full - causal - window(1)"),
        (P.full() - (P.causal() - P.window(1)), "full - (causal - window(1))"),
        (P.full() & P.causal() - P.window(1), "full & causal - window(1)"),
        (P.full() | P.causal() & P.window(1), "full | causal & window(1)"),
        ((P.full() | P.causal()) & P.window(1), "(full | causal) & window(1)"),
        (P.full() | (P.causal() | P.window(1)), "full | causal | window(1)"),
        (P.full() & P.causal() & P.first(1) & P.full(), "full & causal & first(1) & full"),
        (~~P.full(), "~~full"),
    ],
)
def test_operators_are_those_of_the_language(pattern: Expr, text: str) -> None:
    assert pattern == parse(text)
    assert hash(pattern) == hash(parse(text))
    assert str(pattern) == text
    assert dump(pattern) == dump(parse(text))


def test_where() -> None:
    pattern = P.where("segment[q] == segment[k] and q - k < 2 * 8") & P.causal()
    assert pattern == parse("where(segment[q] == segment[k] and q - k < 2 * 8) & causal")
    with pytest.raises(errors.UnknownIndexError) as caught:
        P.where("q - k < w")
    assert str(caught.value).startswith("error: unknown name 'w'\n --> <where>:1:15\n")
    assert f"in where, called here:\n --> {__file__}:" in str(caught.value)
    with pytest.raises(errors.UnexpectedTextError) as two:
        P.where("q < 1) | full & where(k < 1")
    assert two.value.message == ("unexpected 'q < 1) | full & where(k < 1': expected one predicate")


def rebuilt(tree: Expr) -> Expr:
    """The same tree from functions and operators."""
    match tree:
        case Call():
            make: Callable[..., Expr] = getattr(P, tree.name)
            return make(**dict(tree.arguments))
        case Where():
            return P.where(condition_text(tree.condition))
        case Union():
            return functools.reduce(operator.or_, map(rebuilt, tree.members))
        case Intersection():
            return functools.reduce(operator.and_, map(rebuilt, tree.members))
        case Difference():
            return rebuilt(tree.left) - rebuilt(tree.right)
        case Complement():
            return ~rebuilt(tree.operand)
        case Modified():
            parts = (getattr(P, m.name)(**dict(m.arguments)) for m in tree.modifiers)
            return rebuilt(tree.pattern).with_(*parts)
        case HeadGroups():
            return P.heads({str(heads): rebuilt(part) for heads, part in tree.groups})
        case _:
            assert_never(tree)


@given(drawn_patterns(max_leaves=12) | modified(drawn_patterns()))
def test_drawn_patterns(tree: Expr) -> None:
    pattern = rebuilt(tree)
    assert pattern == tree and hash(pattern) == hash(tree)
    assert parse(str(pattern)) == tree
    assert (repr(pattern), dump(pattern)) == (repr(tree), dump(tree))
    assert pickle.loads(pickle.dumps(pattern)) == tree


class Odd:
    def __repr__(self) -> str:
        return "odd\n" * 20


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        (lambda: P.full() | 3, "the right side of '|' must be a pattern, found int 3"),
        (lambda: P.full() & None, "the right side of '&' must be a pattern, found NoneType None"),
        (
            lambda: P.full() - "causal",
            "the right side of '-' must be a pattern, found str 'causal'",
        ),
        (lambda: 3 | P.full(), "the left side of '|' must be a pattern, found int 3"),
        (lambda: 2.5 & P.full(), "the left side of '&' must be a pattern, found float 2.5"),
        (lambda: {} - P.full(), "the left side of '-' must be a pattern, found dict {}"),
        (
            lambda: P.full() | P.causal,
            "the right side of '|' must be a pattern, found the function causal "
            "(did you mean 'causal(...)'?)",
        ),
        (
            lambda: P.full() | Odd(),
            "the right side of '|' must be a pattern, found Odd " + "odd\ufffd" * 9 + "o...",
        ),
        (
            lambda: P.full() and P.causal(),
            "a pattern is neither true nor false: combine patterns with | & - ~",
        ),
        (lambda: P.first(), "first() missing 1 required positional argument: 'count'"),
    ],
)
def test_what_cannot_be_combined(combine: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        combine()
    assert str(caught.value) == message


# Errors


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("P.window(2.0)", "window(2.0)"),
        ("P.window('a')", 'window("a")'),
        ("P.window(True)", "window(True)"),
        ("P.window(0)", "window(0)"),
        ("P.window()", "window()"),
        ("P.window(3, after=1)", "window(size=3, after=1)"),
        ("P.window(before=-1)", "window(before=-1)"),
        ("P.first(2 ** 31)", "first(2147483648)"),
        ("P.sparsek(8, -1)", "sparsek(8, -1)"),
        ("P.sparsek(8, gate='hrd')", 'sparsek(8, gate="hrd")'),
    ],
)
def test_wrong_values_are_the_errors_of_the_text(source: str, text: str) -> None:
    with pytest.raises(errors.PatternError) as expected:
        parse(text)
    with pytest.raises(errors.PatternError) as found:
        eval(source)
    assert type(found.value) is type(expected.value)
    assert (found.value.message, found.value.hint) == (expected.value.message, expected.value.hint)


@pytest.mark.parametrize(
    ("line", "message", "marked", "hint"),
    [
        (
            "p = P.full() - (P.window(3) | P.sparsek(8))",
            "a soft pattern has no complement",
            "P.sparsek(8)",
            ' only sparsek(..., gate="hard") may stand here',
        ),
        (
            "p = P.sparsek(8) | P.sparsek(9, gate='hard')",
            "soft members must share one gate mode: expected 'key_value', found 'hard'",
            "P.sparsek(9, gate='hard')",
            "",
        ),
        (
            "p = functools.reduce(operator.or_, [P.sparsek(k, k) for k in range(1, 40)])",
            "pattern is larger than 4096 combinations of selections and tests",
            "P.sparsek(k, k)",
            "",
        ),
    ],
)
def test_errors_of_later_stages_show_python(
    tmp_path: Path, line: str, message: str, marked: str, hint: str
) -> None:
    path = tmp_path / "model.py"
    path.write_text(line + "\n")
    names: dict[str, typing.Any] = {"P": P, "functools": functools, "operator": operator}
    exec(compile(line, str(path), "exec"), names)
    with pytest.raises(errors.PatternError) as caught:
        attncomp.compile(names["p"])
    start = line.index(marked) if EXACT else 0
    assert str(caught.value).splitlines() == [
        f"error: {message}",
        f" --> {path}:1:{start + 1}",
        f"  | {line}",
        "  | " + " " * start + "^" * len(marked if EXACT else line) + hint,
    ]


def test_missing_arguments_show_python() -> None:
    with pytest.raises(errors.MissingArgumentError) as caught:
        P.window()  # type: ignore[call-overload]
    assert caught.value.span is not None and f" --> {__file__}:" in str(caught.value)
    assert caught.value.span.text == "P.window()" or not EXACT


def test_errors_in_definitions_show_python() -> None:
    with pytest.raises(errors.ArgumentTypeError) as caught:
        P.sliding_window(size=2.5)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "argument 'size' of sliding_window must be an integer, found 2.5" in message
    assert f" --> {__file__}:" in message
    with pytest.raises(errors.ArgumentRangeError) as other:
        P.sliding_window(size=0)
    first, second = str(other.value).split("\nin sliding_window(size=0), called here:\n")
    assert first.startswith("error: argument 'size' of window must be at least 1, found 0\n")
    assert " --> specs/sliding_window.attn:" in first and f" --> {__file__}:" in second


# Compilation


def test_compiled_alike(tmp_path: Path) -> None:
    line = "p = P.sparsek(8, 4) | P.window(4) - P.first(1)"
    found = []
    for name in ("one.py", "another.py"):
        (tmp_path / name).write_text(line)
        names: dict[str, typing.Any] = {"P": P}
        exec(compile(line, str(tmp_path / name), "exec"), names)
        found.append(attncomp.compile(names["p"]))
    text = attncomp.compile(str(found[0]))
    assert found[0] == found[1] == text and hash(found[0]) == hash(text)
    assert repr(found[0]) == f"attncomp.compile({str(text)!r})"
    assert pickle.loads(pickle.dumps(found[0])) == text
    assert found[0].plan == found[1].plan == text.plan
    keys = {cache_key(plan_text(a.plan), a.plan.problem.target) for a in (*found, text)}
    assert len(keys) == 1
    assert len({a.explain() for a in (*found, text)}) == 1
    place = {sweep.origin.rsplit(":", 2)[0] for sweep in found[1].plan.sweeps}
    assert place == {str(tmp_path / "another.py")}


def test_kernels_do_not_say_where_a_pattern_was_written(
    private_cache: Path, generator: torch.Generator
) -> None:
    size = int(torch.randint(3, 1000, (), generator=generator))
    before = set(private_cache.rglob("*.py"))
    q = torch.randn(1, 1, 9, 16, generator=generator)
    pattern = P.window(size) | P.first(5)
    out = attncomp.compile(pattern)(q, q, q)
    written = set(private_cache.rglob("*.py")) - before
    assert len(written) == 1
    assert Path(__file__).name not in written.pop().read_text()
    assert attncomp.compile(str(pattern))(q, q, q).equal(out)
    assert len(set(private_cache.rglob("*.py")) - before) == 1
    assert __file__ in attncomp.compile(pattern).source


# The module


def rows() -> dict[str, Signature]:
    """The primitives, the modifiers and the definitions that are shipped."""
    return {
        **PRIMITIVES,
        **MODIFIERS,
        **{name: shipped().definition(name) for name in shipped().names},
    }


@pytest.mark.parametrize("name", rows())
def test_functions_are_the_catalog_and_the_library(name: str) -> None:
    function, row = getattr(P, name), rows()[name]
    parameters = inspect.signature(function).parameters
    assert list(parameters) == [p.name for form in row.forms for p in form]
    types = typing.get_type_hints(function)
    for form in row.forms[1:]:
        for parameter in form:
            assert parameters[parameter.name].kind is inspect.Parameter.KEYWORD_ONLY
    for parameter in row.parameters if len(row.forms) == 1 else ():
        found = parameters[parameter.name]
        required = parameter.default is REQUIRED
        assert found.kind is found.POSITIONAL_OR_KEYWORD
        assert found.default == (found.empty if required else parameter.default)
        annotation = types[parameter.name]
        if parameter.name == "gate":
            assert parameter.type is str and typing.get_args(annotation) == GATE_MODES
        else:
            assert annotation is parameter.type
    doc = inspect.getdoc(function)
    assert doc is not None and " ".join(doc.split()).startswith(" ".join(row.doc.split()))
    for parameter in (parameter for form in row.forms for parameter in form):
        assert not parameter.doc or f"\n{parameter.name}: {parameter.doc}\n" in doc


@pytest.mark.parametrize("name", rows())
def test_functions_pass_every_argument_on(name: str) -> None:
    """A value of its own for each parameter, 3, 4, ...; by position and by name."""
    row = rows()[name]
    before = "full with " if name in MODIFIERS else ""

    def whole(part: Expr | Modifier) -> Expr:
        return P.full().with_(part) if isinstance(part, Modifier) else part

    values: dict[str, Value] = {}
    for number, parameter in enumerate(row.parameters, start=3):
        values[parameter.name] = "logit" if parameter.type is str else number
    written = ", ".join(value_text(value) for value in values.values())
    make = getattr(P, name)
    assert make(**values) == make(*values.values())
    assert whole(make(**values)) == parse(f"{before}{name}({written})")
    if all(parameter.default is not REQUIRED for parameter in row.parameters):
        assert whole(make()) == parse(f"{before}{name}")


def test_the_module_is_complete() -> None:
    names = {*rows(), "heads", "where"}
    assert P.__all__ == ["Modifier", "Pattern", *sorted(names)]
    functions = [name for name, value in vars(P).items() if inspect.isfunction(value)]
    own = {name for name in functions if getattr(P, name).__module__.startswith(P.__name__)}
    assert {name for name in own if not name.startswith("_")} == names


SAMPLE = """\
from attncomp import patterns as P

def near(size: int) -> P.Pattern:
    return P.window(size) & P.causal() | P.first(4) - ~P.full()

pattern: P.Pattern = near(4) | P.sparsek(k=8, lag=4, gate="hard")
text: str = str(pattern)
"""
WRONG = (
    'P.window("a")',
    "P.window(3, after=1)",
    'P.sparsek(8, gate="soft")',
    "P.window(3) | 3",
    "3 | P.window(3)",
    "P.window(3) & P.causal",
)


def test_types(tmp_path: Path) -> None:
    """mypy --strict takes right calls and no wrong one."""
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE + "\n".join(WRONG) + "\n")
    parts = [PACKAGE / f"{name}.py" for name in ("__init__", "source")]
    parts += sorted((PACKAGE / "patterns").glob("*.py"))
    parts += sorted((PACKAGE / "frontend").glob("*.py")) + sorted((PACKAGE / "errors").glob("*.py"))
    options = ("--strict", "--follow-imports=skip", "--cache-dir=/dev/null", "--config-file=")
    output, _, _ = mypy.run([*options, *map(str, parts), str(sample)])
    found = [line for line in output.splitlines() if line.startswith(str(sample))]
    first = SAMPLE.count("\n") + 1
    lines = sorted({int(line.removeprefix(str(sample)).split(":")[1]) for line in found})
    assert lines == list(range(first, first + len(WRONG))), output
