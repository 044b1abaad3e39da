"""Canonical integer expressions against Python's own arithmetic, and tests made of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import conditions, integers

from attncomp.errors import DivisorError, PredicateRangeError
from attncomp.frontend import ast
from attncomp.frontend.parser import parse
from attncomp.frontend.predicate import (
    Arithmetic,
    Compare,
    Condition,
    Integer,
    Number,
    Variable,
    condition_text,
    integer_text,
)
from attncomp.ir.affine import constant
from attncomp.ir.conditions import add_condition, affine
from attncomp.ir.graph import Graph
from attncomp.ir.ops import Box, Requirement, Where
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.passes.reach import Reach, key_reach, query_reach
from attncomp.ir.printer import formula

NAMES = {"q": -7, "k": 11, "h": 3, "b": 2, "n": 12}
indices = st.fixed_dictionaries({name: st.integers(-50, 50) for name in NAMES})


@given(integer=integers(), names=indices)
def test_canonical_form_keeps_the_value(integer: Integer, names: dict[str, int]) -> None:
    expected = eval(integer_text(integer), {}, names)
    value = affine(integer)
    assert eval(str(value), {}, names) == expected
    assert abs(expected) <= value.reach or value.reach >= 1 << 30
    moved = value.replace({"q": "first"})
    assert eval(str(moved), {}, {**names, "first": names["q"], "q": None}) == expected
    assert affine(Arithmetic("-", integer, integer)) == constant(0)


@given(integer=integers(("q", "k", "h")))
def test_reach_bounds_the_value(integer: Integer) -> None:
    value = affine(integer)
    ends = (-(1 << 30), 0, 1 << 30)
    for q, k, h in itertools.product(ends, (0, 1 << 30), (0, 1 << 16)):
        assert abs(eval(str(value), {}, {"q": q, "k": k, "h": h})) <= value.magnitude <= value.reach


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(4 * q + 6) // 2", "2 * q + 3"),
        ("(q + 128) // 64", "q // 64 + 2"),
        ("(64 * k + q) // 64", "k + q // 64"),
        ("(q - k + 12) % 4", "(q - k) % 4"),
        ("(5 * q) % 4", "q % 4"),
        ("q // 64 * 64 + q % 64", "q % 64 + q // 64 * 64"),
        ("3 - q // 2", "-(q // 2) + 3"),
        ("q // -3", "(-q) // 3"),
        ("(h + 1) * (k - h)", "(h + 1) * (k - h)"),
        ("3 - 2 * q // 2", "-q + 3"),
    ],
)
def test_canonical_text(text: str, expected: str) -> None:
    compare = condition_of(f"{text} == 0")
    assert isinstance(compare, Compare)
    assert str(affine(compare.left)) == expected


def graph_of(condition: Condition) -> Graph:
    graph = Graph()
    return graph.set_root(add_condition(graph, condition, None))


@given(condition=conditions(), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_predicates_mean_what_python_says(condition: Condition, size: tuple[int, int]) -> None:
    n_queries, n_keys = size
    gate = gate_matrix(graph_of(condition), n_queries, n_keys, {}, heads=3, batch=2)
    gate = gate.expand(2, 3, -1, -1)
    text = condition_text(condition)
    for b, h, i, k in itertools.product(range(2), range(3), range(n_queries), range(n_keys)):
        names = {"q": i + n_keys - n_queries, "k": k, "h": h, "b": b, "n": n_keys}
        assert gate[b, h, i, k] == eval(text, {}, names), (text, names)


@pytest.mark.parametrize(
    ("left", "relation", "right", "expected"),
    [
        ("q - k", "<", "8", "~{q - k >= 8}"),
        ("k", "<=", "q", "causal"),
        ("q", "==", "k", "window(1)"),
        ("2 * k", ">=", "9", "{k >= 5}"),
        ("2 * k", "==", "9", "{none}"),
        ("q % 4", "==", "4", "{none}"),
        ("3", "<", "5", "~{none}"),
        ("q // 64", "==", "k // 64", "where(q // 64 == k // 64)"),
        ("k // 64", "==", "q // 64", "where(q // 64 == k // 64)"),
        ("k // 64", "<=", "q // 64", "where(q // 64 >= k // 64)"),
        ("k // 64", ">", "q // 64", "~where(q // 64 >= k // 64)"),
        ("(q - k) % 4", "==", "0", "where((q - k) % 4 == 0)"),
        ("n - k", ">", "8", "~where(k + 8 >= n)"),
    ],
)
def test_comparisons_become_boxes_where_they_can(
    left: str, relation: str, right: str, expected: str
) -> None:
    found = formula(graph_of(condition_of(f"{left} {relation} {right}")))
    full = expected == "~{none}"
    assert found == ("full" if full else expected)


def condition_of(text: str) -> Condition:
    tree = parse(f"where({text})")
    assert isinstance(tree, ast.Where)
    return tree.condition


def test_impossible_arithmetic_is_an_error() -> None:
    for divisor, found in ((Number(0), "0"), (Variable("h"), "h")):
        with pytest.raises(DivisorError) as caught:
            affine(Arithmetic("//", Variable("q"), divisor))
        assert caught.value.message == f"a divisor must be a constant other than 0, found {found}"
    square = Arithmetic("*", Variable("q"), Variable("k"))
    with pytest.raises(PredicateRangeError) as too_large:
        affine(Arithmetic("*", square, Number(8)))
    assert too_large.value.message == "the numbers here may grow beyond 64 bits"


@given(
    condition=conditions(("q", "k", "n")),
    holds=st.booleans(),
    n_keys=st.integers(1, 30),
    tile=st.tuples(st.integers(-20, 30), st.integers(0, 12)),
)
def test_reach_is_what_a_tile_may_and_must_attend(
    condition: Condition, holds: bool, n_keys: int, tile: tuple[int, int]
) -> None:
    graph = graph_of(condition)
    first, last = tile[0], tile[0] + tile[1]
    for op in map(graph.op, graph.walk()):
        if not isinstance(op, Where):
            continue
        required = Requirement(op, holds)

        def meets(q: int, k: int, required: Requirement = required) -> bool:
            return bool(eval(str(required), {}, {"q": q, "k": k, "n": n_keys}))

        around, members = range(-60, 60), range(first, last + 1)
        names = {"first": first, "last": last, "n_keys": n_keys}
        for reach, pair in (
            (key_reach(required), lambda tile_member, other: meets(tile_member, other)),
            (query_reach(required), lambda tile_member, other: meets(other, tile_member)),
        ):
            if reach is None:
                continue
            some = {x for x in around if any(pair(m, x) for m in members)}
            every = {x for x in around if all(pair(m, x) for m in members)}
            assert some <= span(reach, "any", names)
            assert every >= span(reach, "all", names) & set(around)


def span(reach: Reach, which: str, names: dict[str, int]) -> set[int]:
    bounds = getattr(reach, which)
    lower = [eval(str(end), {}, names) for end in bounds.lower]
    upper = [eval(str(end), {}, names) for end in bounds.upper]
    return set(range(max([*lower, -100]), min([*upper, 100])))


@pytest.mark.parametrize(
    ("left", "relation", "right", "keys"),
    [
        ("q // 64", "==", "k // 64", "[first // 64 * 64, last // 64 * 64 + 64)"),
        ("q // 4", ">=", "k // 4", "[, last // 4 * 4 + 4)"),
        ("q", ">=", "2 * k", "[, last // 2 + 1)"),
        ("q - 8", "<", "3 * k", "[(first + 1) // 3 - 2, )"),
        ("(k + 5) // 7", "==", "q // 7", "[first // 7 * 7 - 5, last // 7 * 7 + 2)"),
        ("k", ">=", "n - 8", "[n_keys - 8, )"),
    ],
)
def test_reach_of_what_people_write(left: str, relation: str, right: str, keys: str) -> None:
    graph = graph_of(condition_of(f"{left} {relation} {right}"))
    op = graph.op(graph.root)
    holds = isinstance(op, Where)
    test = op if holds else graph.op(0)
    assert isinstance(test, Where) and not isinstance(test, Box)
    reach = key_reach(Requirement(test, holds))
    assert reach is not None and str(reach.any) == keys
