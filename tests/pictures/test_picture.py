"""What pictures show: gates and owners as the oracle has them, tiles as the kernels visit them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
import torch
from dense import Shape, integer_tensors, mask_tensors
from hypothesis import given
from hypothesis import strategies as st
from strategies import SCORE_KINDS, patterns, score_tensor, shapes
from torch import Tensor
from torch_modules import PATTERNS, make_plan, module_of

import attncomp
from attncomp.codegen import entries
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.torch_view import sweep_views
from attncomp.errors import CallError
from attncomp.frontend.ast import Expr
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.ops import Sweep
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.passes import pipeline, run
from attncomp.ir.schedule import Problem
from attncomp.pictures.picture import KeyList, Picture, Tile, picture
from attncomp.pictures.request import pictured
from attncomp.runtime.extents import Call, Extent, extent_tables

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
    return pictured(parse(spec), n_queries, n_keys, tensors, **options)


def owners(
    expr: Expr,
    n_queries: int,
    n_keys: int,
    tensors: dict[str, Tensor],
    sizes: tuple[int, int],
    place: tuple[int, int],
) -> Tensor:
    """The sweep that gives each pair its gate, -1 where there is none, by the oracle.

    sizes: heads and rows of the batch; place: one of each.
    """
    graph = run(build(expr), pipeline(PROBLEM))
    owner = torch.full((n_queries, n_keys), -1)
    # Plans have sweeps in classes last.
    ordered = sorted(graph.operands(graph.root), key=lambda node: cast(Sweep, graph.op(node)).step)
    for index, node in enumerate(ordered):
        gates = gate_matrix(graph.set_root(node), n_queries, n_keys, tensors, *sizes)
        head, row = place
        gate = gates[min(row, gates.shape[0] - 1), min(head, gates.shape[1] - 1)]
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


def test_listed_blocks() -> None:
    """Of a tile's queries each visits the blocks of keys that its own block lists."""
    scores = torch.tensor([[[[0, 9, 9], [2, 1, 9], [1, 0, 2]]]], dtype=torch.float64)
    found = picture_of("topk_blocks(1, 2) & causal", 6, None, {"block_scores": scores}, tile=4)
    one, two, three = range(0, 2), range(2, 4), range(4, 6)
    assert found.tiles == (
        Tile(0, one, range(0, 2), full=False),
        Tile(0, two, range(0, 2), full=False),
        Tile(0, three, range(4, 6), full=False),
    )
    assert found.sweep.tolist() == [
        [0, -1, -1, -1, -1, -1],
        [0, 0, -1, -1, -1, -1],
        [0, 0, -1, -1, -1, -1],
        [0, 0, -1, -1, -1, -1],
        [-1, -1, -1, -1, 0, -1],
        [-1, -1, -1, -1, 0, 0],
    ]
    last = picture_of("topk_blocks(1, 2)", 3, 6, {"block_scores": scores}, tile=4)
    assert last.tiles == (
        Tile(0, range(0, 1), range(0, 2), full=False),
        Tile(0, range(1, 3), range(4, 6), full=False),
    )


def test_blocks_that_are_not_given(seed: int) -> None:
    found = picture_of("topk_blocks(1, 4)", 12, seed=seed)
    assert found.caption == (
        "gate of topk_blocks(k=1, size=4): 12 queries (down) by 12 keys (right); "
        f"block_scores standard normal, seed {seed}"
    )
    assert found.gate.sum(1).tolist() == [4.0] * 12


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
    shape=shapes(),
    tile=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kind=st.sampled_from(SCORE_KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_owners_and_visits(
    expr: Expr, shape: Shape, tile: tuple[int, int], kind: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    size = (shape.n_queries, shape.n_keys)
    known = mask_tensors(shape, generator)
    known["scores"] = score_tensor(kind, (shape.batch, shape.groups, size[1]), generator)
    sizes = (shape.query_heads, shape.batch)
    head, row = (int(torch.randint(n, (), generator=generator)) for n in sizes)
    gates = gate_matrix(build(expr), *size, known, *sizes)
    plan = lower(expr, PROBLEM)
    found = picture(build(expr), plan, *size, known, sizes, (head, row), tile=tile, caption="")
    matrix = gates[min(row, gates.shape[0] - 1), min(head, gates.shape[1] - 1)]
    assert torch.equal(found.gate, matrix)
    assert torch.equal(found.sweep, owners(expr, *size, known, sizes, (head, row)))
    assert torch.equal(found.sweep >= 0, found.gate != 0)
    # Each sweep visits what it owns, and in full tiles nothing else.
    for index, own in enumerate(plan.all_sweeps):
        if own.step > 1:
            continue  # in tiles of classes
        visited = torch.zeros(size, dtype=torch.int64)
        for step in (step for step in found.tiles if step.sweep == index):
            rows, keys = (slice(r.start, r.stop) for r in (step.queries, step.keys))
            visited[rows, keys] += 1
            assert len(step.queries) <= tile[0] and 1 <= len(step.keys) <= tile[1]
            assert not step.full or bool((found.sweep[rows, keys] == index).all())
        for walk in (walk for walk in found.lists if walk.sweep == index):
            visited[walk.queries.start : walk.queries.stop, list(walk.keys)] += 1
        assert visited.max() <= 1
        assert (visited[found.sweep == index] == 1).all()


CONDITIONS = (
    "chunk(6)",
    "chunk(16) & causal | window(3)",
    "where((q + k) % 3 == 0) & causal",
    "sparsek(k=6) | chunk(5)",
    "where(segment[q] == segment[k]) & causal",
)


@pytest.mark.parametrize("pattern", [*(t.format(mode="key_value") for t in PATTERNS), *CONDITIONS])
@pytest.mark.parametrize("size", [(37, 37), (9, 40), (40, 9)])
def test_visits_are_those_of_the_kernels(
    pattern: str,
    size: tuple[int, int],
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = Shape(n_queries=size[0], n_keys=size[1], head_dim=16, value_dim=16)
    tensors = integer_tensors(shape, generator)
    tensors["scores"] = torch.randn(1, 1, size[1], generator=generator, dtype=torch.float64)
    plan = make_plan(parse(pattern), shape)
    monkeypatch.setattr(module_of(plan), "CACHE_LINE", 1, raising=False)  # pictures fill none
    tiles, lists = visits_of(plan, size, tensors)
    needed = attncomp.compile(pattern).tensors
    shown = picture_of(pattern, *size, {name: tensors[name] for name in needed}, tile=(8, 4))
    assert set(shown.tiles) == tiles
    # Lists of the torch backend leave out keys that a sweep attends at no distance of the tile.
    limited = {i for i, sweep in enumerate(plan.sweeps) if sweep.residual}
    drawn, visited = (
        {(k.sweep, k.queries): set(k.keys) for k in found} for found in (shown.lists, lists)
    )
    assert drawn.keys() == visited.keys()
    for place, keys in visited.items():
        assert keys <= drawn[place] if place[0] in limited else keys == drawn[place]


def visits_of(
    plan: KernelPlan, size: tuple[int, int], tensors: dict[str, Tensor]
) -> tuple[set[Tile], set[KeyList]]:
    """What the generated torch module visits."""
    module = module_of(plan)
    known: dict[str, Any] = {"n_queries": size[0], "n_keys": size[1], "device": torch.device("cpu")}
    known |= {entries.pointer(name): tensors[name] for name in plan.tensors}
    call_of = Call(1, 1, 1, *size, torch.device("cpu"), tensors)
    for i, extent in enumerate(plan.extents):
        known[f"x{i}"] = module.extent(extent_tables(Extent.of(extent), call_of)[0])
    if plan.selections:
        state = module.select((tensors["scores"],) * len(plan.scores), size[0])
        known |= {f"s{i}": s for i, s in enumerate(module.selections(state, 1, size[0]))}
    for view in (view for view in sweep_views(plan) if view.source is not None):
        limits = {"lower": view.nearest, "upper": view.beyond, "filtered": view.filtered}
        known[f"l{view.index}"] = module.Lists(known[f"s{view.source}"], size[0], **limits)

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
                    tiles.add(Tile(index, queries, range(keys.start, keys.stop), mask is None))
            else:
                found = sorted(key for step in steps for key in step[0].key.flatten().tolist())
                lists.add(KeyList(index, queries, tuple(found)))
    return tiles, lists


@pytest.mark.parametrize("pattern", ["strided(5)", "strided(5) | window(7) | sparsek(k=4)"])
def test_classes_hold_what_they_attend(pattern: str) -> None:
    """Sweeps in classes have no tiles in terms of the whole; they visit their own pairs."""
    shown = picture_of(pattern, 40)
    strided = [number for number, title in enumerate(shown.titles) if "% 5" in title]
    assert strided and not {tile.sweep for tile in shown.tiles} & set(strided)
    for number in strided:
        assert shown.visitor()[shown.sweep == number].eq(number).any()
    assert (shown.visitor() >= 0)[shown.gate > 0].all()


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
        "scores: expected shape [B, G, 4] with B >= 1, found [0, 1, 4] (pattern 'sparsek(k=2)')"
    )


DOCUMENTS = "where(documents[b, q] == documents[b, k]) & causal"


def test_tensors_that_tests_read() -> None:
    documents = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]])
    found = picture_of(DOCUMENTS, 4, None, {"documents": documents}, batch=1)
    assert found.gate.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert not any(tile.full for tile in found.tiles)
    with pytest.raises(CallError) as drawn:
        picture_of(DOCUMENTS, 4)
    with pytest.raises(CallError) as masked:
        attncomp.compile(DOCUMENTS).mask(4)
    assert str(drawn.value) == str(masked.value)
    assert "made up" in str(attncomp.compile(DOCUMENTS)._repr_svg_())


def test_heads_that_a_test_asks_for() -> None:
    spec = "where(h % 3 == 1) & window(2)"
    gates = attncomp.compile(spec).mask(4, heads=6)
    for head in range(6):
        assert torch.equal(picture_of(spec, 4, head=head).gate, gates[0, head])
    with pytest.raises(CallError, match=r"^head: expected an index from 0 on, found -1 "):
        picture_of(spec, 4, head=-1)
    both, given = f"{spec} | where(u[h]) & causal", {"u": torch.tensor([0, 1])}
    gates = attncomp.compile(both).mask(4, heads=2, **given)
    for head in range(2):
        assert torch.equal(picture_of(both, 4, None, given, head=head).gate, gates[0, head])
    with pytest.raises(CallError, match=r"^head: expected an index from 0 to 1, found 2 "):
        picture_of(both, 4, None, given, head=2)
