"""The kernels for Hopper, warp-specialised in Gluon: the plans they take, what they need of them.

The forward and the backward's dq take sweeps over contiguous keys and over lists of selected ones,
with every gate mode, masks of positions and keys, and all modifiers, dq but for tables of biases,
whose gradients it would have to sum; the key-major backward those over contiguous keys without
either (`attncomp.codegen.hopper_keys`). Left to the Triton templates: tables (conditions that read
tensors, walks, extents), float32, head dims other than 64 and 128, and tiles of other than 128
rows, two warpgroups' worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from attncomp.codegen import triton_view
from attncomp.codegen.expressions import (
    selections_of,
    selections_read,
    selections_read_by_any,
    selections_used,
    sources,
)
from attncomp.codegen.plan import HopperShape, KernelPlan, SweepPlan
from attncomp.ir.affine import Entry
from attncomp.ir.ops import Condition
from attncomp.ir.schedule import Problem

TARGET: Final = "sm_90"
KEY_QUERIES: Final = 64
"""Queries of a tile of the key-major kernel."""
_ROWS: Final = 128
_WIDTHS: Final = (64, 128)
_DTYPES: Final = ("bfloat16", "float16")
_SIZES: Final = ("n_queries", "n_keys", "n_units", "heads_per_kv", "blocks")
_OFFSETS: Final = tuple(f"{name}_{axis}" for name in "qkv" for axis in ("batch", "head", "row"))


def refusal(plan: KernelPlan) -> str | None:
    """Why the forward of a plan is not for Hopper's template; None where it is."""
    rows = plan.schedule.packed_heads * plan.schedule.forward.queries
    own = _first(
        (rows != _ROWS, f"tiles of {rows} rows"),
        (not plan.sweeps, "no sweeps of its own"),
    )
    return _refusal(plan.problem) or own or _refusal_of(plan.sweeps)


def query_refusal(plan: KernelPlan) -> str | None:
    """Why the dq of a plan is not for Hopper's template; None where it is."""
    biased = "gradients of a table of biases" if plan.modifiers.bias is not None else None
    return refusal(plan) or biased


def key_refusal(plan: KernelPlan) -> str | None:
    """Why dk and dv of a plan are not for Hopper's template; None where they are.

    Those of contiguous sweeps: a consumer has no registers left for gates and modified logits.
    """
    contiguous = [sweep for sweep in plan.sweeps if sweep.source is None]
    own = _first(
        (not contiguous, "no sweeps over contiguous keys"),
        (bool(selections_read_by_any(contiguous)), "contiguous keys under a selection"),
        (plan.modifiers.changes_logits, "logits under modifiers"),
    )
    return _refusal(plan.problem) or own or _refusal_of(contiguous)


def _refusal(problem: Problem) -> str | None:
    """Why none of the templates is for a problem."""
    widths = (problem.head_dim, problem.value_dim)
    return _first(
        (problem.backend != "triton" or problem.target != TARGET, f"for {problem.target}"),
        (problem.dtype not in _DTYPES, f"of {problem.dtype}"),
        (any(width not in _WIDTHS for width in widths), f"head dims {widths[0]} and {widths[1]}"),
    )


def _refusal_of(sweeps: Sequence[SweepPlan]) -> str | None:
    """Why none of the templates is for some of these sweeps."""
    bounds = [sweep.bounds for sweep in sweeps if sweep.bounds is not None]
    return _first(
        (any(sweep.walk is not None for sweep in sweeps), "lists of blocks"),
        (any(bool(bound.extent) for bound in bounds), "tables of key ranges"),
        (any(_reads_tables(sweep.condition) for sweep in sweeps), "conditions read tensors"),
    )


def _first(*tests: tuple[bool, str]) -> str | None:
    """The reason of the first test that is met; None where none is."""
    return next((reason for met, reason in tests if met), None)


def with_hopper(plan: KernelPlan) -> KernelPlan:
    """The plan with the kernels for Hopper that it is for."""
    return replace(
        plan,
        hopper=hopper_forward(plan) if refusal(plan) is None else None,
        hopper_query=hopper_query(plan) if query_refusal(plan) is None else None,
        hopper_keys=hopper_keys(plan) if key_refusal(plan) is None else None,
    )


def choices(plan: KernelPlan) -> dict[str, str]:
    """Which kernel each pass of a plan has and why, of plans for Hopper; none for other targets."""
    if plan.problem.backend != "triton" or plan.problem.target != TARGET:
        return {}
    return {
        "forward": _choice(plan.hopper, refusal(plan), _rows_text),
        "dq": _choice(plan.hopper_query, query_refusal(plan), _rows_text),
        "dk and dv": _choice(plan.hopper_keys, key_refusal(plan), _keys_text),
    }


def _choice(
    shape: HopperShape | None, reason: str | None, text: Callable[[HopperShape], str]
) -> str:
    if shape is None:
        return f"Triton, as for every target: {reason}"
    return f"Hopper, warp-specialised: {text(shape)} {shape.stages} tiles ahead"


def _rows_text(shape: HopperShape) -> str:
    return f"two warpgroups of 64 rows by {shape.keys} keys, one that copies"


def _keys_text(shape: HopperShape) -> str:
    return f"two warpgroups of {shape.keys} keys by {KEY_QUERIES} queries, warps that copy"


def _reads_tables(condition: Condition) -> bool:
    entries: list[Entry] = [
        entry for group in condition for part in group for entry in part.test.value.entries
    ]
    return bool(entries)


def hopper_forward(plan: KernelPlan) -> HopperShape:
    """The shape of the forward for Hopper of a plan that it takes.

    Registers: 128 threads each of two consumers at 216 and of the producer at 72 are 504 of the 512
    that a thread slot of the three warpgroups has; a consumer holds 64 x (Dv + keys) float32, and
    its queries.
    """
    return HopperShape(keys=64, stages=4, consumer_registers=216, producer_registers=72)


def hopper_query(plan: KernelPlan) -> HopperShape:
    """The shape of the dq for Hopper of a plan that it takes.

    A consumer holds 64 x (D + 2 keys) float32, and its rows of q and dout: with 64 keys that is all
    that it may have, with nothing left for gates and logits under modifiers.
    """
    if selections_used(plan) or plan.modifiers.changes_logits:
        return HopperShape(keys=32, stages=5, consumer_registers=216, producer_registers=72)
    return HopperShape(keys=64, stages=3, consumer_registers=232, producer_registers=40)


def hopper_keys(plan: KernelPlan) -> HopperShape:
    """The shape of the key-major backward for Hopper of a plan that it takes.

    A consumer holds keys x (D + Dv + 2 queries) float32. What copies is a warp for keys and one for
    queries, which need next to no registers.
    """
    return HopperShape(keys=64, stages=4, consumer_registers=240, producer_registers=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """One number a key beside K and V, in a ring of slots: `key`, `evict_0`, `score_0`."""

    name: str
    slots: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperView:
    """What a template needs of a plan: names of parameters and slots, and rings of numbers a key.

    gates: the selections that gates are of, if soft. sums: what the rows leave of gradients.
    """

    shape: HopperShape
    dtype: str
    soft: bool
    selections: tuple[int, ...]
    gates: tuple[int, ...]
    arguments: tuple[triton_view.Argument, ...]
    rings: tuple[Ring, ...]
    lists: tuple[str, ...]
    tensors: tuple[str, ...]
    sums: tuple[str, ...] = ()
    factors: tuple[str, ...]
    slots: tuple[str, ...]
    flags: tuple[str, ...] = ()

    @property
    def described(self) -> bool:
        """Whether descriptors copy tiles: none has rows, or numbers beside, that threads must."""
        return not self.selections

    @property
    def parameters(self) -> list[str]:
        """Of the kernel, constants aside."""
        state = [argument.parameter for argument in self.arguments]
        tiles = ["k_tiles", "v_tiles"] if self.described else []
        return [*self.tensors, *tiles, *state, *self.sums, *self.factors, *_SIZES, *_OFFSETS]

    @property
    def values(self) -> list[str]:
        """The host's expressions for what stands between tensors and factors."""
        return [*(argument.value for argument in self.arguments), *self.sums]

    @property
    def constants(self) -> list[str]:
        """Of the kernel, the launch's: what strides and lists' lengths are multiples of, flags."""
        return ["ALIGN", *(["LIST_ALIGN"] if self.lists else []), *self.flags]

    @property
    def typed_constants(self) -> list[str]:
        """As parameters."""
        return [f"{name}: gl.constexpr" for name in self.constants]

    @property
    def shared(self) -> list[str]:
        """What producer and consumers share: slots and barriers."""
        slots = [*self.slots, *(ring.slots for ring in self.rings)]
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
    """What the forward's template needs of a plan; None where the plan has no such forward."""
    if plan.hopper is None:
        return None
    soft = plan.mode in ("key_value", "value", "logit")
    sink = triton_view.sink_argument(plan)
    return HopperView(
        shape=plan.hopper,
        dtype=plan.problem.dtype,
        soft=soft,
        selections=tuple(selections_used(plan)),
        gates=_gates(plan) if soft else (),
        arguments=(*_arguments(plan, soft), *([] if sink is None else [sink])),
        rings=_rings(plan, soft),
        lists=_lists(plan),
        tensors=("q", "k", "v", "out", "lse"),
        factors=("scale_log2",),
        slots=("q_slots", "k_slots", "v_slots", "out_slots"),
    )


def hopper_query_view(plan: KernelPlan) -> HopperView | None:
    """What the template of dq needs of a plan; None where the plan has no such dq."""
    if plan.hopper_query is None:
        return None
    soft = plan.differentiable_scores
    thresholds = [f"thresholds_{i}" for i in selections_used(plan) if soft]
    return HopperView(
        shape=plan.hopper_query,
        dtype=plan.problem.dtype,
        soft=soft,
        selections=tuple(selections_used(plan)),
        gates=_gates(plan) if soft else (),
        arguments=_arguments(plan, soft),
        rings=_rings(plan, soft),
        lists=_lists(plan),
        tensors=("q", "k", "v", "out", "lse", "dout", "dlse", "dq", "lse_log2", "row_deltas"),
        sums=(*thresholds, *triton_view.modifier_sums(plan.modifiers)),
        factors=("scale", "scale_log2"),
        slots=("q_slots", "dout_slots", "out_slots", "lse_slots", "k_slots", "v_slots", "dq_slots"),
        flags=("HAS_DLSE",),
    )


def _gates(plan: KernelPlan) -> tuple[int, ...]:
    return tuple(sorted({i for sweep in plan.sweeps for i in selections_of(sweep.gate)}))


def _arguments(plan: KernelPlan, soft: bool) -> tuple[triton_view.Argument, ...]:
    """What a kernel reads beside q, k, v and what is theirs."""
    selections = triton_view.selection_arguments(plan, selections_used(plan), soft, "tile")
    return (*selections, *triton_view.modifier_arguments(plan))


def _rings(plan: KernelPlan, soft: bool) -> tuple[Ring, ...]:
    names = ["key"] if sources(plan) else []
    for i in selections_used(plan):
        names += [f"evict_{i}", *([f"score_{i}"] if soft else [])]
    kinds = {"key": "int32", "evict": "int32", "score": "float32"}
    return tuple(
        Ring(name=name, slots=f"{name}_slots", dtype=kinds[name.split("_")[0]]) for name in names
    )


def _lists(plan: KernelPlan) -> tuple[str, ...]:
    return tuple(triton_view.state_text(plan, i, "tile_keys") for i in sources(plan))
