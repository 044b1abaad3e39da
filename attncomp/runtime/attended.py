"""How many keys a query attends in a sweep: a mean over the queries of a call.

What the bounds of a range tell is counted exactly, at any length in O(1) a query; so is what a test
of a remainder leaves of a range, and what is outside of one. Other tests of positions are evaluated
pair by pair, for a sample of the pairs where they are more. Where tensors of the call decide, there
is a limit alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from attncomp.codegen.expressions import condition_entries, gate_masks, selections_of
from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.ir.affine import Affine, Drawn, IndexName, Passing, Remainder, index
from attncomp.ir.ops import ALWAYS, Box, Condition, Interval, Requirement
from attncomp.ir.pairs import Pairs
from attncomp.ir.passes.bound import bounds_of
from attncomp.ir.walk import Walk
from attncomp.runtime.key_ranges import CPU, key_ends, listed_blocks
from attncomp.runtime.tables import block_lists
from attncomp.runtime.values import value_of

_SAMPLED_PAIRS: Final = 1 << 20
_SAMPLED_KEYS: Final = 1 << 6  # of a query


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean number of keys a query: exact, of a sample ("about"), or a limit of it ("at most")."""

    keys: float
    kind: Literal["", "about", "at most"] = ""


def attended_keys(plan: KernelPlan, sweep: SweepPlan, n_keys: int) -> tuple[Mean, tuple[str, ...]]:
    """The keys that a query attends in a sweep, and on what their number depends."""
    depends = _depends(plan, sweep)
    if not depends and sweep.walk is not None:
        return _of_drawn_blocks(sweep, sweep.walk, n_keys), ()
    query = torch.arange(n_keys)
    if not depends and sweep.source is None:
        found = _of_a_range(sweep, query)
        return (_of_pairs(sweep, query) if found is None else Mean(_mean(found))), ()
    most = _most(plan, sweep, query)
    return Mean(_mean(most), "at most" if depends else ""), depends


def _mean(keys: Tensor) -> float:
    """The mean of counts [N], which float32 would round."""
    return int(keys.sum()) / len(keys)


def _most(plan: KernelPlan, sweep: SweepPlan, query: Tensor) -> Tensor:
    """The most keys that each of all queries [N] attends, whatever the call's tensors hold."""
    n_keys, support = len(query), Box()
    if sweep.source is not None:
        support = Box(distance=Interval(plan.selections[sweep.source].lag, None))
    boxes = [box.intersect(support) for box in sweep.box]
    count = torch.stack([_range(box, sweep.condition, query)[1] for box in boxes]).sum(0)
    if sweep.source is not None:
        count = count.clamp(max=plan.selections[sweep.source].k)
    if sweep.walk is not None:
        block = torch.arange(-(-n_keys // sweep.walk.size))
        listed = listed_blocks(sweep.walk, block, n_keys) * sweep.walk.size
        count = torch.minimum(count, listed[query // sweep.walk.size])
    return count


def _range(box: Box, condition: Condition, query: Tensor) -> tuple[Tensor, Tensor]:
    """The first key [N] of each of all queries, and how many from it on the bounds leave."""
    lower, upper = key_ends(bounds_of(box, condition).keys, query, query, len(query))
    return lower, (upper - lower).clamp(min=0)


def _depends(plan: KernelPlan, sweep: SweepPlan) -> tuple[str, ...]:
    """What beside the length decides how many keys a sweep attends."""
    entries = list(condition_entries(sweep.condition))
    if sweep.walk is not None and not isinstance(sweep.walk.entry.table, Drawn):
        entries.append(sweep.walk.entry)
    selections = {*sweep.absent, *(selections_of(sweep.gate) if gate_masks(sweep) else ())}
    if sweep.source is not None and (sweep.residual or sweep.condition != ALWAYS or selections):
        selections.add(sweep.source)
    tests = [part.test.value for group in sweep.condition for part in group]
    bare = {name for value in tests for name in value.bare_indices}
    names = [entry.tensor or "the drawn blocks" for entry in entries]
    names += ["the logits"] if any(isinstance(e.table, Passing) for e in entries) else []
    names += [plan.selections[index].scores for index in sorted(selections)]
    names += ["the head"] if "h" in bare else []
    names += ["the row of the batch"] if "b" in bare else []
    return tuple(dict.fromkeys(names))


class _Comb(NamedTuple):
    """The keys for which `value % divisor` is in [low, high), or is not. value has k or -k."""

    value: Affine
    divisor: int
    low: int
    high: int
    holds: bool

    def among(self, query: Tensor, lower: Tensor, width: Tensor) -> Tensor:
        """How many of the `width` keys from `lower` on are in the comb, for each query [N]."""
        at: dict[IndexName, Tensor] = {"q": query, "n": torch.tensor(len(query))}
        start = value_of(self.value, {**at, "k": lower})
        stop = value_of(self.value, {**at, "k": lower + width})
        if self.value.part({"k"}) == -index("k"):
            start, stop = stop + 1, start + 1
        found = self._below(stop) - self._below(start)
        return found if self.holds else width - found

    def _below(self, value: Tensor) -> Tensor:
        """A number that grows by one from `value` to `value + 1` if value is in the comb."""
        size = self.high - self.low
        within = (value % self.divisor - self.low).clamp(min=0, max=size)
        return value // self.divisor * size + within


def _comb(part: Requirement) -> _Comb | None:
    """The comb of keys that a requirement is, if it is one."""
    value = part.test.value
    match value.terms:
        case ((Remainder(inner, divisor), 1),) if inner.indices <= {"q", "k", "n"}:
            if inner.part({"k"}) not in (index("k"), -index("k")):
                return None
            low = -value.constant
            high = low + 1 if part.test.relation == "==" else divisor
            low, high = (min(max(end, 0), divisor) for end in (low, high))
            return _Comb(inner, divisor, low, high, part.holds)
        case _:
            return None


def _asking(sweep: SweepPlan, query: Tensor) -> Tensor:
    """Which of all queries [N] pass the tests of q alone in any alternative of the condition."""
    at: dict[IndexName, Tensor] = {"q": query, "n": torch.tensor(len(query))}
    asking = torch.zeros_like(query, dtype=torch.bool)
    for alternative in sweep.condition:
        every = torch.ones_like(asking)
        for part in filter(_is_of_query, alternative):
            value = value_of(part.test.value, at)
            every &= ((value == 0) if part.test.relation == "==" else (value >= 0)) == part.holds
        asking |= every
    return asking


def _is_of_query(part: Requirement) -> bool:
    return part.test.value.indices <= {"q", "n"}


def _of_a_range(sweep: SweepPlan, query: Tensor) -> Tensor | None:
    """How many keys each of all queries [N] attends, where ranges and combs of keys tell it."""
    if len(sweep.condition) > 1:
        return None
    parts = tuple(part for part in sweep.condition[0] if not _is_of_query(part))
    found = _left(sweep.box[0], parts, query)
    return None if found is None else torch.where(_asking(sweep, query), found, 0)


def _left(box: Box, parts: tuple[Requirement, ...], query: Tensor) -> Tensor | None:
    """How many keys of a box requirements leave each query [N]; None where ranges do not tell it.

    For a single query the bounds of a range hold no key that its tests rule out. One comb may be
    within them; keys that must not be in a range are those without it less those in it.
    """
    unequal = [p for p in parts if p.test.relation == "==" and not p.holds and _comb(p) is None]
    if unequal:
        rest = tuple(part for part in parts if part is not unequal[0])
        every = _left(box, rest, query)
        equal = _left(box, (*rest, replace(unequal[0], holds=True)), query)
        return None if every is None or equal is None else every - equal
    combs = [comb for comb in map(_comb, parts) if comb is not None]
    others = (tuple(part for part in parts if _comb(part) is None),)
    if len(combs) > 1 or bounds_of(box, others).full_keys is None:
        return None
    lower, width = _range(box, others, query)
    return combs[0].among(query, lower, width) if combs else width


def _of_pairs(sweep: SweepPlan, query: Tensor) -> Mean:
    """The keys attended among those that the bounds leave each of all queries [N], pair by pair.

    Of more than `_SAMPLED_KEYS` keys one of each equal share is looked at, and stands for it.
    """
    lower, width = _range(sweep.box[0], sweep.condition, query)
    asking = query[_asking(sweep, query)]
    widest = max(1, int(width.max()))
    place = torch.arange(min(widest, _SAMPLED_KEYS))
    some = asking[_sample(len(asking), _SAMPLED_PAIRS // len(place))]
    share = (width[some, None].double() / len(place)).clamp(min=1)
    shift = _chances(len(some), len(place))
    offset = ((place + torch.where(share > 1, shift, 0)) * share).long()
    met = _meets(sweep, some, lower[some, None] + offset, len(query))
    total = float(((met & (offset < width[some, None])) * share).sum())
    sampled = widest > len(place) or len(some) < len(asking)
    mean = total / max(1, len(some)) * len(asking) / len(query)
    return Mean(mean, "about" if sampled else "")


def _of_drawn_blocks(sweep: SweepPlan, walk: Walk, n_keys: int) -> Mean:
    """The keys attended among those of the drawn blocks, pair by pair."""
    spans, lists = block_lists(walk, {}, n_keys, CPU)
    count = spans[0, 0, :, 1] - spans[0, 0, :, 0]
    listed = lists[0, 0].view(len(count), -1).long()
    place = torch.arange(listed.shape[1] * walk.size)
    some = _sample(n_keys, max(1, _SAMPLED_PAIRS // len(place)))
    block = some[:, None] // walk.size
    key = listed[block, place // walk.size] * walk.size + place % walk.size
    inside = (place // walk.size < count[block]) & (key < n_keys)
    total = int((_meets(sweep, some, key, n_keys) & inside).sum())
    return Mean(total / len(some), "about" if len(some) < n_keys else "")


def _sample(count: int, size: int) -> Tensor:
    """All of `count` places, or a random one of each of `size` equal shares."""
    if size >= count:
        return torch.arange(count)
    return ((torch.arange(size) + _chances(size)) * (count / size)).long()


def _chances(*size: int) -> Tensor:
    """Random numbers in [0, 1) float64, the same at each call."""
    return torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _meets(sweep: SweepPlan, query: Tensor, key: Tensor, n_keys: int) -> Tensor:
    """Which pairs [R, W] of queries [R] and keys [R, W] are in a sweep that reads no tensors."""
    indices = {"q": query[:, None], "k": key, "n": torch.tensor(n_keys)}
    pairs = Pairs(query[:, None] - key, key, indices, {})
    return pairs.inside(sweep.box[0]) & pairs.meeting(sweep.condition)[0, 0]
