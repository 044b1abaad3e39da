"""Definitions and imports that would grow without bound: each is refused, and quickly."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from spec_support import library_of, text_of

from attncomp import errors
from attncomp.frontend.library import Library
from attncomp.frontend.limits import MAX_NESTING, MAX_NODES
from attncomp.frontend.parser import parse

Files = Callable[..., Library]


def test_doubling() -> None:
    rows = [f"pattern p{i + 1} = p{i} | p{i}" for i in range(60)]
    library = library_of("pattern p0 = full\n" + "\n".join(rows))
    start = time.perf_counter()
    with pytest.raises(errors.PatternTooLargeError):
        parse("p25", library=library)
    with pytest.raises(errors.NestingError) as caught:
        parse("p60", library=library)
    assert f"\n({len(caught.value.notes) - 8} more)\n" in str(caught.value)
    assert str(caught.value).count("called here") == 8
    assert time.perf_counter() - start < 2
    assert text_of("p10", library) == " | ".join(["full"] * 1024)


def test_a_long_chain() -> None:
    rows = [f"pattern p{i + 1} = p{i}" for i in range(5000)]
    library = library_of("pattern p0 = full\n" + "\n".join(rows))
    assert text_of(f"p{MAX_NESTING - 1}", library) == "full"
    with pytest.raises(errors.NestingError) as caught:
        parse("p5000", library=library)
    assert len(caught.value.notes) <= MAX_NESTING + 1


def test_deep_operators_in_definitions() -> None:
    deep = "~" * 40 + "a"
    library = library_of(f"pattern a = {deep[:-1]}full\npattern b = {deep}")
    with pytest.raises(errors.NestingError):
        parse("b", library=library)


def test_much_arithmetic_many_times() -> None:
    sums = "n" + " + n" * 2000
    library = library_of(
        f"pattern a(n: int) = window({sums}) pattern b = {' | '.join(['a(1)'] * 4000)}"
    )
    with pytest.raises(errors.PatternTooLargeError):
        parse("b", library=library)


def test_a_long_chain_of_files(files: Files) -> None:
    texts = {f"f{i}": f"from .f{i + 1} import p\npattern q = p" for i in range(200)}
    with pytest.raises(errors.NestingError):
        files(**{**texts, "f200": "pattern p = full"})


@pytest.mark.parametrize("module", ["." * 9999 + "a", "a" * 9999, ".a" * 9999])
def test_paths_that_no_system_takes(module: str) -> None:
    with pytest.raises((errors.NestingError, errors.UnknownModuleError)) as caught:
        library_of(f"from {module} import b pattern c = b")
    assert len(str(caught.value)) < 1000


def test_many_paths_to_one_file(files: Files) -> None:
    texts = {
        f"f{i}": f"from .f{i + 1} import a, b\npattern a = _c pattern b = a pattern _c = full"
        for i in range(30)
    }
    with pytest.raises(errors.DuplicateNameError):
        files(**texts)


def test_a_large_file_loads_quickly() -> None:
    rows = [f"pattern p{i}(n: int = {i} + 1) = window(n) | first(n * 2)" for i in range(1500)]
    start = time.perf_counter()
    library_of("\n".join(rows))
    assert time.perf_counter() - start < 20


def test_limits_hold_for_the_whole() -> None:
    wide = "full" + " | full" * (MAX_NODES // 2)
    library = library_of(f"pattern a = {wide}")
    parse("a", library=library)
    with pytest.raises(errors.PatternTooLargeError) as caught:
        parse("a & a", library=library)
    assert caught.value.message == "pattern is larger than 4096 operators and primitives"
