"""Entries of integer tensors in conditions: how kernels name and load them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from attncomp.codegen.expressions import (
    TORCH,
    TRITON,
    Names,
    condition_entries,
    condition_indices,
    subscript_text,
)
from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.codegen.state import state_fields
from attncomp.ir.affine import Drawn, Entry, IndexName, Passing, index
from attncomp.ir.ops import Condition

_QUERY_MAJOR: Final = "[:, None]"


def pointer(name: str) -> str:
    """What a tensor is called in generated code."""
    return f"made_{name.replace('.', '_')}" if "." in name else f"given_{name}"


def tensor_text(plan: KernelPlan, name: str) -> str:
    """The host's expression for a tensor, which stands behind the selections in `state`."""
    before = len(plan.selections) * len(state_fields(plan))
    return f"state[{before + plan.tensors.index(name)}]"


def walk_texts(plan: KernelPlan, walk: int) -> tuple[str, str]:
    """The host's expressions for spans and lists of a walk, behind the tensors in `state`."""
    before = len(plan.selections) * len(state_fields(plan)) + len(plan.tensors) + 2 * walk
    return f"state[{before}]", f"state[{before + 1}]"


def extent_texts(plan: KernelPlan, extent: Condition) -> tuple[str, str]:
    """The host's expressions for both tables of an extent, behind the walks in `state`."""
    before = len(plan.selections) * len(state_fields(plan)) + len(plan.tensors)
    before += 2 * len(plan.walks) + 2 * plan.extents.index(extent)
    return f"state[{before}]", f"state[{before + 1}]"


def modifier_text(plan: KernelPlan, kind: str) -> str:
    """The host's expression for the tensor of a modifier, the last ones in `state`."""
    modifiers = plan.modifiers
    given = {"slopes": modifiers.slopes, "bias": modifiers.bias, "sink": modifiers.sink}
    present = [name for name, value in given.items() if value is not None]
    before = len(plan.selections) * len(state_fields(plan)) + len(plan.tensors)
    before += 2 * len(plan.walks) + 2 * len(plan.extents)
    return f"state[{before + present.index(kind)}]"


def tensors_of(sweeps: Sequence[SweepPlan]) -> dict[str, int]:
    """The tensors that the conditions of sweeps read, with the number of their dimensions."""
    return {e.name: len(e.indices) for e in sorted(_entries(sweeps), key=lambda e: e.name)}


@dataclass(frozen=True, slots=True)
class Load:
    """One load of a Triton kernel: `name = tl.load(address, mask=mask, other=other)`.

    mask is "" for none. hoisted: whether it stands before the loop over a sweep's tiles. value: the
    name, lifted to the pairs of a tile.
    """

    name: str
    address: str
    mask: str
    hoisted: bool
    value: str
    other: int = 0


def triton_loads(plan: KernelPlan, sweep: SweepPlan, row: str, col: str) -> list[Load]:
    """The entries that a sweep's condition reads, for tiles with these subscripts."""
    return [load for found in _loads(plan, sweep, row, col).values() for load in found]


def _loads(plan: KernelPlan, sweep: SweepPlan, row: str, col: str) -> dict[Entry, list[Load]]:
    numbers = {entry: number for number, entry in enumerate(_entries(plan.sweeps))}
    return {
        e: _draws(e, e.table.count, numbers[e], row, col)
        if isinstance(e.table, Drawn)
        else [_load(e, numbers[e], row, col)]
        for e in condition_entries(sweep.condition)
    }


def _entries(sweeps: Sequence[SweepPlan]) -> list[Entry]:
    return list(dict.fromkeys(entry for s in sweeps for entry in condition_entries(s.condition)))


def triton_names(plan: KernelPlan, sweep: SweepPlan, row: str, col: str) -> Names:
    """What a pair's indices, and the entries that the sweep's condition reads, are called.

    row and col are the subscripts that lift vectors over a tile's queries, of a head each, and over
    its keys; query-major kernels have row "[:, None]". What thresholds are compared with is the
    tile's `product`, summed in float32. Tiles of another shape, and transposed ones in key-major
    kernels, may sum in another order: a pair whose logit is within rounding of its threshold may be
    attended in one kernel and not in the next, and then has gradients in dk and dv alone, or in dq
    alone.
    """
    names = _indices(row, col, row)
    values: dict[IndexName | Entry, str] = {}
    for entry, loads in _loads(plan, sweep, row, col).items():
        values[entry] = loads[0].value
        if isinstance(entry.table, Drawn):
            block = subscript_text(entry.indices[1], names, TRITON)
            drawn = " | ".join(f"({load.value} == {block})" for load in loads)
            values[entry] = f"({drawn}).to(tl.int32)"
        elif isinstance(entry.table, Passing):
            values[entry] = f"product * scale >= {values[entry]}"
    return {**names, **values}


def _indices(row: str, col: str, orientation: str) -> dict[IndexName | Entry, str]:
    head = "head + row_head" if orientation == _QUERY_MAJOR else "step_head"
    return {
        "q": f"position{row}",
        "k": f"key{col}",
        "h": f"({head}){row}" if " " in head else f"{head}{row}",
        "b": "batch",
        "n": "n_keys",
    }


def _load(entry: Entry, number: int, row: str, col: str) -> Load:
    used = frozenset[IndexName]().union(*(position.indices for position in entry.indices))
    query_major = row == _QUERY_MAJOR
    rows, keys = bool(used & {"q", "h"}), "k" in used
    names = _indices(row, col, row) if rows and keys else _indices("", "", row)
    offsets, inside = [], []
    for place, position in enumerate(entry.indices):
        text = subscript_text(position, names, TRITON)
        text = f"({text})" if " " in text else text
        wide = f"{text}.to(tl.int64)" if position.terms else text
        offsets.append(f"{wide} * {pointer(entry.name)}_stride_{place}")
        if position not in (index("b"), index("h")):  # whose sizes fit
            inside.append(f"({text} >= 0) & ({text} < {pointer(entry.name)}_size_{place})")
    name = f"entry_{number}"
    return Load(
        name=name,
        address=f"{pointer(entry.name)} + {' + '.join(offsets)}",
        mask=" & ".join(inside),
        hoisted=used <= ({"q", "h", "b", "n"} if query_major else {"k", "b", "n"}),
        value=name + ("" if rows == keys else row if rows else col),
    )


def _draws(entry: Entry, count: int, number: int, row: str, col: str) -> list[Load]:
    """The blocks of keys that are drawn for the block of each query, one load a draw."""
    block = subscript_text(entry.indices[0], _indices("", "", row), TRITON)
    name, table = f"entry_{number}", pointer(entry.name)
    return [
        Load(
            name=f"{name}_{draw}",
            address=f"{table} + {block} * {table}_stride_0 + {draw} * {table}_stride_1",
            mask=f"({block} >= 0) & ({block} < {table}_size_0)",
            hoisted=row == _QUERY_MAJOR,
            value=f"{name}_{draw}{row}",
            other=-1,  # no block
        )
        for draw in range(count)
    ]


def torch_names(sweep: SweepPlan) -> Names:
    """The same for a block of a sweep in torch; keys are [n], or [B, U, 1, n] if gathered."""
    lifted = spreads(sweep) and (sweep.source is not None or sweep.walk is not None)
    names: dict[IndexName | Entry, str] = {
        "q": "tile.position",
        "k": "key.unsqueeze(2)" if lifted else "key",
        "h": "tile.head",
        "b": "tile.batch",
        "n": "tile.n_keys",
    }
    for entry in condition_entries(sweep.condition):
        if isinstance(entry.table, Passing):
            names[entry] = f"product >= {pointer(entry.name)}[tile.head]"
            continue
        positions = (subscript_text(position, names, TORCH) for position in entry.indices)
        function = "drawn" if isinstance(entry.table, Drawn) else "entry"
        names[entry] = f"{function}({pointer(entry.name)}, {', '.join(positions)})"
    return names


def compares(sweep: SweepPlan) -> bool:
    """Whether a sweep's condition asks for the logits of pairs."""
    return any(isinstance(e.table, Passing) for e in condition_entries(sweep.condition))


def spreads(sweep: SweepPlan) -> bool:
    """Whether a sweep's condition differs from head to head or from row to row of the batch."""
    return bool(condition_indices(sweep.condition) & {"h", "b"})
