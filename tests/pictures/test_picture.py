"""What pictures show: gates and owners as the oracle has them, tiles as the kernels visit them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from dense import Shape
from hypothesis import given
from hypothesis import strategies as st
from strategies import SCORE_KINDS, patterns, score_tensor
from torch import Tensor
from torch_modules import PATTERNS, make_plan, module_of

import attncomp
from attncomp.errors import CallError
from attncomp.frontend.ast import Expr
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.passes import pipeline, run
from attncomp.ir.schedule import Problem
from attncomp.pictures.picture import KeyList, Picture, Tile
from attncomp.pictures.request import pictured

PROBLEM = Problem(
    backend="torch", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
)


def picture_of(
    spec: str,
    n_queries: int | None,
    n_keys: int | None = None,
    tensors: dict[str, Tensor] | None = None,
    **options: Any,
) -> Picture:
    expr = parse(spec)
    needed = attncomp.compile(expr).tensors
    return pictured(expr, needed, n_queries, n_keys, tensors, **options)


def owners(expr: Expr, n_queries: int, n_keys: int, tensors: dict[str, Tensor]) -> Tensor:
    """The sweep that gives each pair its gate, -1 where there is none, by the oracle."""
    graph = run(build(expr), pipeline(PROBLEM))
    owner = torch.full((n_queries, n_keys), -1)
    for index, node in enumerate(graph.operands(graph.root)):
        gate = gate_matrix(graph.set_root(node), n_queries, n_keys, tensors)[0, 0]
        assert ((gate == 0) | (owner < 0)).all()
        owner[gate != 0] = index
    return owner


def test_a_crisp_pattern() -> None:
    found = picture_of("window(2) | first(1)", 6, tile=2)
    assert found.titles == ("window: 0 <= q - k < 2", "band: q - k >= 2, k < 1")
    assert found.sweep.tolist() == [
        [0, -1, -1, -1, -1, -1],
        [0, 0, -1, -1, -1, -1],
        [1, 0, 0, -1, -1, -1],
        [1, -1, 0, 0, -1, -1],
        [1, -1, -1, 0, 0, -1],
        [1, -1, -1, -1, 0, 0],
    ]
    assert torch.equal(found.gate, (found.sweep >= 0).double())
    one, two, three = range(0, 2), range(2, 4), range(4, 6)
    assert found.tiles == (
        Tile(0, one, range(0, 2), full=False),
        Tile(0, two, range(1, 3), full=False),
        Tile(0, two, range(3, 4), full=False),
        Tile(1, two, range(0, 1), full=True),
        Tile(0, three, range(3, 5), full=False),
        Tile(0, three, range(5, 6), full=False),
        Tile(1, three, range(0, 1), full=True),
    )
    assert found.lists == ()
    assert found.visitor().tolist()[2:4] == [[1, 0, 0, 0, -1, -1]] * 2
    assert found.caption == ("gate of window(2) | first(1): 6 queries (down) by 6 keys (right)")


def test_a_selection() -> None:
    scores = torch.tensor([[[3.0, 0.0, 0.5, 0.75, -2.0, -2.0]]], dtype=torch.float64)
    found = picture_of("sparsek(k=2) | window(1)", 6, None, {"scores": scores}, tile=(3, 2))
    assert found.tile == (3, 2)
    assert found.lists == (
        KeyList(1, range(0, 3), (0, 1, 2)),
        KeyList(1, range(3, 6), (0, 3)),
    )
    assert found.sweep.tolist() == [
        [0, -1, -1, -1, -1, -1],
        [1, 0, -1, -1, -1, -1],
        [1, -1, 0, -1, -1, -1],
        [1, -1, -1, 0, -1, -1],
        [1, -1, -1, 1, 0, -1],
        [1, -1, -1, 1, -1, 0],
    ]
    assert found.gate[4].tolist() == [1, 0, 0, 0.625, 1, 0]
    assert found.visitor()[3].tolist() == [1, -1, -1, 0, 0, 0]


@given(
    expr=patterns(),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    tile=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kind=st.sampled_from(SCORE_KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_owners_and_visits(
    expr: Expr, size: tuple[int, int], tile: tuple[int, int], kind: str, seed: int
) -> None:
    scores = score_tensor(kind, (1, 1, size[1]), torch.Generator().manual_seed(seed))
    needed = attncomp.compile(expr).tensors
    tensors = dict.fromkeys(needed, scores)
    found = pictured(expr, needed, *size, tensors, tile=tile)
    assert torch.equal(found.gate, gate_matrix(build(expr), *size, tensors)[0, 0])
    assert torch.equal(found.sweep, owners(expr, *size, tensors))
    assert torch.equal(found.sweep >= 0, found.gate != 0)
    # Each sweep visits what it owns, and in full tiles nothing else.
    for index in range(len(found.titles)):
        visited = torch.zeros(size, dtype=torch.int64)
        for step in found.tiles:
            pairs = (slice(r.start, r.stop) for r in (step.queries, step.keys))
            if step.sweep == index:
                rows, keys = pairs
                visited[rows, keys] += 1
                assert len(step.queries) <= tile[0] and 1 <= len(step.keys) <= tile[1]
                assert not step.full or bool((found.sweep[rows, keys] == index).all())
        for walk in found.lists:
            if walk.sweep == index:
                visited[walk.queries.start : walk.queries.stop, list(walk.keys)] += 1
        assert visited.max() <= 1
        assert (visited[found.sweep == index] == 1).all()


@pytest.mark.parametrize("pattern", [text.format(mode="key_value") for text in PATTERNS])
@pytest.mark.parametrize("size", [(37, 37), (9, 40), (40, 9)])
def test_visits_are_those_of_the_kernels(
    pattern: str, size: tuple[int, int], generator: torch.Generator
) -> None:
    n_queries, n_keys = size
    shape = Shape(n_queries=n_queries, n_keys=n_keys, head_dim=16, value_dim=16)
    scores = torch.randn(1, 1, n_keys, generator=generator, dtype=torch.float64)
    plan = make_plan(parse(pattern), shape)
    module = module_of(plan)
    known: dict[str, Any] = {"n_queries": n_queries, "n_keys": n_keys, "device": scores.device}
    if plan.selections:
        state = module.select((scores,) * len(plan.scores), n_queries)
        known |= {f"s{i}": s for i, s in enumerate(module.selections(state, 1))}

    def call(function: Callable[..., Iterable[Any]], **values: object) -> list[Any]:
        names = inspect.signature(function).parameters
        return list(function(**{name: {**known, **values}[name] for name in names}))

    tiles: set[Tile] = set()
    lists: set[KeyList] = set()
    for block in call(module.tiles):
        queries = range(block.span.start, block.span.stop)
        for index, sweep in enumerate(plan.sweeps):
            steps = call(getattr(module, f"sweep_{index}"), tile=block)
            if sweep.source is None:
                for step in steps:
                    keys, mask, *_ = step if isinstance(step, tuple) else (step, None)
                    full = mask is None
                    tiles.add(Tile(index, queries, range(keys.start, keys.stop), full))
            else:
                found = sorted(key for step in steps for key in step[0].flatten().tolist())
                lists.add(KeyList(index, queries, tuple(found)))
    tensors = {"scores": scores} if "sparsek" in pattern else {}
    shown = picture_of(pattern, n_queries, n_keys, tensors, tile=(8, 4))
    assert set(shown.tiles) == tiles
    assert set(shown.lists) == lists


def test_a_head_of_a_batch_row(generator: torch.Generator) -> None:
    scores = torch.randn(2, 3, 12, generator=generator)
    pattern = attncomp.compile("sparsek(k=3) | window(2)")
    gates = pattern.mask(12, scores=scores)
    for batch in range(2):
        for head in range(3):
            found = picture_of(str(pattern), 12, None, {"scores": scores}, head=head, batch=batch)
            assert torch.equal(found.gate, gates[batch, head])


def test_scores_that_are_not_given(seed: int) -> None:
    found = picture_of("sparsek(k=3)", 12, seed=seed)
    assert found.caption == (
        "gate of sparsek(k=3): 12 queries (down) by 12 keys (right); "
        f"scores standard normal, seed {seed}"
    )
    scores = torch.randn(
        1, 1, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    assert torch.equal(found.gate, attncomp.compile("sparsek(k=3)").mask(12, scores=scores)[0, 0])
    given_scores = picture_of("sparsek(k=3)", 12, None, {"scores": scores})
    assert torch.equal(given_scores.gate, found.gate)
    assert given_scores.caption == "gate of sparsek(k=3): 12 queries (down) by 12 keys (right)"


@pytest.mark.parametrize(
    ("n_keys", "side"), [(1, 2), (16, 2), (17, 4), (48, 8), (64, 8), (512, 64), (1000, 128)]
)
def test_default_tiles(n_keys: int, side: int) -> None:
    assert picture_of("window(3)", 2, n_keys).tile == (side, side)


@pytest.mark.parametrize(
    ("spec", "length"),
    [
        ("full", 48),
        ("window(32)", 48),
        ("window(33)", 96),
        ("sparsek(k=128, lag=128)", 384),
        ("first(100000)", 768),
    ],
)
def test_lengths_that_tell(spec: str, length: int) -> None:
    assert picture_of(spec, None).gate.shape == (length, length)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": 3}, "head: expected an index from 0 to 2, found 3"),
        ({"head": -1}, "head: expected an index from 0 to 2, found -1"),
        ({"head": True}, "head: expected an index from 0 to 2, found True"),
        ({"batch": 2}, "batch: expected an index from 0 to 1, found 2"),
        ({"batch": "0"}, "batch: expected an index from 0 to 1, found '0'"),
    ],
)
def test_heads_and_rows_that_are_not_there(options: dict[str, object], message: str) -> None:
    tensors = {"scores": torch.zeros(2, 3, 4)}
    with pytest.raises(CallError) as caught:
        picture_of("sparsek(k=2)", 4, None, tensors, **options)
    assert str(caught.value) == f"{message} (pattern 'sparsek(k=2)')"


@pytest.mark.parametrize("tile", [0, (0, 2), (2, 2.0), (1, 2, 3), "8", True])
def test_tiles_that_are_none(tile: object) -> None:
    with pytest.raises(CallError, match=r"^tile: expected a length of 1 or more, found "):
        picture_of("full", 4, tile=tile)


def test_a_batch_of_nothing() -> None:
    with pytest.raises(CallError) as caught:
        picture_of("sparsek(k=2)", 4, None, {"scores": torch.zeros(0, 1, 4)})
    assert str(caught.value) == (
        "batch: expected a tensor with any, found 0 (pattern 'sparsek(k=2)')"
    )
