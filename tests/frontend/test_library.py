"""Libraries: imports, expansion, the shipped one, and mistakes that involve several files."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from spec_support import drawn, library_of, text_of

import attncomp
from attncomp import errors
from attncomp.errors import PatternError
from attncomp.frontend import library as library_module
from attncomp.frontend.ast import to_text
from attncomp.frontend.catalog import Argument
from attncomp.frontend.library import Library, shipped, shipped_folder
from attncomp.frontend.limits import MAX_CHARACTERS
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import PRIMITIVES

Files = Callable[..., Library]


INTEGER = "argument 'n' of f must be an integer, found "
BEYOND = "the result of '{}' is too large"

MY = """\
    from sliding_window import sliding_window
    from .near import near, _edge
    from .sub.deep import deep
    pattern mine(n: int, g: int = 2) = sliding_window(n * 2) | first(g) | near(n)
    pattern tiny = mine(n=2 * 4, g=1) - _edge & deep()
"""
NEAR = "pattern near(n: int) = window(n + 1) pattern _edge = first(1)"
DEEP = "from ..near import near pattern deep = ~near(1)"


def test_imports_and_expansion(files: Files) -> None:
    library = files(my=MY, near=NEAR, sub__deep=DEEP)
    assert text_of("mine(3)", library) == "window(6) | first(2) | window(4)"
    assert text_of("tiny", library) == (
        "(window(16) | first(1) | window(9)) - first(1) & ~window(2)"
    )
    assert text_of("tiny() | sliding_window & full", library) == (
        f"{text_of('tiny', library)} | window(1024) & full"
    )
    assert library.names == ("mine", "tiny")
    assert list(library) == ["mine", "tiny"] and len(library) == 2
    assert "mine" in library and "near" not in library and "_edge" not in library
    assert library.signature("mine") == "mine(n, g=2)"
    assert library.doc("mine") == ""
    assert library.path == Path("my.attn")


def test_spans_are_those_of_the_definition(files: Files) -> None:
    library = files(my="pattern a = ~_b\npattern _b = full & causal")
    tree = parse("a", library=library)
    operand = getattr(tree, "operand")  # noqa: B009
    assert operand.span.render() == " --> my.attn:2:14\n  | pattern _b = full & causal\n" + (
        "  |              ^^^^^^^^^^^^^"
    )


def test_the_library_comes_before_the_shipped_one(files: Files) -> None:
    library = files(my="pattern longformer = full")
    assert text_of("longformer", library) == "full"
    assert text_of("longformer") == "window(512) | first(64)"


def test_expansion_from_python() -> None:
    expr = shipped().expand("longformer", [Argument("g", 3), Argument("w", 7)])
    assert to_text(expr) == "window(7) | first(3)"
    with pytest.raises(errors.ArgumentRangeError) as caught:
        shipped().expand("longformer", [Argument(None, 0)])
    assert str(caught.value).splitlines()[-1] == "in longformer(w=0)"
    with pytest.raises(errors.MissingArgumentError, match="needs argument 'n'"):
        library_of("pattern a(n: int) = window(n)").expand("a", ())
    with pytest.raises(errors.UnknownPatternError) as unknown:
        shipped().signature("longfromer")
    assert unknown.value.hint == "did you mean 'longformer'?"


def test_a_mistake_shows_the_calls_that_led_to_it(files: Files) -> None:
    library = files(my=MY, near=NEAR, sub__deep=DEEP)
    with pytest.raises(errors.ArgumentRangeError) as caught:
        parse("full | mine(n=-1)", library=library)
    assert str(caught.value) == drawn("""
        error: argument 'size' of window must be at least 1, found -2
         --> specs/sliding_window.attn:6:49
          | pattern sliding_window(size: int = 1024) = window(size)
          |                                                   ^^^^
        in sliding_window(size=-2), called here:
         --> my.attn:4:36
          | pattern mine(n: int, g: int = 2) = sliding_window(n * 2) | first(g) | near(n)
          |                                    ^^^^^^^^^^^^^^^^^^^^^
        in mine(n=-1), called here:
         --> <spec>:1:8
          | full | mine(n=-1)
          |        ^^^^^^^^^^
    """).replace(":6:49", ":6:51")
    assert len(caught.value.notes) == 2
    twin = pickle.loads(pickle.dumps(caught.value))
    assert str(twin) == str(caught.value) and vars(twin) == vars(caught.value)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        ("f(2, 3, 4)", errors.TooManyArgumentsError, "f takes 2 arguments, found 3"),
        ("f", errors.MissingArgumentError, "f needs argument 'n'"),
        ("f(m=2)", errors.UnknownArgumentError, "f has no argument 'm'"),
        ("f(1, n=2)", errors.RepeatedArgumentError, "argument 'n' of f is given twice"),
        ("f(n=2, 1)", errors.ArgumentOrderError, "positional argument of f stands behind a "
         "keyword argument"),
        ("f('2')", errors.ArgumentTypeError, INTEGER + "'2'"),
        ("f(7 // 2.0)", errors.ArgumentTypeError, INTEGER + "3.0"),
        ("f(True)", errors.ArgumentTypeError, INTEGER + "True"),
        ("f(2, 1e999)", errors.ArgumentRangeError, "argument 'x' of f must be finite, found 1e999"),
        ("f(2, 'a' + 1)", errors.ArithmeticTypeError, "'+' needs numbers, found \"a\""),
        ("f(1 - True)", errors.ArithmeticTypeError, "'-' needs numbers, found True"),
        ("f(1 % 0)", errors.DivisionByZeroError, "'%' by zero"),
        ("f(1 // (2 - 2.0))", errors.DivisionByZeroError, "'//' by zero"),
        ("f(2 + 9223372036854775807)", errors.ArithmeticRangeError, BEYOND.format("+")),
        ("f(1e300 * 1e300)", errors.ArithmeticRangeError, BEYOND.format("*")),
        ("f(1e999 - 1e999)", errors.ArithmeticRangeError, BEYOND.format("-")),
        ("f(1.5 * " + "9" * 399 + ")", errors.ArithmeticRangeError, BEYOND.format("*")),
        ("f(m)", errors.UnexpectedTextError, "unexpected 'm': expected a value"),
    ],
)  # fmt: skip
def test_arguments_of_a_definition(call: str, kind: type[PatternError], message: str) -> None:
    library = library_of("pattern f(n: int, x: float = 1) = window(n) | first(x // 1)")
    with pytest.raises(PatternError) as caught:
        parse(call, library=library)
    assert type(caught.value) is kind
    assert caught.value.message == message
    assert caught.value.notes == ()


# Files, of which the first is loaded, the class and what str() draws.
DRAWN = [
    (
        {"my": "from .a import a\npattern b = a", "a": "from .my import b\npattern a = b"},
        errors.CyclicImportError,
        """
        error: imports go in a circle: my.attn -> a.attn -> my.attn
         --> a.attn:1:6
          | from .my import b
          |      ^^^
        imported here:
         --> my.attn:1:6
          | from .a import a
          |      ^^
        """,
    ),
    (
        {"my": "from .my import b\npattern a = b"},
        errors.CyclicImportError,
        """
        error: imports go in a circle: my.attn -> my.attn
         --> my.attn:1:6
          | from .my import b
          |      ^^^
        """,
    ),
    (
        {"my": "from longformr import longformer\npattern a = longformer"},
        errors.UnknownModuleError,
        """
        error: unknown module 'longformr': there is no file specs/longformr.attn
         --> my.attn:1:6
          | from longformr import longformer
          |      ^^^^^^^^^ did you mean 'longformer'?
        """,
    ),
    (
        {"my": "from near import n\npattern a = n", "near": "pattern n = full"},
        errors.UnknownModuleError,
        """
        error: unknown module 'near': there is no file specs/near.attn
         --> my.attn:1:6
          | from near import n
          |      ^^^^ did you mean '.near'?
        """,
    ),
    (
        {"my": "from .sub.nera import n\npattern a = n", "sub__near": "pattern n = full"},
        errors.UnknownModuleError,
        """
        error: unknown module '.sub.nera': there is no file sub/nera.attn
         --> my.attn:1:6
          | from .sub.nera import n
          |      ^^^^^^^^^ did you mean '.sub.near'?
        """,
    ),
    (
        {"my": "from longformer import longfromer\npattern a = longfromer"},
        errors.UnknownImportError,
        """
        error: 'longformer' defines no 'longfromer'
         --> my.attn:1:24
          | from longformer import longfromer
          |                        ^^^^^^^^^^ did you mean 'longformer'?
        """,
    ),
    (
        {"my": "from .near import near\npattern a = full", "near": NEAR.replace("_edge", "edge")},
        errors.UnusedNameError,
        """
        error: import 'near' is never used
         --> my.attn:1:19
          | from .near import near
          |                   ^^^^
        """,
    ),
    (
        {"my": "from .near import near\npattern a = near(1)", "near": NEAR},
        errors.UnusedNameError,
        """
        error: private pattern '_edge' is never used
         --> near.attn:1:46
          | pattern near(n: int) = window(n + 1) pattern _edge = first(1)
          |                                              ^^^^^
        """,
    ),
    (
        {"my": "from .near import n\npattern a = n", "near": "pattern n = full |"},
        errors.UnexpectedEndError,
        """
        error: unexpected end of the file: expected a pattern
         --> near.attn:1:19
          | pattern n = full |
          |                   ^
        imported here:
         --> my.attn:1:6
          | from .near import n
          |      ^^^^^
        """,
    ),
    (
        {
            "my": "from .near import near\npattern a = near(s=1)",
            "near": "pattern near(n: int) = window(n)",
        },
        errors.UnknownArgumentError,
        """
        error: near has no argument 's'
         --> my.attn:2:18
          | pattern a = near(s=1)
          |                  ^ known arguments: n
        """,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "kind", "expected"), DRAWN)
def test_mistakes_between_files(
    files: Files, texts: dict[str, str], kind: type[PatternError], expected: str
) -> None:
    with pytest.raises(PatternError) as caught:
        files(**texts)
    assert str(caught.value) == drawn(expected)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.attn").mkdir()
    Path("latin.attn").write_bytes(b"pattern caf\xe9 = full")
    os.mkfifo("pipe.attn")
    Path("my.attn").write_text("from .latin import a\npattern b = a")
    cases = {
        "none.attn": "cannot read none.attn: No such file or directory",
        "folder.attn": "cannot read folder.attn: Is a directory",
        "latin.attn": "cannot read latin.attn: it is not UTF-8 at byte 11",
        "pipe.attn": "cannot read pipe.attn: it is no regular file",
        "a\0.attn": "cannot read a\ufffd.attn: embedded null byte",
        "my.attn": "cannot read latin.attn: it is not UTF-8 at byte 11",
    }
    for path, message in cases.items():
        with pytest.raises(errors.UnreadableFileError) as caught:
            Library.read(path)
        assert caught.value.message == message
        assert (caught.value.span is not None) == (path == "my.attn")
    with pytest.raises(TypeError):
        Library.read(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected the path of a spec file, found bytes"):
        Library.read(b"my.attn")  # type: ignore[arg-type]


def test_a_file_that_is_too_large(files: Files) -> None:
    with pytest.raises(errors.PatternTooLargeError):
        files(my="pattern a = full".ljust(MAX_CHARACTERS + 1))
    with pytest.raises(errors.PatternTooLargeError):
        files(my="# " + "\u65e5" * (3 * MAX_CHARACTERS))


class TestShipped:
    def test_is_read_only_when_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library_module, "_shipped", None)
        parse("window(3) | sparsek(2)")
        assert library_module._shipped is None
        parse("longformer")
        assert library_module._shipped is shipped()

    def test_is_read_once_by_many_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library_module, "_shipped", None)
        with ThreadPoolExecutor(8) as pool:
            found = {id(one) for one in pool.map(lambda _: shipped(), range(32))}
        assert len(found) == 1

    def test_names_are_no_primitives(self) -> None:
        assert not set(shipped()) & set(PRIMITIVES)
        assert "longformer" in shipped() and not any(name.startswith("_") for name in shipped())

    def test_two_files_with_one_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.attn").write_text("pattern p = full\n")
        (tmp_path / "b.attn").write_text("pattern p = causal\n")
        monkeypatch.setattr(library_module, "_shipped", None)
        monkeypatch.setattr(library_module, "shipped_folder", lambda: tmp_path)
        with pytest.raises(errors.DuplicateNameError) as caught:
            parse("p")
        assert str(caught.value) == drawn("""
            error: 'p' is defined twice
             --> specs/b.attn:1:9
              | pattern p = causal
              |         ^
            first defined here:
             --> specs/a.attn:1:9
              | pattern p = full
              |         ^
        """)

    def test_a_suggestion(self) -> None:
        with pytest.raises(errors.UnknownPatternError) as caught:
            parse("longfromer(w=2)")
        assert caught.value.hint == "did you mean 'longformer'?"

    def test_a_private_name(self, files: Files) -> None:
        library = files(my="pattern a = _b pattern _b = full")
        with pytest.raises(errors.UnknownPatternError) as caught:
            parse("_b", library=library)
        assert caught.value.hint == "'_b' is private to my.attn"

    def test_folder(self) -> None:
        assert shipped_folder() == Path(attncomp.__file__).resolve().parents[1] / "specs"


class TestCompile:
    def test_load_and_compile(self, files: Files) -> None:
        files(my=MY, near=NEAR, sub__deep=DEEP)
        library = attncomp.load("my.attn")
        pattern = library.compile("mine(n=3)", backend="torch")
        assert str(pattern) == "window(6) | first(2) | window(4)"
        assert pattern is attncomp.compile("mine(n=3)", library=library, backend="torch")
        assert pattern == attncomp.compile(str(pattern), backend="torch")
        assert pickle.loads(pickle.dumps(pattern)) == pattern
        assert repr(library) == "<attncomp.Library 'my.attn': mine, tiny>"

    def test_equal_texts_of_two_libraries(self, files: Files) -> None:
        files(my="pattern a = window(2)", other="pattern a = window(3)")
        one, two = attncomp.load("my.attn"), attncomp.load(Path("other.attn"))
        assert [str(lib.compile("a")) for lib in (one, two)] == ["window(2)", "window(3)"]
        with pytest.raises(errors.UnknownPatternError):
            attncomp.compile("a")

    def test_the_second_call_takes_microseconds(self) -> None:
        attncomp.compile("longformer(w=2 * 8)")
        start = time.perf_counter()
        for _ in range(1000):
            attncomp.compile("longformer(w=2 * 8)")
        assert time.perf_counter() - start < 0.5

    def test_what_is_no_library(self) -> None:
        with pytest.raises(errors.OptionError) as caught:
            attncomp.compile("full", library="my.attn")  # type: ignore[arg-type]
        assert str(caught.value) == (
            "library: expected what attncomp.load returns, found 'my.attn'"
        )
