"""A plan in words: what it visits, what that costs and what generation has to keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.ir.ops import Box

_MODES: Final = {
    None: "none: every attended key counts in full",
    "key_value": "key_value: the gate multiplies q . k and the value",
    "value": "value: the gate multiplies the value",
    "hard": "hard: selected keys count in full, the scores get no gradient",
    "straight_through": "straight_through: selected keys count in full, gradients are key_value's",
    "logit": "logit: the logarithm of the gate is added to scale * (q . k)",
}


def explain(
    plan: KernelPlan, pattern: str, tensors: tuple[str, ...], *, dense: bool = False
) -> str:
    """The plan of a pattern in words; tensors are what a call needs beside q, k and v.

    dense: the pattern runs by its definition, on backend reference, and not by the plan.
    """
    memory = "O(N^2): every pair is held" if dense else "O(N): no N x N matrix is ever held"
    rows = [
        ("pattern", pattern),
        ("tensors", ", ".join(("q", "k", "v", *(f"{name} [B, G, Nk]" for name in tensors)))),
        ("gate", _MODES[plan.mode]),
        *_sweep_rows(plan),
        ("keys", _keys(plan)),
        ("time", "O(N^2), on backend reference" if dense else _time(plan)),
        ("memory", memory),
        ("generation", _retained(plan)),
        ("determinism", "deterministic on every backend: no atomics"),
    ]
    width = max(len(name) for name, _ in rows) + 2
    return "".join(f"{name:<{width}}{text}\n" for name, text in rows)


def _sweep_rows(plan: KernelPlan) -> Iterator[tuple[str, str]]:
    for index, sweep in enumerate(plan.sweeps):
        limit = _limit(plan, sweep)
        keys = "all keys there" if limit is None else f"at most {limit} keys a query"
        gate = "" if sweep.gate is None or plan.mode == "hard" else f", gate {sweep.gate}"
        yield f"sweep {index}", f"{sweep.label}; {keys}{gate}"


def _limit(plan: KernelPlan, sweep: SweepPlan) -> int | None:
    """The largest number of keys of a query that the sweep attends; None where it grows with N."""
    widths = [_width(box) for box in sweep.box]
    reached = None if None in widths else sum(width for width in widths if width is not None)
    if sweep.source is None:
        return reached
    k = plan.selections[sweep.source].k
    return k if reached is None else min(k, reached)


def _width(box: Box) -> int | None:
    distance, keys = box.distance, box.keys
    widths = []
    if distance.lower is not None and distance.upper is not None:
        widths.append(distance.upper - distance.lower)
    if keys.upper is not None:
        widths.append(keys.upper - max(keys.lower or 0, 0))
    return min(widths, default=None)


def _limits(plan: KernelPlan) -> list[int | None]:
    """The limits that add up: sweeps of one selection share one."""
    limits: dict[str, int | None] = {}
    for index, sweep in enumerate(plan.sweeps):
        name = f"sweep {index}" if sweep.source is None else f"selection {sweep.source}"
        limits[name] = _limit(plan, sweep)
    return list(limits.values())


def _keys(plan: KernelPlan) -> str:
    limits = _limits(plan)
    known = [limit for limit in limits if limit is not None]
    if not limits:
        return "none: no query attends to any key"
    if len(known) < len(limits):
        return "grow with the context length"
    total = f" = {sum(known)}" if len(known) > 1 else ""
    return f"at most {' + '.join(map(str, known))}{total} a query, in one softmax"


def _time(plan: KernelPlan) -> str:
    time = "O(N^2)" if None in _limits(plan) else "O(N)"
    if not plan.selections:
        return f"{time}, forward and backward"
    return f"{time}, forward and backward; O(N log N) for the selection, once a score group"


def _retained(plan: KernelPlan) -> str:
    boxes = [sweep.box[0] for sweep in plan.sweeps if sweep.source is None]
    if any(box.distance.lower is None or box.distance.lower < 0 for box in boxes):
        return "impossible: queries attend to keys ahead of them"
    if any(box.distance.upper is None and box.keys.upper is None for box in boxes):
        return "keeps all keys"
    kept = [(selection.k, "slots of the selection") for selection in plan.selections]
    # A key waits among the latest ones until its selection may take it.
    waits = [selection.lag for selection in plan.selections]
    recent = [box.distance.upper for box in boxes if box.distance.upper is not None]
    kept.append((max([*recent, *waits], default=0), "latest keys"))
    fixed = [box.keys.upper for box in boxes if box.distance.upper is None and box.keys.upper]
    kept.append((max(fixed, default=0), "first keys"))
    kept = [(count, what) for count, what in kept if count]
    if not kept:
        return "keeps nothing"
    parts = " + ".join(f"{count} {what}" for count, what in kept)
    total = f" = {sum(count for count, _ in kept)} keys" if len(kept) > 1 else ""
    return f"keeps {parts}{total} at any context length"
