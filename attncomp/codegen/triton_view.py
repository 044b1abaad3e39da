"""What the Triton templates ask of a plan beside its sweeps: the arguments of its kernels."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from attncomp.codegen import entries, expressions
from attncomp.codegen.full_lists import FullBox
from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.codegen.state import state_fields
from attncomp.ir.modifiers import Modifiers
from attncomp.ir.schedule import Problem


class Argument(NamedTuple):
    """One argument of a generated kernel: its parameter, and the host's expression for it."""

    parameter: str
    value: str


def tile_descriptors(plan: KernelPlan) -> bool:
    """Whether the key-major kernel may take its tiles by descriptors (`runtime.descriptors`).

    Steps that walk lists of blocks end before the tile does. What the kernel for Hopper leaves has
    no descriptors.
    """
    contiguous = [sweep for sweep in plan.sweeps if sweep.source is None]
    return (
        plan.hopper_keys is None
        and _copies_tiles(plan.problem)
        and bool(contiguous)
        and all(sweep.walk is None for sweep in contiguous)
    )


def row_descriptors(plan: KernelPlan) -> bool:
    """Whether the kernels of gathered keys may take rows of queries by descriptors.

    They begin at multiples of a tile's queries, and lse and delta are copied by 16 bytes.
    """
    gathered = any(sweep.source is not None for sweep in plan.sweeps)
    return gathered and _copies_tiles(plan.problem) and plan.schedule.backward_gathered.queries >= 4


def _copies_tiles(problem: Problem) -> bool:
    """Whether a GPU copies rows of tiles on its own.

    It does on sm_90 and up, where they are whole multiples of 16 bytes. Tensor cores take float32
    from shared memory in one order alone; and rows of more than 128 numbers would spill.
    """
    return (
        re.fullmatch(r"sm_(9|10|11)\d[af]?", problem.target) is not None
        and problem.dtype in ("float16", "bfloat16")
        and problem.head_dim % 8 == problem.value_dim % 8 == 0
        and max(problem.head_dim, problem.value_dim) <= 128
    )


def state_text(plan: KernelPlan, selection: int, field: str) -> str:
    """The host's expression for a field of a selection's state, in the flat tuple `state`."""
    fields = state_fields(plan)
    return f"state[{selection * len(fields) + fields.index(field)}]"


def selection_arguments(
    plan: KernelPlan, selections: Sequence[int], soft: bool, lists: str
) -> list[Argument]:
    """What a kernel reads of each selection: gates if `soft`; lists are "tile", "segment" or ""."""
    arguments = []
    for i in selections:
        fields = ["evict", *(["score", "theta", "delta"] if soft else [])]
        arguments += [Argument(f"{field}_{i}", state_text(plan, i, field)) for field in fields]
        arguments.append(Argument(f"groups_{i}", f"{state_text(plan, i, 'evict')}.shape[1]"))
        if lists:
            keys = state_text(plan, i, f"{lists}_keys")
            arguments += [
                Argument(f"keys_{i}", keys),
                Argument(f"count_{i}", state_text(plan, i, f"{lists}_count")),
                Argument(f"full_{i}", state_text(plan, i, f"{lists}_full")),
                Argument(f"capacity_{i}", f"{keys}.shape[3]"),
            ]
    return arguments


def condition_text(plan: KernelPlan, sweep: SweepPlan, row: str, col: str) -> str:
    """The sweep's condition on a tile's pairs, "" for none; see `entries.triton_names`."""
    names = entries.triton_names(plan, sweep, row, col)
    return expressions.condition_text(sweep.condition, names, expressions.TRITON)


def tensor_arguments(plan: KernelPlan, sweeps: Sequence[SweepPlan]) -> list[Argument]:
    """What a kernel needs of the integer tensors that the conditions of its sweeps read."""
    arguments = []
    for name, rank in entries.tensors_of(sweeps).items():
        pointer, tensor = entries.pointer(name), entries.tensor_text(plan, name)
        arguments.append(Argument(pointer, tensor))
        for place in range(rank):
            arguments += [
                Argument(f"{pointer}_stride_{place}", f"launch.stride({tensor}, {place})"),
                Argument(f"{pointer}_size_{place}", f"launch.extent({tensor}, {place})"),
            ]
    return arguments


def walk_arguments(
    plan: KernelPlan, sweeps: Sequence[SweepPlan], *, inverse: bool = False
) -> list[Argument]:
    """What a kernel needs of the lists that its sweeps walk; inverse: those of blocks of keys."""
    arguments = []
    walked = {sweep.walk for sweep in sweeps}
    for i, walk in enumerate(plan.walks):
        if walk not in walked:
            continue
        spans, lists = entries.walk_texts(plan, i)
        pointers = (f"inverse_{i}[0]", f"inverse_{i}[1]") if inverse else (spans, lists)
        arguments += [
            Argument(f"spans_{i}", pointers[0]),
            Argument(f"lists_{i}", pointers[1]),
            Argument(f"list_rows_{i}", f"launch.rows({spans})"),
            Argument(f"list_heads_{i}", f"heads // {spans}.shape[1]"),
            Argument(f"list_width_{i}", f"{lists}.shape[2]"),
        ]
    return arguments


def extent_arguments(
    plan: KernelPlan, sweeps: Sequence[SweepPlan], *, of_keys: bool = False
) -> list[Argument]:
    """What a kernel needs of the extents of its sweeps: of queries', or of keys' tables."""
    arguments = []
    limited = {sweep.bounds.extent for sweep in sweeps if sweep.bounds is not None}
    for i, extent in enumerate(plan.extents):
        if extent not in limited:
            continue
        table = entries.extent_texts(plan, extent)[of_keys]
        arguments += [
            Argument(f"extent_{i}", table),
            Argument(f"extent_rows_{i}", f"launch.rows({table})"),
            Argument(f"extent_heads_{i}", f"heads // {table}.shape[1]"),
        ]
    return arguments


def modifier_arguments(plan: KernelPlan) -> list[Argument]:
    """What a kernel reads of the modifiers that change the logits of keys."""
    arguments = []
    if plan.modifiers.slopes is not None:
        arguments.append(Argument("slopes", entries.modifier_text(plan, "slopes")))
    if plan.modifiers.bias is not None:
        arguments.append(Argument("table", entries.modifier_text(plan, "bias")))
    return arguments


def modifier_sums(modifiers: Modifiers) -> list[str]:
    """What the backward's query kernel leaves of gradients of modifiers, and reads for it."""
    slopes = ["dslope_rows"] if modifiers.learned_slopes else []
    bias = ["ahead_rows", "behind_rows", "counts", "quanta_a_unit"]
    return [*slopes, *(bias if modifiers.bias is not None else [])]


def sink_argument(plan: KernelPlan) -> Argument | None:
    """The logits of the sinks, which the forward begins with."""
    if plan.modifiers.sink is None:
        return None
    return Argument("sinks", entries.modifier_text(plan, "sink"))


def size_names(plan: KernelPlan) -> list[str]:
    """Integer parameters of the plan's kernels: none is worth a compilation of its own.

    None may be the name of a pointer too, whose alignment the compiler has to know.
    """
    names = ["n_queries", "n_keys", "n_units", "n_kv_heads", "n_tiles", "n_segments", "n_blocks"]
    names += ["heads_per_kv", "blocks", "n_best", "groups", "capacity"]
    names += ["n_children", "n_parents", "child_capacity", "parent_capacity"]
    names += ["first_time", "span", "children_each", *FullBox._fields]
    if plan.selections:
        names += ["n_nodes", "n_sampled", "room", "part_capacity", "n_parts", "part_span"]
    names += [f"{name}_{axis}" for name in "qkv" for axis in ("batch", "head", "row")]
    names += ["groups_walked"] if plan.differentiable_scores else []
    for i in range(len(plan.selections)):
        names += [f"groups_{i}", f"capacity_{i}"]
    for i in range(len(plan.walks)):
        names += [f"list_rows_{i}", f"list_heads_{i}", f"list_width_{i}"]
    for i in range(len(plan.extents)):
        names += [f"extent_rows_{i}", f"extent_heads_{i}"]
    for name, rank in entries.tensors_of(plan.sweeps).items():
        sizes = [(entries.pointer(name), place) for place in range(rank)]
        names += [f"{p}_{kind}_{place}" for p, place in sizes for kind in ("stride", "size")]
    return names


def wrapped(names: Sequence[str], indent: int) -> str:
    """Names separated by commas, on as many lines of 100 columns as they take, from `indent` on."""
    lines = textwrap.wrap(", ".join(names) + ",", width=100 - indent, break_long_words=False)
    return textwrap.indent("\n".join(lines), " " * indent).lstrip(" ")
