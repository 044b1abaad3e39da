"""Patterns with groups of heads: each group runs kernels of its own, for its own pattern.

The heads of a call are cut at the borders of groups, and further wherever a piece would hold parts
of the heads that share a KV head or a score group: in a piece each KV head and each group serves
equally many query heads. What a piece reads of a tensor is a view of it.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.errors import OptionError
from attncomp.frontend.ast import Expr, to_text
from attncomp.frontend.heads import (
    from_head,
    least_heads,
    spans_of_heads,
    with_heads,
)
from attncomp.frontend.modifiers import STANDARD_SLOPES
from attncomp.frontend.parser import parse
from attncomp.ir.affine import index
from attncomp.ir.build import build_all_heads
from attncomp.ir.modifiers import modifiers_of
from attncomp.ir.oracle import tensor_entries
from attncomp.ir.schedule import Problem
from attncomp.runtime.inputs import all_slopes
from attncomp.runtime.program import plan_of_call
from attncomp.runtime.tables import BlockParts
from attncomp.runtime.whole import Whole

Run: TypeAlias = tuple[int, int]
"""First and end of consecutive heads, KV heads or score groups."""

_ANY_PROBLEM = Problem(
    backend="torch", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
)


class Piece(NamedTuple):
    """Query heads with one pattern, which counts them from 0, and what they read.

    scores: the groups of each score tensor, in the plan's order. tensors: the names of those that
    tests read. whole: how the pattern runs on these heads.
    """

    heads: Run
    pattern: str
    kv_heads: Run
    scores: tuple[tuple[str, Run], ...]
    tensors: tuple[str, ...]
    whole: Whole


class Places(NamedTuple):
    """Dimensions of tensors that tests read, by name and place, that a subscript h runs along.

    sliced: all entries have the subscript h there. spread: some have, others an expression of h.
    """

    sliced: tuple[tuple[str, int], ...]
    spread: tuple[tuple[str, int], ...]


# Constant to torch.compile, which need not look into the compiler.
@torch.compiler.assume_constant_result
def pieces(
    pattern: str, n_heads: int, kv_heads: int, groups: tuple[tuple[str, int], ...]
) -> tuple[Piece, ...]:
    """The pieces of a call, ascending; groups: of each score tensor, by name.

    Raises HeadGroupError where the slices do not fit the number of heads.
    """
    return _pieces(pattern, n_heads, kv_heads, groups)


@functools.lru_cache(maxsize=1024)
def _pieces(
    pattern: str, n_heads: int, kv_heads: int, groups: tuple[tuple[str, int], ...]
) -> tuple[Piece, ...]:
    expr = parse(pattern)
    sliced = _places(pattern).sliced
    sharing = {name: n_heads // count for name, count in groups}
    shared = n_heads // kv_heads
    found = []
    for start, stop, member in spans_of_heads(with_heads(expr, n_heads, pattern), n_heads):
        plan = lower(member, _ANY_PROBLEM)
        ratios = [shared, *(sharing[name] for name in plan.scores)]
        for heads in _uniform((start, stop), ratios):
            own = from_head(member, heads[0], sliced)
            scores = tuple((name, _shared(heads, sharing[name])) for name in plan.scores)
            blocks = BlockParts.of(lower(own, _ANY_PROBLEM))
            piece = Piece(
                heads=heads,
                pattern=to_text(own),
                kv_heads=_shared(heads, shared),
                scores=scores,
                tensors=plan.inputs,
                whole=Whole.of(plan.scores, blocks, modifiers_of(own)),
            )
            found.append(piece)
    return tuple(found)


def _uniform(heads: Run, ratios: Collection[int]) -> list[Run]:
    """The heads in runs of which each lies within a block of every ratio, or is made of some."""
    for ratio in ratios:
        first, last = -(-heads[0] // ratio) * ratio, heads[1] // ratio * ratio
        if first > last or heads in ((first, last), (heads[0], first), (last, heads[1])):
            continue
        borders = sorted({heads[0], first, last, heads[1]})
        runs = itertools.pairwise(borders)
        return [part for run in runs for part in _uniform(run, ratios)]
    return [heads]


def _shared(heads: Run, ratio: int) -> Run:
    """The blocks of `ratio` heads that these heads are in."""
    return heads[0] // ratio, -(-heads[1] // ratio)


@functools.lru_cache(maxsize=1024)
def _places(pattern: str) -> Places:
    exact: set[tuple[str, int]] = set()
    other: set[tuple[str, int]] = set()
    for name, entries in tensor_entries(build_all_heads(parse(pattern))).items():
        for entry in entries:
            for place, subscript in enumerate(entry.indices):
                (exact if subscript == index("h") else other).add((name, place))
    return Places(tuple(sorted(exact - other)), tuple(sorted(exact & other)))


@torch.compiler.assume_constant_result
def places(pattern: str) -> Places:
    """The dimensions of tensors that heads run along."""
    return _places(pattern)


def attention_of_groups(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tensors: Mapping[str, Tensor],
    ranked: Collection[str],
    scale: float,
    pattern: str,
    backend: str,
    *,
    tuned: bool = False,
) -> tuple[Tensor, Tensor, tuple[tuple[Piece, str], ...]]:
    """out [B, Hq, Nq, Dv] and lse [B, Hq, Nq] of checked inputs, and the pieces with problems.

    tensors: all that the pattern needs, as kernels read them; ranked: which are scores [B, G, Nk].
    scale is that of groups without one of their own. tuned: by the fastest schedules. Raises
    HeadGroupError.
    """
    # To torch.compile sizes may be symbols; these it has to specialise on.
    n_heads, kv_heads = operator.index(q.shape[1]), operator.index(k.shape[1])
    groups = tuple((name, operator.index(tensors[name].shape[1])) for name in ranked)
    cut = pieces(pattern, n_heads, kv_heads, groups)
    along = places(pattern)
    queries = q.split([piece.heads[1] - piece.heads[0] for piece in cut], 1)
    keys, values = (_views(t, [piece.kv_heads for piece in cut]) for t in (k, v))
    scores = {
        name: _views(
            tensors[name],
            [run for piece in cut for used, run in piece.scores if used == name],
        )
        for name, _ in groups
    }
    results, problems = [], []
    for piece, query in zip(cut, queries, strict=True):
        key, value = keys[piece.kv_heads], values[piece.kv_heads]
        given = {name: scores[name][run] for name, run in piece.scores}
        for name in piece.tensors:
            given[name] = _of_heads(name, tensors[name], piece.heads, n_heads, along)
        for name in piece.whole.modified:
            every = all_slopes(q) if name == STANDARD_SLOPES else tensors[name]
            given[name] = every[slice(*piece.heads)]
        out, lse, problem = piece.whole.attention(
            query, key, value, given, scale, piece.pattern, backend, None, tuned, None
        )
        results.append((out, lse))
        problems.append((piece, problem))
    outs, lses = zip(*results, strict=True)
    return torch.cat(outs, 1), torch.cat(lses, 1), tuple(problems)


def _views(tensor: Tensor, runs: Collection[Run]) -> dict[Run, Tensor]:
    """Views of runs of dimension 1, of which any two are equal or disjoint.

    One split for all of them, whose gradient is one tensor however many runs there are.
    """
    borders = sorted({0, operator.index(tensor.shape[1]), *(end for run in runs for end in run)})
    cut = list(itertools.pairwise(borders))
    return dict(zip(cut, tensor.split([stop - start for start, stop in cut], 1), strict=True))


def _of_heads(name: str, tensor: Tensor, heads: Run, n_heads: int, along: Places) -> Tensor:
    """What tests read as the pattern of a piece has it: of its heads, or of every head."""
    for place in range(tensor.ndim):
        size = operator.index(tensor.shape[place])
        if (name, place) in along.sliced and size > 1:
            ratio = n_heads // size
            if _uniform(heads, [ratio]) != [heads]:  # parts of what several entries are for
                tensor, ratio = tensor.repeat_interleave(ratio, place), 1
            first, end = _shared(heads, ratio)
            tensor = tensor.narrow(place, first, end - first)
        elif (name, place) in along.spread and size == 1:
            tensor = tensor.expand(*tensor.shape[:place], n_heads, *tensor.shape[place + 1 :])
        elif (name, place) in along.spread and size < n_heads:
            tensor = tensor.repeat_interleave(n_heads // size, place)
    return tensor


def usual_plans(expr: Expr, problem: Problem) -> dict[str, KernelPlan]:
    """The plan of each run of heads with one pattern, by its slice, for the fewest heads.

    Raises HeadGroupError where no number of heads fits all groups of a pattern.
    """
    members = members_of(expr, least_heads(expr))
    return {f"{start}:{stop}": lower(member, problem) for (start, stop), member in members}


def members_of(expr: Expr, n_heads: int) -> list[tuple[Run, Expr]]:
    """The pattern of each run of heads, which it counts from 0; HeadGroupError as `with_heads`."""
    pattern = to_text(expr)
    sliced = _places(pattern).sliced
    runs = spans_of_heads(with_heads(expr, n_heads, pattern), n_heads)
    return [((start, stop), from_head(member, start, sliced)) for start, stop, member in runs]


def plans_of(cut: Iterable[tuple[Piece, str]], device: torch.device) -> dict[str, KernelPlan]:
    """The plan of each piece of a call, by its slice of heads."""
    return {
        "{}:{}".format(*piece.heads): plan_of_call(piece.pattern, problem, device)
        for piece, problem in cut
    }


def several_plans(pattern: str) -> OptionError:
    """The error for a pattern with groups of heads where one plan is asked for."""
    return OptionError(
        subject="plan",
        expected="a pattern without groups of heads",
        found="one plan for each of them, in 'plans'",
        pattern=pattern,
    )


def no_number(pattern: str) -> OptionError:
    """The error for a mask of groups of heads, without a number of these."""
    return OptionError(
        subject="heads",
        expected="a number, as the pattern has groups of heads",
        found=None,
        pattern=pattern,
    )
