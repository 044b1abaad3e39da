"""What a picture of a pattern shows, as data: gates, the sweeps that own them, and what is visited.

What is visited comes from the plan, by the expressions that the kernels run: the bounds of
contiguous sweeps, their lists of blocks and the selections' lists of keys, without the keys that
the torch backend adds to fill cache lines. Which pairs are attended comes from the dense meaning of
the pattern. A picture thus shows both, and the pairs between them that cost time only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import assert_never

from attncomp.codegen.plan import (
    Comparison,
    Gate,
    KernelPlan,
    Largest,
    Selected,
    SelectionPlan,
    Smallest,
    SweepPlan,
)
from attncomp.ir.affine import IndexName, term
from attncomp.ir.graph import Graph
from attncomp.ir.ops import Condition, Range, SparseK, Where
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.pairs import Pairs
from attncomp.ir.walk import Walk
from attncomp.runtime.extents import Call, Extent, extent_tables
from attncomp.runtime.tables import block_lists
from attncomp.runtime.words import listed_blocks


@dataclass(frozen=True, slots=True)
class Tile:
    """One step of a contiguous sweep: queries by keys; full if all pairs count, without a mask."""

    sweep: int
    queries: range
    keys: range
    full: bool


@dataclass(frozen=True, slots=True)
class KeyList:
    """The keys [n], ascending, that a gathered sweep walks for a tile of queries."""

    sweep: int
    queries: range
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is drawn of one head.

    gate [Nq, Nk] in [0, 1]. sweep [Nq, Nk] int64: the sweep that visits the pair, -1 where the gate
    is 0. titles: a label a sweep. tile: queries by keys of the tiles. tiles and lists: what the
    sweeps visit. caption: what it all is, in one line.
    """

    gate: Tensor
    sweep: Tensor
    titles: tuple[str, ...]
    tile: tuple[int, int]
    tiles: tuple[Tile, ...]
    lists: tuple[KeyList, ...]
    caption: str

    def visitor(self) -> Tensor:
        """The first sweep that visits each pair, attended or not, -1 for none: [Nq, Nk] int64."""
        visitor = torch.where(self.sweep < 0, len(self.titles), self.sweep)
        for tile in self.tiles:
            rows = visitor[tile.queries.start : tile.queries.stop]
            rows[:, tile.keys.start : tile.keys.stop].clamp_(max=tile.sweep)
        for walk in self.lists:
            rows = visitor[walk.queries.start : walk.queries.stop]
            keys = torch.tensor(walk.keys, dtype=torch.int64)
            rows[:, keys] = rows[:, keys].clamp(max=walk.sweep)
        return torch.where(visitor == len(self.titles), -1, visitor)


def picture(
    graph: Graph,
    plan: KernelPlan,
    n_queries: int,
    n_keys: int,
    tensors: Mapping[str, Tensor],
    sizes: tuple[int, int],
    place: tuple[int, int],
    *,
    tile: tuple[int, int],
    caption: str,
) -> Picture:
    """The picture of one head, for the tensors that the pattern needs.

    graph is the pattern's, plan its for any problem; sizes: heads and rows of the batch; place: one
    of each; tile: queries by keys.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    pairs = Pairs.of(n_queries, n_keys, tensors, *sizes, torch.device("cpu"))

    def dense(gates: Graph) -> Tensor:
        return _one(gate_matrix(gates, n_queries, n_keys, tensors, *sizes), place).detach()

    gate = dense(graph)
    selected = tuple(_selected(s, dense) for s in plan.selections)
    met = [_one(_meeting(pairs, sweep), place) for sweep in plan.all_sweeps]
    walked = {walk: _lists(walk, tensors, n_keys, place) for walk in plan.walks}
    heads, batch = sizes
    call = Call(batch, heads, heads, n_queries, n_keys, gate.device, tensors)
    reached = {extent: _reached(extent, call, place) for extent in plan.extents}
    sweep = torch.full(gate.shape, -1, dtype=torch.int64)
    for index, sweep_plan in enumerate(plan.all_sweeps):
        own = _attends(sweep_plan, gate.shape, selected) & met[index]
        sweep[own & (gate != 0)] = index
    tiles, lists = _visits(plan, (n_queries, n_keys), selected, walked, reached, tile)
    return Picture(
        gate=gate,
        sweep=sweep,
        titles=tuple(sweep.label for sweep in plan.all_sweeps),
        tile=tile,
        tiles=tuple(tiles),
        lists=tuple(lists),
        caption=caption,
    )


def _visits(
    plan: KernelPlan,
    size: tuple[int, int],
    selected: Sequence[Tensor],
    walked: Mapping[Walk, list[list[int]]],
    reached: Mapping[Condition, Tensor],
    tile: tuple[int, int],
) -> tuple[list[Tile], list[KeyList]]:
    """What all sweeps visit, size being queries by keys.

    Tiles of a class hold the pairs that it attends, and are left out.
    """
    n_queries, n_keys = size
    shift = n_keys - n_queries
    tiles: list[Tile] = []
    lists: list[KeyList] = []
    for start in range(0, n_queries, tile[0]):
        queries = range(start, min(start + tile[0], n_queries))
        for index, sweep in enumerate(plan.all_sweeps):
            if sweep.walk is not None:
                chosen = walked[sweep.walk]
                tiles += _listed(index, sweep.walk, chosen, queries, n_queries, n_keys, tile[1])
            elif sweep.source is not None:
                alive = selected[sweep.source][start : queries.stop].any(0)
                lists.append(KeyList(index, queries, tuple(alive.nonzero()[:, 0].tolist())))
            elif sweep.step == 1:
                tiles += _tiles(index, sweep, queries, shift, n_keys, tile[1], reached)
    return tiles, lists


def _one(pairs: Tensor, place: tuple[int, int]) -> Tensor:
    """Of [B or 1, H or 1, Nq, Nk] the matrix of one head, in one row of the batch."""
    head, row = place
    return pairs[min(row, pairs.shape[0] - 1), min(head, pairs.shape[1] - 1)]


def _meeting(pairs: Pairs, sweep: SweepPlan) -> Tensor:
    """The pairs that meet a sweep's condition, and what its walk makes sure of."""
    met = pairs.meeting(sweep.condition)
    if sweep.walk is None:
        return met
    return met & ~pairs.passing(Where(relation="==", value=term(sweep.walk.entry)))


def _lists(
    walk: Walk, tensors: Mapping[str, Tensor], n_keys: int, place: tuple[int, int]
) -> list[list[int]]:
    """For one head the blocks of keys that each block of queries visits."""
    spans, lists = block_lists(walk, tensors, n_keys, torch.device("cpu"))
    head, row = min(place[0], spans.shape[1] - 1), min(place[1], spans.shape[0] - 1)
    ends, own = spans[row, head].tolist(), lists[row, head]
    if walk.packed:
        words = own.unflatten(0, (len(ends), -1))
        return [
            listed_blocks(part)[: end - begin].tolist()
            for part, (begin, end) in zip(words, ends, strict=True)
        ]
    return [own[begin:end].tolist() for begin, end in ends]


def _listed(
    index: int,
    walk: Walk,
    lists: Sequence[Sequence[int]],
    queries: range,
    n_queries: int,
    n_keys: int,
    width: int,
) -> Iterator[Tile]:
    """The tiles that a walk visits for a tile of queries: of each query those of its own block."""
    size, shift = walk.size, n_keys - n_queries
    for block in range(max(queries[0] + shift, 0) // size, (queries[-1] + shift) // size + 1):
        start = max(queries.start, block * size - shift)
        stop = min(queries.stop, block * size + size - shift)
        for key in lists[block]:
            end = min(key * size + size, n_keys)
            for first in range(key * size, end, width):
                keys = range(first, min(first + width, end))
                yield Tile(index, range(start, stop), keys, False)


def _selected(selection: SelectionPlan, dense: Callable[[Graph], Tensor]) -> Tensor:
    """Which keys a selection has at which query: [Nq, Nk] bool."""
    op = SparseK(k=selection.k, lag=selection.lag, gate="hard", scores=selection.scores)
    graph = Graph()
    return dense(graph.set_root(graph.add(op))) != 0


def _attends(sweep: SweepPlan, shape: torch.Size, selected: Sequence[Tensor]) -> Tensor:
    """The pairs [Nq, Nk] that are a sweep's own: mask, source, absent selections and gate."""
    n_queries, n_keys = shape
    key = torch.arange(n_keys).expand(shape)
    values = {"key": key, "distance": torch.arange(n_queries)[:, None] + n_keys - n_queries - key}

    def holds(comparison: Comparison) -> Tensor:
        value = values[comparison.value]
        return (
            value >= comparison.bound if comparison.relation == ">=" else value < comparison.bound
        )

    own = torch.full(shape, not sweep.residual)
    for conjunction in sweep.residual:
        met = torch.ones(shape, dtype=torch.bool)
        for comparison in conjunction:
            met &= holds(comparison)
        own |= met
    if sweep.source is not None:
        own &= selected[sweep.source]
    for index in sweep.absent:
        own &= ~selected[index]
    return own if sweep.gate is None else own & _positive(sweep.gate, selected)


def _positive(gate: Gate, selected: Sequence[Tensor]) -> Tensor:
    """Where a gate over selections is not 0."""
    match gate:
        case Selected(selection):
            return selected[selection]
        case Largest(members):
            return torch.stack([_positive(member, selected) for member in members]).any(0)
        case Smallest(members):
            return torch.stack([_positive(member, selected) for member in members]).all(0)
        case _:
            assert_never(gate)


def _reached(extent: Condition, call: Call, place: tuple[int, int]) -> Tensor:
    """The keys that each query may reach by an extent, for one head: [2, Nq]."""
    keys, _ = extent_tables(Extent.of(extent), call)
    return keys[min(place[1], keys.shape[0] - 1), min(place[0], keys.shape[1] - 1)]


def _tiles(
    index: int,
    sweep: SweepPlan,
    queries: range,
    shift: int,
    n_keys: int,
    size: int,
    reached: Mapping[Condition, Tensor],
) -> Iterator[Tile]:
    """The tiles that a contiguous sweep visits for a tile of queries, from the plan's bounds."""
    if sweep.bounds is None:
        raise ValueError(f"expected a plan with bounds, found none for sweep {index}")
    values: dict[IndexName, int] = {
        "first": queries[0] + shift,
        "last": queries[-1] + shift,
        "n_keys": n_keys,
    }
    lower, upper = _ends(sweep.bounds.keys, values)
    full = None if sweep.bounds.full_keys is None else _ends(sweep.bounds.full_keys, values)
    if sweep.bounds.extent:
        keys = reached[sweep.bounds.extent][:, queries.start : queries.stop]
        lower = max(lower, int(keys[0].min()))
        upper = min(upper, int(torch.maximum(keys[1], ~keys[1]).max()))
        if full is not None:
            full = max(full[0], int(keys[0].max())), min(full[1], int(keys[1].min()))
    for start in range(lower, upper, size):
        stop = min(start + size, upper)
        inside = full is not None and full[0] <= start and stop <= full[1]
        yield Tile(index, queries, range(start, stop), inside and not sweep.absent)


def _ends(bounds: Range, values: Mapping[IndexName, int]) -> tuple[int, int]:
    """Both ends of a range of keys."""
    lower, upper = ([end.evaluate(values) for end in ends] for ends in (bounds.lower, bounds.upper))
    return max(lower), min(upper)
