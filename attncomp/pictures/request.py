"""From what a user asks for to a picture: lengths, tensors, one head of one batch row."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import torch
from torch import Tensor

from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.errors import OptionError, TensorShapeError
from attncomp.frontend.ast import Expr, to_text
from attncomp.frontend.heads import (
    at_head,
    has_groups,
    least_heads,
    spans_of_heads,
    with_heads,
)
from attncomp.ir.build import build, build_all_heads
from attncomp.ir.graph import Graph
from attncomp.ir.modifiers import modifiers_by_group
from attncomp.ir.oracle import needs_logits, tensor_entries, tensor_names
from attncomp.ir.schedule import Problem
from attncomp.ir.tables import LOGITS
from attncomp.pictures.examples import made_up
from attncomp.pictures.picture import Picture, picture
from attncomp.runtime.checks import checked_length
from attncomp.runtime.inputs import (
    Sizes,
    are_scores,
    are_thresholds,
    bare_indices,
    block_count,
    least_size,
    mask_inputs,
)

# Sweeps, their bounds and their order are the same for every problem.
_PROBLEM: Final = Problem(
    backend="torch", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
)
_LENGTHS: Final = (48, 96, 192, 384, 768)


def pictured(
    expr: Expr,
    n_queries: int | None,
    n_keys: int | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    tile: int | tuple[int, int] | None = None,
    head: int = 0,
    heads: int | None = None,
    batch: int = 0,
    seed: int = 0,
    name: str | None = None,
) -> Picture:
    """The picture of a pattern, for Nq queries and Nk keys, Nq if not given.

    Scores, thresholds and logits that are not among `tensors` are standard normal from `seed`,
    which the caption says. n_queries: None for the least of a few lengths at which the pattern
    shows its sizes. tile: queries by keys, a number for both; None for about an eighth of the keys.
    head and batch choose one of as many heads and rows of the batch as the tensors have; heads: how
    many a pattern with groups of heads has, by default the fewest that fit. name: what the caption
    calls the pattern, its canonical text if not given. Modifiers' tensors are not needed.

    Raises CallError for sizes below 1, for tensors that are missing or do not fit, and for a head
    or a row of the batch that they do not have.
    """
    learned = {tensor.name for part in modifiers_by_group(expr) for tensor in part.learned}
    tensors = {n: tensor for n, tensor in (tensors or {}).items() if n not in learned}
    pattern = to_text(expr)
    name = pattern if name is None else name
    if has_groups(expr):
        expr, heads = _one_head(expr, head, heads, tensors, pattern)
        name += f", head {head} of {heads}"
    plan = lower(expr, _PROBLEM)
    n_queries = _length(plan) if n_queries is None else checked_length("n_queries", n_queries)
    n_keys = n_queries if n_keys is None else checked_length("n_keys", n_keys)
    graph = build(expr)
    shapes = _drawn_shapes(graph, n_queries, n_keys)
    drawn = [name for name in shapes if name not in tensors]
    given = {**_normal(shapes, seed), **tensors}
    length = n_queries, n_keys
    checked, sizes, place = _checked(graph, pattern, given, drawn, length, head, batch, heads)
    caption = f"gate of {name}: {n_queries} queries (down) by {n_keys} keys (right)"
    if drawn:
        caption += f"; {', '.join(drawn)} standard normal, seed {seed}"
    side = _tile(tile, n_keys)
    return picture(
        graph, plan, n_queries, n_keys, checked, sizes, place, tile=side, caption=caption
    )


def pictured_groups(expr: Expr) -> list[Picture]:
    """The pictures of a pattern, one for each group of heads, at a length that suits all.

    Integer tensors that it reads are made up, as the captions say.
    """
    if not has_groups(expr):
        length = _length(lower(expr, _PROBLEM))
        given = made_up(build(expr), length)
        return [pictured(expr, length, tensors=given, name=_made_up_name(expr, given))]
    heads = least_heads(expr)
    bound = with_heads(expr, heads)
    firsts = [start for start, _, _ in spans_of_heads(bound, heads)]
    members = {head: at_head(bound, head) for head in firsts}
    length = max(_length(lower(member, _PROBLEM)) for member in members.values())
    every = made_up(build_all_heads(expr), length)
    pictures = []
    for head, member in members.items():
        read = tensor_entries(build(member))
        given = {name: tensor for name, tensor in every.items() if name in read}
        name = _made_up_name(expr, given)
        pictures.append(pictured(expr, length, tensors=given, head=head, heads=heads, name=name))
    return pictures


def _made_up_name(expr: Expr, given: Mapping[str, Tensor]) -> str:
    names = f" with {', '.join(given)} made up" if given else ""
    return f"{to_text(expr)}{names}"


def _one_head(
    expr: Expr, head: int, heads: int | None, tensors: Mapping[str, Tensor], pattern: str
) -> tuple[Expr, int]:
    """The pattern of one of some heads, and how many there are.

    heads: None for the fewest that fit the groups and the tensors and hold that head.
    """
    graph = build_all_heads(expr)
    if heads is None:
        asked = _index("head", head, None, pattern)
        count = least_size(graph, tensor_entries(graph), tensors, "h")
        heads = least_heads(expr, count, asked)
    heads = checked_length("heads", heads)
    head = _index("head", head, heads, pattern)
    return at_head(with_heads(expr, heads, pattern), head), heads


def _needed_scores(graph: Graph) -> list[str]:
    """The tensors that a pattern needs, without those of integers."""
    entries = tensor_entries(graph)
    return [name for name in tensor_names(graph) if name not in entries]


def _drawn_shapes(graph: Graph, n_queries: int, n_keys: int) -> dict[str, tuple[int, ...]]:
    """The tensors of floats that a pattern needs, with the shapes of one group of one row."""
    shapes: dict[str, tuple[int, ...]] = {}
    entries = tensor_entries(graph)
    for name in tensor_names(graph):
        if name not in entries:
            shapes[name] = 1, 1, n_keys
        elif are_scores(entries[name]):
            n_blocks = block_count(entries[name][0], n_keys)
            shapes[name] = 1, 1, n_blocks, n_blocks
        elif are_thresholds(entries[name]):
            shapes[name] = (1,)
    return shapes | ({LOGITS: (1, 1, n_queries, n_keys)} if needs_logits(graph) else {})


def _for_heads(tensor: Tensor, heads: int) -> Tensor:
    """Thresholds [1] or logits [1, 1, Nq, Nk] of one head as those of several."""
    return tensor.expand(heads) if tensor.ndim == 1 else tensor.expand(-1, heads, -1, -1)


def _checked(
    graph: Graph,
    pattern: str,
    given: Mapping[str, Tensor],
    drawn: Sequence[str],
    length: tuple[int, int],
    head: int,
    batch: int,
    n_heads: int | None,
) -> tuple[dict[str, Tensor], tuple[int, int], tuple[int, int]]:
    """The tensors as kernels read them, how many heads and rows there are, and one of each.

    drawn: which of the given ones have one head and row; length: queries and keys.
    """
    entries, asked = tensor_entries(graph), bare_indices(graph)

    def chosen(subject: str, index: Literal["h", "b"], value: int) -> tuple[int, int]:
        count = least_size(graph, entries, given, index)
        # Where no tensor counts them, a test may ask for any.
        limit = None if index in asked and count == 1 else count
        place = _index(subject, value, limit, pattern)
        return max(count, place + 1), place

    rows, row = chosen("batch", "b", batch)
    if n_heads is None:
        n_heads, head = chosen("head", "h", head)
    heads = n_heads
    n_queries, n_keys = length
    each = [n for n in drawn if n == LOGITS or (n in entries and are_thresholds(entries[n]))]
    given = {**given, **{name: _for_heads(given[name], heads) for name in each}}
    sizes = Sizes(rows, heads, n_keys, n_queries)
    checked = mask_inputs(given, sizes, graph, entries, (), pattern)
    for name in _needed_scores(graph):
        if not len(checked[name]):
            raise TensorShapeError(
                subject=name,
                expected=f"[B, G, {n_keys}] with B >= 1",
                found=tuple(checked[name].shape),
                pattern=pattern,
            )
    return checked, (heads, rows), (head, row)


def _normal(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Standard normal scores float64 for each name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def _index(subject: str, value: Any, count: int | None, pattern: str) -> int:
    """An index from 0 as an int, below `count` unless that is None; OptionError if it is none."""
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        index = -1
    if index < 0 or (count is not None and index >= count):
        limit = "on" if count is None else f"to {count - 1}"
        raise OptionError(
            subject=subject,
            expected=f"an index from 0 {limit}",
            found=repr(value),
            pattern=pattern,
        )
    return index


def _tile(tile: object, n_keys: int) -> tuple[int, int]:
    """Queries by keys; by default the power of two from an eighth of the keys on, 2 at least."""
    if tile is None:
        side = max(2, 1 << (-(-n_keys // 8) - 1).bit_length())
        return side, side
    if isinstance(tile, tuple) and len(tile) == 2:
        return checked_length("tile", tile[0]), checked_length("tile", tile[1])
    side = checked_length("tile", tile)
    return side, side


def _length(plan: KernelPlan) -> int:
    """The least length at which no size in the pattern covers more than two thirds of the keys."""
    sizes = [selection.k + selection.lag for selection in plan.selections]
    for sweep in plan.all_sweeps:
        for box in sweep.box:
            ends = (box.distance.lower, box.distance.upper, box.keys.lower, box.keys.upper)
            sizes += [abs(end) for end in ends if end is not None]
        for alternative in sweep.condition:
            for required in alternative:
                sizes += required.test.value.numbers
    largest = max(sizes, default=0)
    return next((length for length in _LENGTHS if 2 * length >= 3 * largest), _LENGTHS[-1])
