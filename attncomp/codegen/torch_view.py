"""What the torch templates ask of each sweep of a plan, worked out once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from typing_extensions import assert_never

from attncomp.codegen import entries, expressions
from attncomp.codegen.plan import Gate, KernelPlan, Largest, Selected, Smallest, SweepPlan

_NAME: Final = re.compile(r"[a-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepView:
    """One sweep as the templates see it.

    title: its source text and place. flags: selections other than the source whose choice decides
    which pairs count; reads: these and the source. mask: the condition of a pair as an expression
    over `distance`, `key`, `tile` and `selected_<i>`, "" for none; residual: the part of it that
    full blocks need not evaluate; spread: the condition that differs from head to head or from row
    to row of the batch; decided: in the place of it, a condition over the pair's `product` as well.
    gates: selections whose gates the pair's gate is made of, () where only their choice matters.
    gate: the pair's gate over `m<i>`. owners: per selection, when its gate is the pair's. weighted:
    whether the forward's scores or weights depend on the gate. keyed: whether the gates need to
    know the block's keys. full_tiles: whether some blocks are looked for that need no mask.
    located: whether modifiers or products' conditions need to know the keys of a list. tensors:
    names of the tensors that the mask or `spread` reads. walk: the number of the walk that lists
    the sweep's keys, None for none. extent: the number of the extent that limits its range, None
    for none. nearest, beyond: the distances q - k that lists of a selection's keys are limited to,
    from nearest to before beyond, None for any; such a limit is left out of the mask.
    """

    index: int
    source: int | None
    lower: str
    upper: str
    full_lower: str
    full_upper: str
    title: str
    flags: tuple[int, ...]
    reads: tuple[int, ...]
    residual: str
    mask: str
    spread: str
    decided: str
    gates: tuple[int, ...]
    gate: str
    owners: dict[int, str]
    weighted: bool
    keyed: bool
    full_tiles: bool
    located: bool
    tensors: tuple[str, ...]
    walk: int | None
    extent: int | None
    nearest: int
    beyond: int | None

    @property
    def banded(self) -> bool:
        """Whether the masks of a range of keys depend on distances alone."""
        others = self.flags or self.spread or self.decided or self.extent is not None
        return not self.listed and not others and set(_NAME.findall(self.mask)) == {"distance"}

    @property
    def in_bits(self) -> bool:
        """Whether masks are made of bits at once: those that no head and no product changes."""
        return not self.spread and not self.decided

    @property
    def filtered(self) -> bool:
        """Whether pairs of listed keys ask for more than the selection that lists them."""
        return bool(self.mask or self.spread or self.decided or self.keyed)

    @property
    def listed(self) -> bool:
        """Whether the keys are those of a list, and not a range."""
        return self.source is not None or self.walk is not None


def sweep_views(plan: KernelPlan) -> list[SweepView]:
    """The plan's sweeps, in order."""
    return [sweep_view(plan, index) for index in range(len(plan.sweeps))]


def cache_line(plan: KernelPlan) -> int:
    """How many scores fill a cache line of 64 bytes: blocks of keys have a multiple of these."""
    return 8 if plan.problem.dtype == "float64" else 16


def sweep_view(plan: KernelPlan, index: int) -> SweepView:
    """One of the plan's sweeps, by its number."""
    sweep = plan.sweeps[index]
    residual = expressions.mask_text(sweep.residual, "distance", "key") if sweep.residual else ""
    distances = None if sweep.source is None else _distances(sweep)
    if distances is not None:
        residual = ""
    present = "" if sweep.gate is None else _presence(sweep.gate, sweep.source)
    absent = [f"~selected_{i}" for i in sweep.absent]
    condition, spread, decided = _condition(sweep)
    conditions = [text for text in (residual, condition, present, *absent) if text]
    flags = set(sweep.absent)
    gates: tuple[int, ...] = ()
    gate, owners = "", {}
    if sweep.gate is not None:
        gate = expressions.gate_text(sweep.gate, expressions.TORCH)
        owners = {
            index: f"({text})" if " | " in text else text[1:-1]
            for index, text in expressions.owner_texts(sweep.gate, expressions.TORCH).items()
        }
        flags |= {i for i in owners if f"selected_{i}" in present}
        gates = tuple(sorted(owners)) if plan.differentiable_scores else ()
    return SweepView(
        index=index,
        source=sweep.source,
        **_bounds(sweep),
        title=sweep.title,
        flags=tuple(sorted(flags)),
        reads=tuple(sorted(flags | ({sweep.source} if sweep.source is not None else set()))),
        residual=residual,
        spread=spread,
        decided=decided,
        mask=" & ".join(_operand(text) if len(conditions) > 1 else text for text in conditions),
        gates=gates,
        gate=gate,
        owners=owners,
        weighted=bool(gates) and plan.mode != "straight_through",
        full_tiles=sweep.full_tiles and bool(residual or condition or spread) and not flags,
        tensors=() if decided else tuple(map(entries.pointer, entries.tensors_of([sweep]))),
        keyed=any(i != sweep.source for i in gates),
        walk=None if sweep.walk is None else plan.walks.index(sweep.walk),
        extent=_extent(plan, sweep),
        nearest=distances[0] if distances else 0,
        beyond=distances[1] if distances else None,
        located=(plan.modifiers.positional or "key" in decided)
        and (sweep.source is not None or sweep.walk is not None),
    )


def _distances(sweep: SweepPlan) -> tuple[int, int | None] | None:
    """The range of distances that a residual stands for, None if it says anything else."""
    if not sweep.residual:
        return 0, None
    comparisons = sweep.residual[0]
    if len(sweep.residual) > 1 or any(c.value != "distance" for c in comparisons):
        return None
    lower = [c.bound for c in comparisons if c.relation == ">="]
    upper = [c.bound for c in comparisons if c.relation == "<"]
    return max(lower, default=0), min(upper, default=None)


def _extent(plan: KernelPlan, sweep: SweepPlan) -> int | None:
    if sweep.bounds is None or not sweep.bounds.extent:
        return None
    return plan.extents.index(sweep.bounds.extent)


def _bounds(sweep: SweepPlan) -> dict[str, str]:
    names = ("lower", "upper", "full_lower", "full_upper")
    ranges = [] if sweep.bounds is None else [sweep.bounds.keys, sweep.bounds.full_keys]
    texts = [expressions.range_texts(r, expressions.TORCH) if r else ("", "") for r in ranges]
    ends = [end for pair in texts for end in pair] or [""] * 4
    return dict(zip(names, ends, strict=True))


def _condition(sweep: SweepPlan) -> tuple[str, str, str]:
    """The sweep's condition as text: for all heads and rows of the batch alike, for each of them,
    or for each product of a query and a key."""
    names = entries.torch_names(sweep)
    text = expressions.condition_text(sweep.condition, names, expressions.TORCH)
    if entries.compares(sweep):
        return "", "", text
    return ("", text, "") if entries.spreads(sweep) else (text, "", "")


def _operand(text: str) -> str:
    """The text with the parentheses that an operand of `&` needs."""
    return f"({text})" if " | " in text or " & " in text else text


def _presence(gate: Gate, source: int | None) -> str:
    """When the gate is not zero, as a condition on `selected_<i>`; "" where the source suffices."""
    match gate:
        case Selected(selection):
            return "" if selection == source else f"selected_{selection}"
        case Largest(members):
            parts = [_presence(member, source) for member in members]
            return " | ".join(_operand(part) for part in parts) if all(parts) else ""
        case Smallest(members):
            parts = [part for part in (_presence(member, source) for member in members) if part]
            return parts[0] if len(parts) == 1 else " & ".join(_operand(part) for part in parts)
        case _:
            assert_never(gate)
