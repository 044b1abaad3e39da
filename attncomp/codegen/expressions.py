"""Plan expressions as source text: gates, masks and tile bounds, in the dialect of a backend."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import assert_never

from attncomp.codegen.plan import (
    Comparison,
    Gate,
    KernelPlan,
    Largest,
    Selected,
    Smallest,
    SweepPlan,
)
from attncomp.ir.ops import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a backend spells the largest and smallest of two tensors and of two scalars."""

    maximum: str
    minimum: str
    scalar_maximum: str
    scalar_minimum: str


TRITON = Dialect(
    maximum="tl.maximum",
    minimum="tl.minimum",
    scalar_maximum="tl.maximum",
    scalar_minimum="tl.minimum",
)
TORCH = Dialect(
    maximum="torch.maximum",
    minimum="torch.minimum",
    scalar_maximum="max",
    scalar_minimum="min",
)
DIALECTS = {"triton": TRITON, "torch": TORCH}


def fold(function: str, parts: Sequence[str]) -> str:
    """`f(f(a, b), c)`: a binary function over the parts; empty without any."""
    return (
        functools.reduce(lambda text, part: f"{function}({text}, {part})", parts) if parts else ""
    )


def gate_text(gate: Gate, dialect: Dialect, name: str = "m{}") -> str:
    """The gate as an expression over the selections' gates, named `name.format(index)`."""
    match gate:
        case Selected(selection):
            return name.format(selection)
        case Largest(members):
            return fold(dialect.maximum, [gate_text(m, dialect, name) for m in members])
        case Smallest(members):
            return fold(dialect.minimum, [gate_text(m, dialect, name) for m in members])
        case _:
            assert_never(gate)


def owner_texts(gate: Gate, dialect: Dialect, name: str = "m{}") -> dict[int, str]:
    """Per selection, the condition under which its gate is the gate of the pair, "" for always.

    Of equal members the first owns the pair, so each pair has exactly one owner.
    """
    match gate:
        case Selected(selection):
            return {selection: ""}
        case Largest(members):
            return _owners(members, ">=", dialect, dialect.maximum, name)
        case Smallest(members):
            return _owners(members, "<=", dialect, dialect.minimum, name)
        case _:
            assert_never(gate)


def _owners(
    members: Sequence[Gate], relation: str, dialect: Dialect, function: str, name: str
) -> dict[int, str]:
    texts = [gate_text(member, dialect, name) for member in members]
    strict = relation[0]
    owners: dict[int, list[str]] = {}
    for place, member in enumerate(members):
        wins = []
        if place > 0:
            wins.append(f"({texts[place]} {strict} {fold(function, texts[:place])})")
        if place + 1 < len(members):
            wins.append(f"({texts[place]} {relation} {fold(function, texts[place + 1 :])})")
        for selection, inner in owner_texts(member, dialect, name).items():
            condition = " & ".join([*wins, inner] if inner else wins)
            owners.setdefault(selection, []).append(f"({condition})")
    return {
        selection: conditions[0] if len(conditions) == 1 else f"({' | '.join(conditions)})"
        for selection, conditions in owners.items()
    }


def selections_of(gate: Gate | None) -> list[int]:
    """The selections whose gates the gate reads, ascending."""
    match gate:
        case None:
            return []
        case Selected(selection):
            return [selection]
        case Largest(members) | Smallest(members):
            return sorted({i for member in members for i in selections_of(member)})
        case _:
            assert_never(gate)


def selections_read(sweep: SweepPlan) -> list[int]:
    """The selections whose per-key state a sweep needs: its source, absent ones and its gate's."""
    source = [] if sweep.source is None else [sweep.source]
    return sorted({*source, *sweep.absent, *selections_of(sweep.gate)})


def selections_used(plan: KernelPlan) -> list[int]:
    """The selections that any sweep of the plan reads."""
    return selections_read_by_any(plan.sweeps)


def selections_read_by_any(sweeps: Sequence[SweepPlan]) -> list[int]:
    """The selections that any of the sweeps reads."""
    return sorted({i for sweep in sweeps for i in selections_read(sweep)})


def sources(plan: KernelPlan) -> list[int]:
    """The selections whose key lists some sweep walks."""
    return sorted({sweep.source for sweep in plan.sweeps if sweep.source is not None})


def selection_of_scores(plan: KernelPlan, name: str) -> int:
    """The first selection that ranks keys by the named score tensor."""
    return next(i for i, selection in enumerate(plan.selections) if selection.scores == name)


def gate_masks(sweep: SweepPlan) -> bool:
    """Whether the gate can be 0 for a pair that the sweep's source selected."""

    def positive(gate: Gate) -> bool:
        match gate:
            case Selected(selection):
                return selection == sweep.source
            case Largest(members):
                return any(map(positive, members))
            case Smallest(members):
                return all(map(positive, members))
            case _:
                assert_never(gate)

    return sweep.gate is not None and not positive(sweep.gate)


def mask_text(residual: Sequence[Sequence[Comparison]], distance: str, key: str) -> str:
    """The residual as a boolean expression over the names of a pair's distance and key."""
    names = {"distance": distance, "key": key}
    groups = [
        " & ".join(f"({names[c.value]} {c.relation} {c.bound})" for c in conjunction)
        for conjunction in residual
    ]
    return groups[0] if len(groups) == 1 else " | ".join(f"({group})" for group in groups)


def range_texts(bounds: Range, dialect: Dialect) -> tuple[str, str]:
    """Lower and upper end of a range, over the names `first`, `last` and `n_keys`.

    An end without a limit is the empty text.
    """
    lower = fold(dialect.scalar_maximum, [str(term) for term in bounds.lower])
    upper = fold(dialect.scalar_minimum, [str(term) for term in bounds.upper])
    return lower, upper
