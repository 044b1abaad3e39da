"""The forward for Hopper, warp-specialised in Gluon: the plans it takes, and what it needs of them.

It takes sweeps over contiguous keys and over lists of selected ones, with every gate mode, masks of
positions and keys, and all modifiers. Left to the Triton template: tables (conditions that read
tensors, walks, extents), float32, head dims other than 64 and 128, and tiles of other than 128
rows, two warpgroups' worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from attncomp.codegen import triton_view
from attncomp.codegen.expressions import (
    selections_of,
    selections_read,
    selections_used,
    sources,
)
from attncomp.codegen.plan import HopperForward, KernelPlan, SweepPlan
from attncomp.ir.affine import Entry
from attncomp.ir.ops import Condition

TARGET: Final = "sm_90"
_ROWS: Final = 128
_WIDTHS: Final = (64, 128)
_DTYPES: Final = ("bfloat16", "float16")
_SIZES: Final = ("n_queries", "n_keys", "n_units", "heads_per_kv", "blocks")
_OFFSETS: Final = tuple(f"{name}_{axis}" for name in "qkv" for axis in ("batch", "head", "row"))


def refusal(plan: KernelPlan) -> str | None:
    """Why the forward of a plan is not for Hopper's template; None where it is."""
    problem, schedule = plan.problem, plan.schedule
    widths = (problem.head_dim, problem.value_dim)
    rows = schedule.packed_heads * schedule.forward.queries
    tests: tuple[tuple[bool, str], ...] = (
        (problem.backend != "triton" or problem.target != TARGET, f"for {problem.target}"),
        (problem.dtype not in _DTYPES, f"of {problem.dtype}"),
        (any(width not in _WIDTHS for width in widths), f"head dims {widths[0]} and {widths[1]}"),
        (rows != _ROWS, f"tiles of {rows} rows"),
        (not plan.sweeps, "no sweeps of its own"),
        (bool(plan.walks), "lists of blocks"),
        (bool(plan.extents), "tables of key ranges"),
        (any(_reads_tables(sweep.condition) for sweep in plan.sweeps), "conditions read tensors"),
    )
    return next((reason for found, reason in tests if found), None)


def choice(plan: KernelPlan) -> str | None:
    """Which forward the plan has and why, of plans for Hopper; None for those of other targets."""
    if plan.problem.backend != "triton" or plan.problem.target != TARGET:
        return None
    if plan.hopper is None:
        return f"Triton, as for every target: {refusal(plan)}"
    return (
        f"Hopper, warp-specialised: two warpgroups of 64 rows by {plan.hopper.keys} keys, one that "
        f"copies {plan.hopper.stages} tiles ahead"
    )


def _reads_tables(condition: Condition) -> bool:
    entries: list[Entry] = [
        entry for group in condition for part in group for entry in part.test.value.entries
    ]
    return bool(entries)


def hopper_forward(plan: KernelPlan) -> HopperForward:
    """The shape of the forward for Hopper of a plan that it takes.

    Registers: 128 threads each of two consumers at 216 and of the producer at 72 are 504 of the 512
    that a thread slot of the three warpgroups has; a consumer holds 64 x (Dv + keys) float32, and
    its queries.
    """
    return HopperForward(keys=64, stages=4, consumer_registers=216, producer_registers=72)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One number a key beside K and V, in a ring of slots: `key`, `evict_0`, `score_0`."""

    name: str
    slots: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperView:
    """What the template needs of a plan: names of parameters, and rings of numbers a key."""

    shape: HopperForward
    dtype: str
    soft: bool
    selections: tuple[int, ...]
    arguments: tuple[triton_view.Argument, ...]
    rings: tuple[Ring, ...]
    lists: tuple[str, ...]

    @property
    def parameters(self) -> list[str]:
        """Of the kernel, constants aside."""
        state = [argument.parameter for argument in self.arguments]
        return ["q", "k", "v", "out", "lse", *state, "scale_log2", *_SIZES, *_OFFSETS]

    @property
    def constants(self) -> list[str]:
        """Of the kernel, the launch's, what strides and lengths of lists are multiples of."""
        return ["ALIGN", *(["LIST_ALIGN"] if self.lists else [])]

    @property
    def shared(self) -> list[str]:
        """What producer and consumers share: slots and barriers."""
        slots = ["q_slots", "k_slots", "v_slots", "out_slots", *(r.slots for r in self.rings)]
        return [*slots, "q_full", "q_empty", "full", "empty"]

    def fields(self, sweep: SweepPlan, masked: bool, positional: bool) -> list[Ring]:
        """The rings that a tile of a sweep fills: places of listed keys, evict times, scores."""
        wanted = []
        if sweep.source is not None and (masked or positional):
            wanted.append("key")
        for i in selections_read(sweep):
            if masked:
                wanted.append(f"evict_{i}")
            if self.soft and i in selections_of(sweep.gate):
                wanted.append(f"score_{i}")
        return [ring for ring in self.rings if ring.name in wanted]


def hopper_view(plan: KernelPlan) -> HopperView | None:
    """What the template needs of a plan; None where the plan has no forward for Hopper."""
    if plan.hopper is None:
        return None
    soft = plan.mode in ("key_value", "value", "logit")
    selections = selections_used(plan)
    arguments = triton_view.selection_arguments(plan, selections, soft, "tile")
    arguments += triton_view.modifier_arguments(plan)
    sink = triton_view.sink_argument(plan)
    names = ["key"] if sources(plan) else []
    for i in selections:
        names += [f"evict_{i}", *([f"score_{i}"] if soft else [])]
    return HopperView(
        shape=plan.hopper,
        dtype=plan.problem.dtype,
        soft=soft,
        selections=tuple(selections),
        arguments=(*arguments, *([] if sink is None else [sink])),
        rings=tuple(_rings(names)),
        lists=tuple(triton_view.state_text(plan, i, "tile_keys") for i in sources(plan)),
    )


def _rings(names: Sequence[str]) -> list[Ring]:
    kinds = {"key": "int32", "evict": "int32", "score": "float32"}
    return [
        Ring(name=name, slots=f"{name}_slots", dtype=kinds[name.split("_")[0]]) for name in names
    ]
