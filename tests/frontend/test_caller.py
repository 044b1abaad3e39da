"""Spans of patterns written in Python: where they point, what they cost, how long they last."""

from __future__ import annotations

import linecache
import pickle
import subprocess
import sys
import textwrap
import timeit
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import attncomp
from attncomp import errors
from attncomp import patterns as P
from attncomp.errors import Span
from attncomp.frontend.ast import Difference, Expr, Union
from attncomp.frontend.caller import Place, PythonSpan, caller

EXACT = sys.version_info >= (3, 11)  # code objects hold columns


def run(path: Path, text: str, **names: object) -> dict[str, object]:
    """The names that a file of this text defines."""
    path.write_text(textwrap.dedent(text), encoding="utf-8", newline="")
    return execute(str(path), path.read_text(encoding="utf-8"), **names)


def execute(file: str, text: str, **names: object) -> dict[str, object]:
    namespace: dict[str, object] = {"__name__": "some_module", "P": P, **names}
    exec(compile(text, file, "exec"), namespace)
    return namespace


def span_of(value: object) -> Span:
    assert isinstance(value, Expr) and value.span is not None
    return value.span


@pytest.mark.parametrize(
    ("text", "written", "line"),
    [
        ("p = P.window( 3 )  # why\n", "P.window( 3 )", 1),
        ("\n\np = P.window(1); q = P.full()\n", "P.window(1)", 3),
        ("p = P.full() | P.window(1) & P.causal()", "P.full() | P.window(1) & P.causal()", 1),
        ("p = ~ P.full()\n", "~ P.full()", 1),
        ("p = (P.full()) - (P.causal())\n", "(P.full()) - (P.causal())", 1),
        ("p = [P.first(n) for n in (1, 2)][1]\n", "P.first(n)", 1),
        ("p = next(P.first(n) | P.full() for n in (1,))\n", "P.first(n) | P.full()", 1),
        ("f = lambda n: (0, P.window(n))[1]\np = f(3)\n", "P.window(n)", 1),
        ("def f(n):\n\n  return P.window(\n    n,\n  )\np = f(3)\n", "P.window(\n    n,\n  )", 3),
        (
            "p = P.full()\np = max(map(p.__or__, [p]), key=id)\n",
            "max(map(p.__or__, [p]), key=id)",
            2,
        ),
        ("x = '\u65e5\u672c \U0001f600'; p = P.first(1)\n", "P.first(1)", 1),
        ("if True:\r\n\tp = P.first(1)\r\n", "P.first(1)", 2),
        ("\ufeffp = P.first(1)\n", "P.first(1)", 1),
        ("# -*- coding: latin-1 -*-\nx = '\u00e9'; p = P.first(1)\n", "P.first(1)", 2),
    ],
)
def test_texts(tmp_path: Path, text: str, written: str, line: int) -> None:
    path = tmp_path / "some module.py"
    path.write_bytes(text.encode("latin-1" if "latin-1" in text else "utf-8"))
    namespace: dict[str, object] = {"P": P}
    exec(compile(path.read_bytes(), str(path), "exec"), namespace)
    span = span_of(namespace["p"])
    if not EXACT:
        written = text.splitlines()[line - 1].strip("\ufeff \t")
    assert (span.text, span.line, span.source.name) == (written, line, str(path))
    assert span.source.text[span.start : span.end] == written


def test_operators_over_lines(tmp_path: Path) -> None:
    pattern = run(
        tmp_path / "a.py",
        """
        pattern = (
            P.sparsek(k=8)  # the far past
            | P.window(4)
            | P.first(2) - P.causal()
        )
        """,
    )["pattern"]
    assert isinstance(pattern, Union)
    assert [span_of(member).line for member in pattern.members] == [3, 4, 5]
    difference = pattern.members[2]
    assert isinstance(difference, Difference)
    if EXACT:
        assert [span_of(part).text for part in (difference, difference.left, difference.right)] == [
            "P.first(2) - P.causal()",
            "P.first(2)",
            "P.causal()",
        ]
        assert span_of(pattern).text.splitlines()[0] == "P.sparsek(k=8)  # the far past"
        assert span_of(pattern).text.endswith("P.first(2) - P.causal()")


def test_two_calls_of_a_function_have_one_place(tmp_path: Path) -> None:
    text = "def f(n):\n    return P.window(n)\np, q = f(1), f(2)\n"
    names = run(tmp_path / "a.py", text)
    assert span_of(names["p"]) == span_of(names["q"])
    assert hash(span_of(names["p"])) == hash(span_of(names["q"]))
    assert span_of(names["p"]) != span_of(run(tmp_path / "b.py", text)["p"])


def test_frames_of_the_package_are_skipped(tmp_path: Path) -> None:
    text = "def make(): return P.full()\n"
    make = run(tmp_path / "a.py", text, __name__="attncomp.somewhere")["make"]
    other = run(tmp_path / "b.py", text, __name__="attncompiler")["make"]
    assert callable(make) and callable(other)
    assert span_of(make()).source.name == __file__
    assert span_of(other()).source.name == str(tmp_path / "b.py")


@pytest.fixture
def cell() -> Iterator[str]:
    """The name of a notebook's cell that linecache knows."""
    name, text = "<ipython-input-7-0123456789ab>", "p = 0\np = P.window('3')\n"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    yield name
    del linecache.cache[name]


def test_notebooks(cell: str) -> None:
    with pytest.raises(errors.ArgumentTypeError) as caught:
        execute(cell, "".join(linecache.getlines(cell)))
    column, carets = (5, "    " + "^" * 13) if EXACT else (1, "^" * 17)
    assert str(caught.value).splitlines() == [
        "error: argument 'size' of window must be an integer, found \"3\"",
        f" --> {cell}:2:{column}",
        "  | p = P.window('3')",
        f"  | {carets} did you mean '3', without quotes?",
    ]


@pytest.mark.parametrize("file", ["<string>", "<stdin>", "<frozen importlib>", "/no/such/file.py"])
def test_no_source(file: str) -> None:
    names = execute(file, "p = P.full()\nq = p | P.causal()\n")
    for name in ("p", "q"):
        pattern = names[name]
        assert isinstance(pattern, Expr) and pattern.span is None
    with pytest.raises(errors.ArgumentRangeError) as caught:
        execute(file, "P.window(0)")
    assert str(caught.value) == "error: argument 'size' of window must be at least 1, found 0"


def test_modules_in_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "modules.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped_patterns.py", "from attncomp import patterns\np = patterns.full()\n")
    monkeypatch.syspath_prepend(str(archive))
    module = __import__("zipped_patterns")
    monkeypatch.delitem(sys.modules, "zipped_patterns")
    assert span_of(module.p).text == ("patterns.full()" if EXACT else "p = patterns.full()")


def test_files_are_read_when_an_error_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> list[str]:
        raise AssertionError(f"reads {arguments}")

    with monkeypatch.context() as patch:
        patch.setattr(linecache, "getlines", refuse)
        p = run(tmp_path / "a.py", "p = P.full() | ~P.window(3)\n")["p"]
        assert isinstance(p, Expr)
        assert hash(p) == hash(pickle.loads(pickle.dumps(p))) and str(p) == "full | ~window(3)"
    column, carets = (5, "    " + "^" * 23) if EXACT else (1, "^" * 27)
    place = f"{tmp_path / 'a.py'}:1:{column}"
    assert span_of(p).render() == f" --> {place}\n  | p = P.full() | ~P.window(3)\n  | {carets}"


def test_a_file_that_has_changed_or_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    text = "\n\np = P.window(\n    3)\n"
    gone, shorter = run(path, text)["p"], run(path, text)["p"]
    narrower, other = run(path, text)["p"], run(path, text)["p"]
    path.write_text("# one\n# two\np = 1\nq\n")
    assert span_of(narrower).text == ("1\nq" if EXACT else "p = 1")
    path.write_text("# another length\np\n")
    assert span_of(shorter).source.text == "# another length\np\n"
    assert span_of(shorter).render() == f" --> {path}:3:1\n  |\n  | ^"
    path.unlink()
    assert span_of(gone).render() == f" --> {path}:3:1\n  |\n  | ^"
    assert span_of(narrower).text == ("1\nq" if EXACT else "p = 1")  # as first read
    assert "window(3)" in attncomp.compile(str(other)).source
    assert isinstance(other, Expr)
    assert f"{path}:3:1-1" in attncomp.compile(other).source


def test_spans_travel(tmp_path: Path) -> None:
    p = run(tmp_path / "a.py", "p = P.full() | P.causal()\n")["p"]
    assert isinstance(p, Union)
    copy = pickle.loads(pickle.dumps(p))
    assert copy == p and copy.extent == p.extent
    for node, other in zip((p, *p.members), (copy, *copy.members), strict=True):
        span, copied = span_of(node), span_of(other)
        assert span == copied and hash(span) == hash(copied) and span.render() == copied.render()
    assert repr(span_of(p)) == f"PythonSpan({span_of(p).place})"  # type: ignore[attr-defined]
    with pytest.raises(errors.ArgumentRangeError) as caught:
        run(tmp_path / "b.py", "P.window(0)")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place("{}", 2, 2, None, None), "two = 2  # \u00e9"),
        (Place("{}", 2, 3, 8, 5), "2  # \u00e9 \nthree"),
        (Place("{}", 3, 3, 2, 99), "ree"),
        (Place("{}", 3, 3, 99, 2), ""),
        (Place("{}", 4, 4, 0, 1), ""),
        (Place("{}", 2, 2, 13, 15), "\u00e9"),
    ],
)
def test_places(tmp_path: Path, place: Place, text: str) -> None:
    path = tmp_path / "a.py"
    path.write_text("one\n  two = 2  # \u00e9 \nthree", encoding="utf-8")
    span = PythonSpan(place._replace(file=str(path)))
    assert (span.text, span.line) == (text, place.line)


def test_without_columns_the_line_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("from attncomp import patterns as P\n\nif True:\n    P.first(0)  # why\n")
    found = subprocess.run(
        [sys.executable, "-X", "no_debug_ranges", str(path)],
        capture_output=True,
        text=True,
        cwd=Path(attncomp.__file__).parent.parent,
        env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"},
    )
    assert found.stderr.splitlines()[-3:] == [
        f" --> {path}:4:5",
        "  |     P.first(0)  # why",
        "  |     " + "^" * 17,
    ]


def test_recording_is_cheap() -> None:
    assert min(timeit.repeat(caller, number=1000, repeat=5)) < 1000 * 20e-6
