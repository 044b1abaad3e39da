"""The kernel plan: every decision about a pattern's kernels, frozen, hashable and printable.

Templates read a plan and decide nothing. Two patterns with equal plans share their kernels; what
only labels the plan (texts and spans of the user's spec) takes no part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from attncomp.ir.affine import Entry
from attncomp.ir.modifiers import NO_MODIFIERS, Modifiers
from attncomp.ir.ops import ALWAYS, Bounds, Box, Condition, GateMode
from attncomp.ir.schedule import Problem, Schedule
from attncomp.ir.walk import Walk


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
    need no mask are visited by a loop of their own, without mask code. step: 1, or what divides
    the distances of all pairs (`StridedPart`). walk: which blocks of keys a contiguous sweep
    visits, None for its whole range; `condition` leaves out what it makes sure of.
    """

    source: int | None
    box: tuple[Box, ...]
    absent: tuple[int, ...]
    residual: tuple[tuple[Comparison, ...], ...]
    gate: Gate | None
    bounds: Bounds | None
    condition: Condition = ALWAYS
    full_tiles: bool = False
    step: int = 1
    walk: Walk | None = None
    label: str = field(compare=False)
    origin: str = field(default="", compare=False)

    @property
    def title(self) -> str:
        """Label and place, safe in comments and docstrings whatever the spec's file is called."""
        text = f"`{self.label}`" + (f", {self.origin}" if self.origin else "")
        return "".join(c if c.isprintable() and c not in '"\\' else "?" for c in text)


@dataclass(frozen=True, slots=True, kw_only=True)
class StridedPart:
    """Sweeps over pairs whose distance is a multiple of `step`.

    plan: that of the same pairs among the positions of one remainder modulo step, a row of the
    batch each: what is `step` apart stands side by side in it.
    """

    step: int
    sweeps: tuple[SweepPlan, ...] = field(compare=False)
    plan: KernelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperShape:
    """The shape of a warp-specialised kernel for Hopper (`attncomp.codegen.hopper`).

    keys: of a tile, or of a consumer that holds them. stages: slots for tiles that pass. Registers
    are those of a thread of a consumer and of a producer.
    """

    keys: int
    stages: int
    consumer_registers: int
    producer_registers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPlan:
    """All that a generated module depends on.

    mode: the gate mode of the soft members, None without any. scores: distinct names of run-time
    score tensors, in the order in which `select` takes them. strided: parts of the pattern with
    kernels of their own, which share the softmax with the sweeps. modifiers: what changes the
    logits, the scale aside, which is an argument of the kernels. hopper: the forward in a template
    of its own, None where it is the target-independent one; hopper_query: likewise the backward's
    dq, of plans with such a forward; hopper_keys: dk and dv of contiguous sweeps.
    """

    mode: GateMode | None
    scores: tuple[str, ...]
    selections: tuple[SelectionPlan, ...]
    sweeps: tuple[SweepPlan, ...]
    problem: Problem
    schedule: Schedule
    strided: tuple[StridedPart, ...] = ()
    modifiers: Modifiers = NO_MODIFIERS
    hopper: HopperShape | None = None
    hopper_query: HopperShape | None = None
    hopper_keys: HopperShape | None = None
    pattern: str = field(compare=False)

    @property
    def forward_keys(self) -> int:
        """Keys of the forward's tiles."""
        return self.schedule.forward.keys if self.hopper is None else self.hopper.keys

    @property
    def all_sweeps(self) -> tuple[SweepPlan, ...]:
        """The sweeps, and those of the strided parts, in terms of the whole pattern."""
        return (*self.sweeps, *(sweep for part in self.strided for sweep in part.sweeps))

    @property
    def own(self) -> KernelPlan | None:
        """The plan without its strided parts, None where they are all that there is."""
        return replace(self, strided=()) if self.sweeps or not self.strided else None

    @property
    def modules(self) -> tuple[KernelPlan, ...]:
        """The plans without strided parts that make up this one, a generated module each."""
        own = () if self.own is None else (self.own,)
        return (*own, *(module for part in self.strided for module in part.plan.modules))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that conditions read, in the order of the state."""
        return tuple(self.entries)

    @property
    def entries(self) -> dict[str, Entry]:
        """Of each of these tensors an entry that conditions read, by name, in order."""
        conditions = [part for s in self.sweeps for group in s.condition for part in group]
        entries = [entry for part in conditions for entry in part.test.value.entries]
        return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}

    @property
    def walks(self) -> tuple[Walk, ...]:
        """The distinct walks of the sweeps, in the order of the state."""
        return tuple(dict.fromkeys(s.walk for s in self.sweeps if s.walk is not None))

    @property
    def extents(self) -> tuple[Condition, ...]:
        """The distinct extents of the sweeps' bounds, in the order of the state."""
        found = (s.bounds.extent for s in self.sweeps if s.bounds is not None)
        return tuple(dict.fromkeys(extent for extent in found if extent))

    @property
    def block_entries(self) -> tuple[Entry, ...]:
        """The entries that the state behind the selections is made from."""
        return (*self.entries.values(), *(walk.entry for walk in self.walks))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the run-time tensors, other than scores of keys, that the state is made of."""
        return tuple(sorted({entry.tensor for entry in self.block_entries} - {""}))

    @property
    def differentiable_scores(self) -> bool:
        return self.mode is not None and self.mode != "hard"
