"""Plan expressions as source text: gates, masks and tile bounds, in the dialect of a backend."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

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
from attncomp.ir.affine import (
    Affine,
    Drawn,
    Entry,
    Index,
    IndexName,
    Passing,
    Product,
    Quotient,
    Remainder,
)
from attncomp.ir.ops import Condition, Range, Requirement, Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a backend spells the largest and smallest of two tensors and of two scalars.

    quotient and remainder are those of an integer by a constant, rounded down; wide makes 64-bit
    integers of a tensor of 32-bit ones, wide_scalar of a size,
    wide_entry of an entry of a tensor.
    """

    maximum: str
    minimum: str
    scalar_maximum: str
    scalar_minimum: str
    quotient: str
    remainder: str
    wide: str
    wide_scalar: str
    wide_entry: str


TRITON = Dialect(
    maximum="tl.maximum",
    minimum="tl.minimum",
    scalar_maximum="tl.maximum",
    scalar_minimum="tl.minimum",
    quotient="floor_divide({}, {})",
    remainder="remainder({}, {})",
    wide="{}.to(tl.int64)",
    wide_scalar="{}.to(tl.int64)",
    wide_entry="{}.to(tl.int64)",
)
TORCH = Dialect(
    maximum="torch.maximum",
    minimum="torch.minimum",
    scalar_maximum="max",
    scalar_minimum="min",
    quotient="{} // {}",
    remainder="{} % {}",
    wide="{}.long()",
    wide_scalar="{}",
    wide_entry="{}",
)
Names: TypeAlias = Mapping[IndexName | Entry, str]
"""How the indices of a pair, and the entries of tensors, are called in a generated text."""

_NARROW: Final = 1 << 31
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


def ranks(plan: KernelPlan, name: str) -> bool:
    """Whether any sweep reads a selection that ranks keys by the named score tensor."""
    return any(plan.selections[i].scores == name for i in selections_used(plan))


def other_scores(plan: KernelPlan, source: int) -> list[int]:
    """Score tensors, by their place in the plan, that a source's sweeps rank by beside its own."""
    own = plan.selections[source].scores
    sweeps = (sweep for sweep in plan.sweeps if sweep.source == source)
    read = {i for sweep in sweeps for i in selections_of(sweep.gate)}
    names = {plan.selections[i].scores for i in read} - {own}
    return sorted(map(plan.scores.index, names))


def score_sum(plan: KernelPlan, sweep: SweepPlan, selection: int) -> str:
    """The name of the Triton sum of what a selection's scores get of one key in a sweep."""
    name = plan.selections[selection].scores
    is_own = sweep.source is not None and plan.selections[sweep.source].scores == name
    return "dscore_tile" if is_own else f"dscore_{plan.scores.index(name)}_tile"


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


def condition_text(condition: Condition, names: Names, dialect: Dialect) -> str:
    """The condition of a sweep as a boolean expression over the names of a pair's indices."""
    alternatives = [
        " & ".join(f"({_test_text(required, names, dialect)})" for required in alternative)
        for alternative in condition
    ]
    if len(alternatives) == 1:
        return alternatives[0]
    return " | ".join(f"({alternative})" for alternative in alternatives)


def divides(plan: KernelPlan) -> bool:
    """Whether a bound or a condition of the plan holds a quotient or a remainder."""
    conditions = [sweep.condition for sweep in plan.sweeps]
    values = [part.test.value for groups in conditions for group in groups for part in group]
    for bounds in (sweep.bounds for sweep in plan.sweeps if sweep.bounds is not None):
        ranges = (bounds.keys, bounds.full_keys, bounds.queries, bounds.full_queries)
        values += [end for r in ranges if r is not None for end in (*r.lower, *r.upper)]
    return any(map(_divides, values))


def condition_entries(condition: Condition) -> tuple[Entry, ...]:
    """The entries of tensors that a condition reads, each once."""
    values = [part.test.value for group in condition for part in group]
    return tuple(dict.fromkeys(entry for value in values for entry in value.entries))


def _divides(value: Affine) -> bool:
    for term, _ in value.terms:
        if isinstance(term, Quotient | Remainder):
            return True
        if isinstance(term, Product) and (_divides(term.left) or _divides(term.right)):
            return True
        if isinstance(term, Entry) and any(map(_divides, term.indices)):
            return True
    return False


def reads_draws(plan: KernelPlan) -> bool:
    """Whether a condition of the plan reads a table of drawn blocks."""
    return any(isinstance(entry.table, Drawn) for entry in plan.entries.values())


def reads_entries(plan: KernelPlan) -> bool:
    """Whether a condition of the plan reads entries of any other tensor of integers."""
    return any(not isinstance(e.table, Drawn | Passing) for e in plan.entries.values())


def compares_logits(plan: KernelPlan) -> bool:
    """Whether a condition of the plan compares the logits of pairs with thresholds."""
    return any(isinstance(entry.table, Passing) for entry in plan.entries.values())


def asks_for_size(plan: KernelPlan) -> bool:
    """Whether a condition of the plan asks for the number of keys."""
    return any("n" in condition_indices(sweep.condition) for sweep in plan.sweeps)


def condition_indices(condition: Condition) -> frozenset[IndexName]:
    """The indices that a condition asks for."""
    names: frozenset[IndexName] = frozenset()
    return names.union(*(part.test.value.indices for group in condition for part in group))


def _test_text(required: Requirement, names: Names, dialect: Dialect) -> str:
    """A comparison; in 64 bits where a number on the way may not fit into 32."""
    test = required.test
    if test.passing is not None:
        text = names[test.passing]
        return text if required.holds else f"~({text})"
    relation = {"==": ("!=", "=="), ">=": ("<", ">=")}[test.relation][required.holds]
    sides = _apart(test) if test.relation == "==" else test.sides
    if max(side.reach for side in sides) >= _NARROW:
        names = _wide(names, dialect)
    return f" {relation} ".join(affine_text(side, names, dialect) for side in sides)


def subscript_text(position: Affine, names: Names, dialect: Dialect) -> str:
    """A subscript of a tensor; in 64 bits where a number on the way may not fit into 32."""
    return affine_text(
        position, names if position.reach < _NARROW else _wide(names, dialect), dialect
    )


def _wide(names: Names, dialect: Dialect) -> Names:
    return {name: _widened(name, text, dialect) for name, text in names.items()}


def _widened(name: IndexName | Entry, text: str, dialect: Dialect) -> str:
    """`position[:, None]` in 64 bits: `position.to(tl.int64)[:, None]`; h and b have them."""
    if name in ("h", "b"):
        return text
    if name == "n":
        return dialect.wide_scalar.format(text)
    if isinstance(name, Entry):
        return dialect.wide_entry.format(text)
    vector, bracket, subscript = text.partition("[")
    return dialect.wide.format(vector) + bracket + subscript


def _apart(test: Where) -> tuple[Affine, Affine]:
    """Two expressions that are equal where the value is 0, keys on one side where possible.

    `(q - k) % 4 == 1` is `q % 4 == (k + 1) % 4`, a division a row and a key instead of a pair.
    """
    value = test.value
    if len(value.terms) == 1 and isinstance(value.terms[0][0], Remainder):
        term = value.terms[0][0]
        keys = term.value.part({"k"})
        if keys.terms and not keys.part({"q", "h"}).terms and keys.terms != term.value.terms:
            rest = Affine((), -value.constant) - keys
            return (term.value - keys).remainder(term.divisor), rest.remainder(term.divisor)
    return test.sides


def affine_text(value: Affine, names: Names, dialect: Dialect) -> str:
    """An integer expression over the names of its indices."""

    def name(part: Index | Entry) -> str:
        return names[part if isinstance(part, Entry) else part.name]

    return value.text(name, dialect.quotient, dialect.remainder)


def range_texts(bounds: Range, dialect: Dialect) -> tuple[str, str]:
    """Lower and upper end of a range, over the names `first`, `last` and `n_keys`.

    An end without a limit is the empty text.
    """
    names: Names = {"first": "first", "last": "last", "n_keys": "n_keys"}
    lower, upper = (
        [affine_text(end, names, dialect) for end in ends] for ends in (bounds.lower, bounds.upper)
    )
    return fold(dialect.scalar_maximum, lower), fold(dialect.scalar_minimum, upper)
