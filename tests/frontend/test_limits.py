"""No tree is too large for later stages, wherever it comes from; those that are not can be read."""

from __future__ import annotations

import functools
import operator
import pickle
from collections.abc import Callable

import pytest
import torch

import attncomp
from attncomp import errors
from attncomp import patterns as P
from attncomp.frontend.ast import Expr, Union
from attncomp.frontend.catalog import Parameter
from attncomp.frontend.limits import MAX_CHARACTERS, MAX_NESTING, MAX_NODES
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import PRIMITIVES


@pytest.mark.parametrize("deeper", [lambda p: ~p, lambda p: p - P.full(), lambda p: P.full() - p])
def test_nesting(deeper: Callable[[Expr], Expr]) -> None:
    deepest = functools.reduce(lambda p, _: deeper(p), range(MAX_NESTING), P.causal())
    assert parse(str(deepest)) == deepest
    assert hash(pickle.loads(pickle.dumps(deepest))) == hash(deepest)
    assert str(attncomp.compile(deepest)) == str(deepest)
    with pytest.raises(errors.NestingError) as caught:
        deeper(deepest)
    assert caught.value.message == f"pattern is nested deeper than {MAX_NESTING} levels"
    assert caught.value.span is not None and caught.value.span.source.name == __file__


def test_nesting_of_alternating_operators() -> None:
    pattern: Expr = P.causal()
    for _ in range(MAX_NESTING // 2):
        pattern = (P.full() | pattern) & P.causal()
    assert parse(str(pattern)) == pattern
    with pytest.raises(errors.NestingError):
        P.full() | pattern


def test_merged_operators_are_no_nesting() -> None:
    pattern: Expr = P.causal()
    for size in range(1, 10 * MAX_NESTING):
        pattern = P.window(size) | pattern if size % 2 else pattern | P.window(size)
    assert parse(str(pattern)) == pattern
    with pytest.raises(errors.NestingError):
        functools.reduce(lambda p, _: ~p, range(MAX_NESTING), pattern)


def test_nodes() -> None:
    largest = functools.reduce(operator.or_, map(P.window, range(1, MAX_NODES)))
    assert parse(str(largest)) == largest
    message = "pattern is larger than 4096 operators and primitives"
    for build in (lambda: largest | P.full(), lambda: ~largest, lambda: P.full() - largest):
        with pytest.raises(errors.PatternTooLargeError) as caught:
            build()
        assert caught.value.message == message
    with pytest.raises(errors.PatternTooLargeError):
        pair = P.full() & P.causal()
        functools.reduce(operator.or_, [pair] * 1366)
    assert isinstance(functools.reduce(operator.or_, [pair] * 1365), Union)


def test_the_text_of_the_largest_tree_can_be_read() -> None:
    """Run-time stages start from canonical texts."""

    def width(parameter: Parameter) -> int:
        values = parameter.choices or (parameter.minimum, parameter.maximum, 1e-300, False)
        return len(f"{parameter.name}=, ") + max(len(repr(value)) for value in values)

    longest = max(
        len(f"{row.name}()") + sum(map(width, row.parameters)) for row in PRIMITIVES.values()
    )
    assert MAX_NODES * (longest + len("~(") + len(") | ")) <= MAX_CHARACTERS
    same = functools.reduce(operator.or_, [P.sparsek(2**30, 2**30, "straight_through")] * 4095)
    attend = attncomp.compile(same)
    q = torch.randn(1, 1, 8, 16)
    assert attend(q, q, q, scores=torch.randn(1, 1, 8)).eq(0).all()  # nobody is that far away
