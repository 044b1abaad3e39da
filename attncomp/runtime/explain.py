"""A plan in words: what it visits, what that costs and what generation has to keep."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attncomp.codegen.expressions import condition_entries
from attncomp.codegen.hopper import choices
from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.ir.affine import Affine, Drawn, Entry, Index, Quotient, Top, index
from attncomp.ir.ops import Box, Range
from attncomp.ir.passes.bound import bounds_of
from attncomp.ir.walk import Walk
from attncomp.runtime.attended import Mean
from attncomp.runtime.checks import checked_length
from attncomp.runtime.visits import Visits, count_visits

# Context lengths at which keys are counted: both where their number grows, else the second.
LENGTHS: Final = (8192, 65536)

_MODES: Final = {
    None: "none: every attended key counts in full",
    "key_value": "key_value: the gate multiplies q . k and the value",
    "value": "value: the gate multiplies the value",
    "hard": "hard: selected keys count in full, the scores get no gradient",
    "straight_through": "straight_through: selected keys count in full, gradients are key_value's",
    "logit": "logit: the logarithm of the gate is added to scale * (q . k)",
}


def explain(
    plan: KernelPlan,
    pattern: str,
    tensors: Mapping[str, str],
    n_keys: int | None = None,
    *,
    dense: bool = False,
) -> str:
    """The plan of a pattern in words; tensors: what a call needs beside q, k and v, with shapes.

    n_keys: the context length at which keys are counted, None for LENGTHS; OptionError below 1.
    dense: the pattern runs by its definition, on backend reference, and not by the plan.
    """
    lengths = LENGTHS if n_keys is None else (checked_length("n_keys", n_keys),)
    memory = "O(N^2): every pair is held" if dense else "O(N): no N x N matrix is ever held"
    shapes = (f"{name} {shape}" for name, shape in tensors.items())
    rows = [
        ("pattern", pattern),
        ("tensors", ", ".join(("q", "k", "v", *shapes))),
        ("gate", _MODES[plan.mode]),
        *((("logits", ", ".join(plan.modifiers.parts)),) if plan.modifiers else ()),
        *_sweep_rows(plan, lengths, dense),
        *((("tiles", _tiles(plan)),) if plan.all_sweeps and not dense else ()),
        *_kernel_rows(plan, dense),
        ("keys", _keys(plan)),
        ("time", "O(N^2), on backend reference" if dense else _time(plan)),
        ("memory", memory),
        ("generation", _retained(plan)),
        ("determinism", f"deterministic on every backend: {_atomics(plan)}"),
    ]
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:<{width}}{text}\n" for name, text in rows)


def _atomics(plan: KernelPlan) -> str:
    # A selection's kernels share the room for their lists by a counter.
    counted = plan.selections and plan.problem.backend == "triton"
    integers = plan.modifiers.bias is not None or counted
    return "atomics add integers alone" if integers else "no atomics"


def explain_groups(
    plans: Mapping[str, KernelPlan],
    pattern: str,
    tensors: Mapping[str, str],
    n_keys: int | None = None,
    *,
    dense: bool = False,
) -> str:
    """The plans of a pattern with groups of heads in words, each below its slice of heads."""
    parts = [f"pattern      {pattern}\n"]
    for heads, plan in plans.items():
        names = {*plan.scores, *plan.inputs, *(name for name, _ in plan.modifiers.learned)}
        read = {name: shape for name, shape in tensors.items() if name in names}
        text = explain(plan, plan.pattern, read, n_keys, dense=dense)
        parts.append(f"heads {heads}\n{text}")
    return "\n".join(parts)


def _sweep_rows(plan: KernelPlan, lengths: Sequence[int], dense: bool) -> Iterator[tuple[str, str]]:
    counts = [count_visits(plan, length) for length in lengths]
    last = {group[0].sweeps[-1]: group for group in zip(*counts, strict=True)}
    for number, sweep in enumerate(plan.all_sweeps):
        limit = _limit(plan, sweep)
        keys = _there(sweep) if limit is None else f"at most {limit} keys a query"
        gate = "" if sweep.gate is None or plan.mode == "hard" else f", gate {sweep.gate}"
        classes = f" in classes modulo {sweep.step}" if sweep.step > 1 else ""
        yield f"sweep {number}", f"{sweep.label}{classes}; {keys}{gate}"
        for length, visits in zip(lengths, last.get(number, ()), strict=False):
            growth = _growth(plan, [plan.all_sweeps[one] for one in visits.sweeps])
            # The same at any length, but for the queries at the start that see fewer keys.
            if growth != "O(1)" or length == lengths[-1]:
                yield f"  N = {length}", _visits(visits, growth, dense)


def _there(sweep: SweepPlan) -> str:
    """Which keys a sweep without a limit visits."""
    if sweep.walk is not None:
        return "all keys of these blocks, no others"
    if sweep.step > 1:
        return f"one in {sweep.step} of the keys there"
    extent = _extent(sweep)
    return f"from the first to the last key by {extent}" if extent else "all keys there"


def _extent(sweep: SweepPlan) -> str:
    """The tensors that limit a sweep's keys to a range at the call, "" for none."""
    condition = () if sweep.bounds is None else sweep.bounds.extent
    return ", ".join(sorted({entry.tensor for entry in condition_entries(condition)}))


def _growth(plan: KernelPlan, sweeps: Sequence[SweepPlan]) -> str:
    """How the keys that a query visits in sweeps of one step grow with the length."""
    if all(_limit(plan, sweep) is not None for sweep in sweeps):
        return "O(1)"
    return "O(N)" if sweeps[0].step == 1 else f"O(N / {sweeps[0].step})"


def _visits(visits: Visits, growth: str, dense: bool) -> str:
    """What a query visits and attends in a sweep, and how that grows with the length."""
    others = " and ".join(map(str, visits.sweeps[:-1]))
    before = f"with sweep {others}: " if others else ""
    attended = f"attends {_mean(visits.attended)}"
    if visits.depends:
        attended += f", depending on {', '.join(visits.depends)}"
    if dense:
        return f"{before}{attended}"
    visited = f"visits {_mean(visits.visited)} keys a query"
    if not visits.depends:
        attended += _share(visits)
    most = "at most " if visits.visited.kind == "at most" and growth != "O(1)" else ""
    return f"{before}{visited}, {attended}: {most}{growth} a query"


def _share(visits: Visits) -> str:
    """How many of the visited keys are attended, where both are known."""
    if not visits.visited.keys:
        return ""
    share = f"{_number(100 * visits.attended.keys / visits.visited.keys)} %"
    return f" (at least {share})" if visits.visited.kind else f" ({share})"


def _mean(mean: Mean) -> str:
    return f"{mean.kind} {_number(mean.keys)}".lstrip()


def _number(value: float) -> str:
    """Three digits, and all of an integer part."""
    if 0 < value < 0.01:
        return "< 0.01"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _tiles(plan: KernelPlan) -> str:
    return f"{plan.schedule.forward.queries} queries by {plan.forward_keys} keys"


def _kernel_rows(plan: KernelPlan, dense: bool) -> Iterator[tuple[str, str]]:
    """Which kernels serve, where a target has two of a kind; of strided parts each on its own."""
    if plan.own is not None and plan.sweeps and not dense:
        yield from choices(plan).items()


def _limit(plan: KernelPlan, sweep: SweepPlan) -> int | None:
    """The largest number of keys of a query that the sweep visits; None where it grows with N."""
    widths = [_width(_range(box, sweep)) for box in sweep.box]
    reached = None if None in widths else sum(width for width in widths if width is not None)
    if reached is not None:
        reached = -(-reached // sweep.step)
    listed = _listed(plan, sweep)
    return min((limit for limit in (listed, reached) if limit is not None), default=None)


def _listed(plan: KernelPlan, sweep: SweepPlan) -> int | None:
    """The largest number of keys in a query's list; None without a list or a limit of it."""
    if sweep.source is not None:
        return plan.selections[sweep.source].k
    match sweep.walk:
        case Walk(Entry(table=Top(count) | Drawn(count)), size):
            return count * size
        case _:
            return None


def _range(box: Box, sweep: SweepPlan) -> Range:
    """The keys of one query, whose position is `first`."""
    keys = bounds_of(box, sweep.condition).keys
    lower, upper = (
        tuple(end.replace({"last": "first"}) for end in ends) for ends in (keys.lower, keys.upper)
    )
    return Range(lower=lower, upper=upper)


def _width(keys: Range) -> int | None:
    pairs = itertools.product(keys.lower, keys.upper)
    widths = [_largest(upper - lower) for lower, upper in pairs]
    return min((max(width, 0) for width in widths if width is not None), default=None)


def _largest(value: Affine) -> int | None:
    """The largest value that a difference of bounds takes; None where it grows or is unknown."""
    if not value.terms:
        return value.constant
    match value.terms:
        case ((Index(name), 1), (Quotient(part, divisor), factor)) if factor == -divisor:
            # x - (x + a) // c * c = (x + a) % c - a
            shift = part - index(name)
            return None if shift.terms else value.constant + divisor - 1 - shift.constant
        case _:
            return None


def _limits(plan: KernelPlan) -> list[int | None]:
    """The limits that add up: sweeps of one selection share one."""
    limits: dict[str, int | None] = {}
    for number, sweep in enumerate(plan.all_sweeps):
        name = f"sweep {number}" if sweep.source is None else f"selection {sweep.source}"
        if sweep.walk is not None and _limit(plan, sweep) == _listed(plan, sweep):
            name = str(sweep.walk)
        limits[name] = _limit(plan, sweep)
    return list(limits.values())


def _keys(plan: KernelPlan) -> str:
    limits = _limits(plan)
    known = [limit for limit in limits if limit is not None]
    if not limits:
        return "none: no query attends to any key"
    if len(known) < len(limits):
        unlimited = [sweep for sweep in plan.all_sweeps if _limit(plan, sweep) is None]
        if all(map(_extent, unlimited)):
            return f"those in ranges by {_extents(unlimited)}"
        listed = all(sweep.walk is not None for sweep in unlimited)
        return "those of the listed blocks" if listed else "grow with the context length"
    total = f" = {sum(known)}" if len(known) > 1 else ""
    return f"at most {' + '.join(map(str, known))}{total} a query, in one softmax"


def _time(plan: KernelPlan) -> str:
    unlimited = [sweep for sweep in plan.all_sweeps if _limit(plan, sweep) is None]
    listed = "O(pairs of the listed blocks)" if unlimited else "O(N)"
    ranges = [sweep for sweep in unlimited if sweep.walk is None]
    time = "O(N^2)" if ranges else listed
    if ranges and all(map(_extent, ranges)):
        time = f"O(keys in ranges by {_extents(ranges)}), O(N^2) at most"
    parts = [f"{time}, forward and backward"]
    if plan.selections:
        linear = plan.problem.backend == "triton"  # torch sorts
        selection = "O(N)" if linear else "O(N log N)"
        parts.append(f"{selection} for the selection, once a score group")
    sizes = {walk.size for walk in plan.walks if not isinstance(walk.entry.table, Drawn)}
    parts += [f"the table of (N / {size})^2 blocks is read once a call" for size in sorted(sizes)]
    return "; ".join(parts)


def _extents(sweeps: Sequence[SweepPlan]) -> str:
    return ", ".join(dict.fromkeys(map(_extent, sweeps)))


def _retained(plan: KernelPlan) -> str:
    ranges = [_range(sweep.box[0], sweep) for sweep in plan.all_sweeps if sweep.source is None]
    if any(map(_looks_ahead, ranges)):
        return "impossible: queries attend to keys ahead of them"
    recent = [_recent(keys) for keys in ranges]
    fixed = [_fixed(keys) for keys, near in zip(ranges, recent, strict=True) if near is None]
    if None in fixed:
        return "keeps all keys"
    kept = [(selection.k, "slots of the selection") for selection in plan.selections]
    # A key waits among the latest ones until its selection may take it.
    latest = [selection.lag for selection in plan.selections] + [n for n in recent if n is not None]
    kept.append((max(latest, default=0), "latest keys"))
    kept.append((max((n for n in fixed if n is not None), default=0), "first keys"))
    kept = [(count, what) for count, what in kept if count]
    if not kept:
        return "keeps nothing"
    parts = " + ".join(f"{count} {what}" for count, what in kept)
    total = f" = {sum(count for count, _ in kept)} keys" if len(kept) > 1 else ""
    return f"keeps {parts}{total} at any context length"


def _looks_ahead(keys: Range) -> bool:
    beyond = [_largest(end - index("first", 1)) for end in keys.upper]
    return not any(distance is not None and distance <= 0 for distance in beyond)


def _recent(keys: Range) -> int | None:
    """How far back, in keys, a query reaches; None where it grows."""
    reaches = [_largest(index("first", 1) - end) for end in keys.lower]
    return min((reach for reach in reaches if reach is not None), default=None)


def _fixed(keys: Range) -> int | None:
    """The first keys that any query reaches; None where they grow."""
    return min((end.constant for end in keys.upper if not end.terms), default=None)
