"""Every pass keeps the meaning of a pattern, and make-disjoint forgets how it was spelled."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch
from dense import Shape, mask_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SCORE_KINDS, patterns, score_tensor
from torch import Tensor

from attncomp.errors import PatternTooLargeError
from attncomp.frontend.ast import (
    Call,
    Complement,
    Difference,
    Expr,
    HeadGroups,
    Intersection,
    Union,
    Where,
    to_text,
)
from attncomp.frontend.parser import parse
from attncomp.ir import ops
from attncomp.ir.build import build
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.ops import Box, Interval, Partition, Range, SparseK, Sweep
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.passes import Pass, pipeline, run
from attncomp.ir.passes.bound import bounds_of
from attncomp.ir.passes.make_disjoint import MakeDisjoint
from attncomp.ir.passes.simplify import Simplify
from attncomp.ir.printer import formula, print_graph
from attncomp.ir.schedule import Problem

PROBLEM = Problem(
    backend="triton", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
)
HEADS = 2

MODULES = (
    "attncomp.ir.printer",
    "attncomp.ir.passes.bound",
    "attncomp.ir.passes.cases",
    "attncomp.ir.passes.lattice",
    "attncomp.ir.passes.make_disjoint",
    "attncomp.ir.passes.schedule",
    "attncomp.ir.passes.share",
    "attncomp.ir.passes.simplify",
)


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0 and result.failed == 0


lengths = st.tuples(st.integers(1, 40), st.integers(1, 40))


@st.composite
def score_tensors(draw: st.DrawFn, n_keys: int) -> Tensor:
    kind = draw(st.sampled_from(SCORE_KINDS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    return score_tensor(kind, (1, HEADS, n_keys), generator)


@given(expr=patterns(max_leaves=8), size=lengths, data=st.data())
def test_passes_keep_the_gates(expr: Expr, size: tuple[int, int], data: st.DataObject) -> None:
    assert_gates_kept(expr, size, data.draw(score_tensors(size[1])))


@pytest.mark.parametrize("gate", ["key_value", "hard"])
@pytest.mark.parametrize(
    "text",
    [
        "sparsek(3, gate={0}) | sparsek(5, lag=2, gate={0}) - window(6)",
        "sparsek(4, gate={0}) | (sparsek(4, lag=8, gate={0}) - window(16))",
        "sparsek(6, lag=3, gate={0}) & window(9) | sparsek(2, lag=5, gate={0}) - window(7)",
    ],
)
def test_cells_that_straddle_a_lag(text: str, gate: str, generator: torch.Generator) -> None:
    """A walk may be shared only by cells that lie out of a selection's reach as a whole."""
    expr = parse(text.format(repr(gate)))
    for n_queries, n_keys in ((40, 40), (13, 37)):
        scores = torch.randn((1, HEADS, n_keys), dtype=torch.float64, generator=generator)
        assert_gates_kept(expr, (n_queries, n_keys), scores)


def assert_gates_kept(expr: Expr, size: tuple[int, int], scores: Tensor) -> None:
    n_queries, n_keys = size
    shape = Shape(query_heads=HEADS, n_queries=size[0], n_keys=size[1])
    tensors = {**mask_tensors(shape, torch.Generator().manual_seed(0)), "scores": scores}
    graph = build(expr)
    expected = gate_matrix(graph, n_queries, n_keys, tensors, HEADS)
    shape = (1, HEADS, n_queries, n_keys)

    def check(step: Pass, after: Graph, seconds: float) -> None:
        found = gate_matrix(after, n_queries, n_keys, tensors, HEADS)
        difference = f"{step.name} changed {to_text(expr)}\n{print_graph(after)}"
        assert torch.equal(found.expand(shape), expected.expand(shape)), difference
        assert seconds >= 0

    result = run(graph, pipeline(PROBLEM), check)
    assert isinstance(result.op(result.root), Partition)


def sweeps_of(text: str) -> list[Sweep]:
    graph = MakeDisjoint()(build(parse(text)))
    ops = [graph.op(node) for node in graph.operands(graph.root)]
    return [op for op in ops if isinstance(op, Sweep)]


def respell(draw: st.DrawFn, expr: Expr) -> Expr:
    """The same pattern, written in another way."""
    match expr:
        case Call() | Where():
            result: Expr = expr
        case Union(members=members):
            parts = [respell(draw, member) for member in draw(st.permutations(members))]
            result = Union((*parts, parts[0])) if draw(st.booleans()) else Union(tuple(parts))
        case Intersection(members=members):
            parts = [respell(draw, member) for member in draw(st.permutations(members))]
            distributed = isinstance(parts[0], Union) and draw(st.booleans())
            if distributed:
                rest = tuple(parts[1:])
                result = Union(tuple(Intersection((m, *rest)) for m in parts[0].members))
            else:
                result = Intersection(tuple(parts))
        case Difference(left=left, right=right):
            result = Intersection((respell(draw, left), Complement(respell(draw, right))))
        case Complement(operand=Union(members=members)):
            result = Intersection(tuple(Complement(respell(draw, m)) for m in members))
        case Complement(operand=operand):
            result = Complement(respell(draw, operand))
        case HeadGroups(groups=groups):
            shuffled = draw(st.permutations(groups))
            result = HeadGroups(tuple((heads, respell(draw, part)) for heads, part in shuffled))
    if draw(st.integers(0, 4)) == 0:
        extra = draw(st.sampled_from(("full", "causal")))
        return Union((result, Intersection((result, Call(extra, ())))))
    return result


def canonical(expr: Expr, *, simplify: bool) -> str:
    steps: tuple[Pass, ...] = (*([Simplify()] if simplify else []), MakeDisjoint())
    return print_graph(run(build(expr), steps), spans=False)


@given(expr=patterns(max_leaves=8), data=st.data())
def test_spellings_of_a_pattern_become_one_graph(expr: Expr, data: st.DataObject) -> None:
    other = data.draw(st.composite(respell)(expr))
    expected = canonical(expr, simplify=True)
    assert canonical(other, simplify=True) == expected, f"{to_text(expr)} and {to_text(other)}"
    assert canonical(expr, simplify=False) == expected


@given(expr=patterns(max_leaves=6, modes=("hard",), soft=True))
@settings(max_examples=50)
def test_double_complement_is_none(expr: Expr) -> None:
    twice = Complement(Complement(expr))
    assert canonical(twice, simplify=False) == canonical(expr, simplify=False)
    nothing = Difference(expr, expr)
    assert sweeps_of(to_text(nothing)) == []


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("sparsek(k=512) | window(256)", "window(256) | sparsek(k=512)"),
        ("window(8) | (first(4) | sparsek(k=4))", "(sparsek(k=4) | window(8)) | first(4)"),
        ("causal - window(8) | window(8)", "causal"),
        (
            "window(8) & (first(4) | sparsek(k=4))",
            "window(8) & first(4) | window(8) & sparsek(k=4)",
        ),
        ("~~window(8)", "window(8)"),
        ("window(256) | window(100)", "window(256)"),
        ("sparsek(k=4) & causal", "sparsek(k=4)"),
        ("sparsek(k=4, lag=8) - window(8)", "sparsek(k=4, lag=8)"),
        ("window(8) & sparsek(k=4) | sparsek(k=4)", "sparsek(k=4)"),
        ("sparsek(k=4) | sparsek(k=9)", "sparsek(k=9)"),
        ("sparsek(k=4) & sparsek(k=9)", "sparsek(k=4)"),
        (
            "(sparsek(k=4) | sparsek(k=5, lag=3)) & (sparsek(k=4) | sparsek(k=6, lag=9))",
            "sparsek(k=4) | sparsek(k=5, lag=3) & sparsek(k=6, lag=9)",
        ),
        ('causal - (causal - sparsek(k=4, gate="hard"))', 'sparsek(k=4, gate="hard")'),
        ("window(4) - full", "first(2) - causal"),
    ],
)
def test_equal_patterns(a: str, b: str) -> None:
    for simplify in (False, True):
        left, right = (canonical(parse(text), simplify=simplify) for text in (a, b))
        assert left == right


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("window(8) | sparsek(k=4) | ~window(8)", "full"),
        ("causal & window(8) & full", "window(8)"),
        ("window(4) & first(3) & ~causal", "{none}"),
        ("(window(8) | first(2)) & (first(2) | window(8))", "window(8) | first(2)"),
        ("~(window(8) | ~causal)", "{q - k >= 8}"),
        ("~first(4)", "{q - k < 0} | {q - k >= 0, k >= 4}"),
        ("~(full & ~full)", "full"),
        ("sparsek(k=4) & first(3) | sparsek(k=4) & first(3)", "sparsek(k=4) & first(3)"),
    ],
)
def test_simplify(text: str, expected: str) -> None:
    assert formula(Simplify()(build(parse(text)))) == expected


def test_lag_equal_to_the_window_leaves_one_box() -> None:
    contiguous, gathered = sweeps_of("sparsek(k=512, lag=256) | window(256)")
    assert contiguous.boxes == (Box(distance=Interval(0, 256)),)
    assert gathered.boxes == (Box(distance=Interval(256, None)),)


def test_sinks_and_window_are_disjoint() -> None:
    window, sinks = sweeps_of("first(4) | window(256)")
    assert window.boxes == (Box(distance=Interval(0, 256)),)
    assert sinks.boxes == (Box(distance=Interval(256, None), keys=Interval(0, 4)),)


def test_hard_complement_needs_no_walk() -> None:
    graph = MakeDisjoint()(build(parse('causal - sparsek(k=4, gate="hard")')))
    (sweep,) = graph.operands(graph.root)
    gate, absent = graph.operands(sweep)
    assert graph.op(gate) == Box()
    assert graph.op(absent) == SparseK(k=4, gate="hard")
    assert graph.op(sweep) == Sweep(boxes=(Box(distance=Interval(0, None)),), gathered=False)


def test_a_walk_is_shared_with_cells_that_a_lag_keeps_out() -> None:
    both, lagging = sweeps_of("sparsek(k=4) | sparsek(k=4, lag=8)")
    assert both.boxes == lagging.boxes == (Box(distance=Interval(0, None)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            " | ".join(f"sparsek(k=4, lag={lag})" for lag in range(13)),
            "pattern is larger than 4096 combinations of selections and tests",
        ),
        (
            " | ".join(f"window({n}) & first({n})" for n in range(1, 300)),
            "pattern is larger than 16384 cells",
        ),
        (
            " | ".join(f"window({2 * n + 1}) - window({2 * n})" for n in range(1, 130)),
            "pattern is larger than 128 disjoint pieces",
        ),
    ],
)
def test_too_large(text: str, message: str) -> None:
    with pytest.raises(PatternTooLargeError) as caught:
        MakeDisjoint()(build(parse(text)))
    assert caught.value.message == message


limits = st.one_of(st.none(), st.integers(-30, 30))


def span_of(bound: Range, names: dict[str, int]) -> range:
    """The positions of a range, as far as they are near 0."""
    lower, upper = (
        [eval(str(end), {}, names) for end in ends] for ends in (bound.lower, bound.upper)
    )
    return range(max(lower, default=-200), min(upper, default=200))


@given(
    distance=st.tuples(limits, limits),
    keys=st.tuples(limits, limits),
    n_keys=st.integers(1, 40),
    tile=st.tuples(st.integers(-20, 40), st.integers(0, 20)),
)
def test_bounds_are_the_hull_and_the_core_of_a_tile(
    distance: tuple[int | None, int | None],
    keys: tuple[int | None, int | None],
    n_keys: int,
    tile: tuple[int, int],
) -> None:
    box = Box(distance=Interval(*distance), keys=Interval(*keys))
    if box.empty:
        return
    bounds = bounds_of(box)
    first, last = tile[0], tile[0] + tile[1]

    def inside(query: int, key: int) -> bool:
        return query - key in box.distance and key in box.keys

    def span(bound: Range | None) -> range:
        assert bound is not None
        return span_of(bound, {"first": first, "last": last, "n_keys": n_keys})

    queries = range(first, last + 1)
    some = [k for k in range(n_keys) if any(inside(q, k) for q in queries)]
    every = [k for k in range(n_keys) if all(inside(q, k) for q in queries)]
    assert list(span(bounds.full_keys)) == every
    assert set(some) <= set(span(bounds.keys)) <= set(range(n_keys))
    assert not some or list(span(bounds.keys)) == some

    tile_keys = [k for k in range(max(first, 0), last + 1) if k in box.keys]
    if first >= 0 and len(tile_keys) == len(queries):
        around = range(-100, 100)
        some = [q for q in around if any(inside(q, k) for k in tile_keys)]
        every = [q for q in around if all(inside(q, k) for k in tile_keys)]
        assert [q for q in span(bounds.queries) if q in around] == some
        assert [q for q in span(bounds.full_queries) if q in around] == every


def test_many_tests_of_one_pattern() -> None:
    """Conditions stay short, and a pattern whose conditions cannot is refused at once."""
    anyone = " or ".join(f"h == {head}" for head in range(12))
    (sweep,) = sweeps_of(f"where({anyone})")
    assert sorted(len(alternative) for alternative in sweep.condition) == [1] * 12
    (sweep,) = sweeps_of("where((h == 1 or h == 2) and (b == 1 or b == 2))")
    assert sorted(map(len, sweep.condition)) == [2] * 4
    graph = build(parse("where(h == 0)"))
    for head in range(1, 9):
        other = graph.add(build(parse(f"where(h == {head})")).op(0))
        root = graph.root
        both = [graph.add(ops.Intersection(), p) for p in exclusive(graph, root, other)]
        graph.set_root(graph.add(ops.Union(), both))
    with pytest.raises(PatternTooLargeError) as caught:
        MakeDisjoint()(graph)
    assert caught.value.message == "pattern is larger than 128 outcomes of tests"


def exclusive(graph: Graph, a: NodeId, b: NodeId) -> list[list[NodeId]]:
    """Operands of `a & ~b` and `b & ~a`."""
    return [[a, graph.add(ops.Complement(), [b])], [b, graph.add(ops.Complement(), [a])]]
