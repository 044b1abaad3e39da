"""The kernel plan: every decision about a pattern's kernels, frozen, hashable and printable.

Templates read a plan and decide nothing. Two patterns with equal plans share their kernels; what
only labels the plan (texts and spans of the user's spec) takes no part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from attncomp.ir.modifiers import NO_MODIFIERS, Modifiers
from attncomp.ir.ops import ALWAYS, Bounds, Box, Condition, GateMode
from attncomp.ir.schedule import Problem, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionPlan:
    """One top-k selection: the k best keys of the prefix `key + lag <= query`, by `scores`."""

    k: int
    lag: int
    scores: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """`value >= bound` or `value < bound`, where value is the pair's distance q - k or its key."""

    value: Literal["distance", "key"]
    relation: Literal[">=", "<"]
    bound: int

    def __str__(self) -> str:
        name = {"distance": "q - k", "key": "k"}[self.value]
        return f"{name} {self.relation} {self.bound}"


@dataclass(frozen=True, slots=True)
class Selected:
    """The gate of one selection, by its index in `KernelPlan.selections`."""

    selection: int

    def __str__(self) -> str:
        return f"m{self.selection}"


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest of the gates; the first of equal ones takes the gradient."""

    members: tuple[Gate, ...]

    def __str__(self) -> str:
        return f"max({', '.join(map(str, self.members))})"


@dataclass(frozen=True, slots=True)
class Smallest:
    """The smallest of the gates; the first of equal ones takes the gradient."""

    members: tuple[Gate, ...]

    def __str__(self) -> str:
        return f"min({', '.join(map(str, self.members))})"


Gate: TypeAlias = "Selected | Largest | Smallest"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """One pass over keys.

    source: the selection whose key lists are walked, or None for a contiguous range of keys.
    absent: selections that must not have selected a pair. residual: a disjunction of conjunctions
    of comparisons that a pair must satisfy; empty: none is needed. For a contiguous sweep it is
    the mask of tiles that are not full. condition: what else a pair must meet, tests of its
    indices. gate: None for a gate of 1. full_tiles: whether tiles that
    need no mask are visited by a loop of their own, without mask code.
    """

    source: int | None
    box: tuple[Box, ...]
    absent: tuple[int, ...]
    residual: tuple[tuple[Comparison, ...], ...]
    gate: Gate | None
    bounds: Bounds | None
    condition: Condition = ALWAYS
    full_tiles: bool = False
    label: str = field(compare=False)
    origin: str = field(default="", compare=False)

    @property
    def title(self) -> str:
        """Label and place, safe in comments and docstrings whatever the spec's file is called."""
        text = f"`{self.label}`" + (f", {self.origin}" if self.origin else "")
        return "".join(c if c.isprintable() and c not in '"\\' else "?" for c in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPlan:
    """All that a generated module depends on.

    mode: the gate mode of the soft members, None without any. scores: distinct names of run-time
    score tensors, in the order in which `select` takes them. modifiers: what changes the logits,
    the scale aside, which is an argument of the kernels.
    """

    mode: GateMode | None
    scores: tuple[str, ...]
    selections: tuple[SelectionPlan, ...]
    sweeps: tuple[SweepPlan, ...]
    problem: Problem
    schedule: Schedule
    modifiers: Modifiers = NO_MODIFIERS
    pattern: str = field(compare=False)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the integer tensors that conditions read, in the order of the state."""
        conditions = [part for s in self.sweeps for group in s.condition for part in group]
        entries = (entry for part in conditions for entry in part.test.value.entries)
        return tuple(sorted({entry.tensor for entry in entries}))

    @property
    def differentiable_scores(self) -> bool:
        return self.mode is not None and self.mode != "hard"
