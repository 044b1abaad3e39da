"""Plans mean what patterns do: their texts, evaluated as kernels evaluate them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from dense import Shape, mask_tensors
from hypothesis import given
from hypothesis import strategies as st
from strategies import SCORE_KINDS, patterns, score_tensor
from torch import Tensor

from attncomp.codegen.expressions import (
    TORCH,
    condition_entries,
    condition_text,
    gate_text,
    mask_text,
    range_texts,
)
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.plan_text import plan_text
from attncomp.frontend.ast import Expr, to_text
from attncomp.ir.affine import Drawn, Passing
from attncomp.ir.build import build
from attncomp.ir.graph import Graph
from attncomp.ir.ops import Bounds, Condition, SparseK
from attncomp.ir.oracle import gate_matrix
from attncomp.ir.schedule import Problem
from attncomp.ir.walk import Walk
from attncomp.runtime.extents import Call, Extent, extent_tables
from attncomp.runtime.tables import BlockParts, block_lists, block_state
from attncomp.runtime.words import unpacked

SMALL = Problem(
    backend="triton", target="cpu", dtype="float32", head_dim=16, value_dim=16, unit_heads=1
)
HEADS = 2


def gate_of(op: SparseK, size: tuple[int, int], tensors: dict[str, Tensor]) -> Tensor:
    graph = Graph()
    return gate_matrix(graph.set_root(graph.add(op)), *size, tensors, HEADS)


def plan_gates(plan: KernelPlan, size: tuple[int, int], tensors: dict[str, Tensor]) -> Tensor:
    """What the plan attends, [1, H, Nq, Nk], by its texts, tile by tile as kernels do."""
    n_queries, n_keys = size
    offset = n_keys - n_queries
    heads, size_of = torch.arange(HEADS)[:, None, None], torch.tensor(n_keys)
    indices = {"h": heads, "b": torch.tensor(0), "n": size_of}
    mode = plan.mode or "hard"
    ops = [SparseK(k=s.k, lag=s.lag, scores=s.scores) for s in plan.selections]
    chosen = [gate_of(replace(op, gate="hard"), size, tensors) > 0 for op in ops]
    names: dict[str, Any] = {
        f"m{i}": gate_of(replace(op, gate=mode), size, tensors) for i, op in enumerate(ops)
    }
    key = torch.arange(n_keys)[None, :]
    query = torch.arange(n_queries)[:, None] + offset
    names |= {"torch": torch, "distance": query - key, "key": key, "n_keys": n_keys}
    call = Call(1, HEADS, HEADS, n_queries, n_keys, torch.device("cpu"), tensors)
    state = block_state(BlockParts.of(plan), call)
    tables = dict(zip(plan.tensors, state, strict=False)) | {"logits": tensors["logits"]}
    total = torch.zeros(1, HEADS, n_queries, n_keys, dtype=torch.float64)
    visits = torch.zeros_like(total)
    for sweep in plan.all_sweeps:
        mask = torch.ones_like(total, dtype=torch.bool)
        if sweep.residual:
            mask &= eval(mask_text(sweep.residual, "distance", "key"), names)
        mask &= met(sweep.condition, indices | {"q": query, "k": key}, tables)
        if sweep.walk is not None:
            mask &= listed(sweep.walk, query, key, tensors)
        if sweep.bounds is not None:
            mask &= visited(plan, sweep.bounds, names, n_queries, offset)
            if sweep.bounds.extent:
                mask &= reached(sweep.bounds, query, key, call)
        if sweep.source is not None:
            mask &= chosen[sweep.source]
        for index in sweep.absent:
            mask &= ~chosen[index]
        gate = 1.0 if sweep.gate is None else eval(gate_text(sweep.gate, TORCH), names)
        total += torch.where(mask, gate, 0.0)
        visits += torch.where(mask, gate, 0.0) != 0
    assert visits.max() <= 1, f"a pair is visited twice\n{plan_text(plan)}"
    return total


def listed(walk: Walk, query: Tensor, key: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """The pairs [B', H', Nq, Nk] that a walk visits."""
    spans, lists = block_lists(walk, tensors, key.shape[1], key.device)
    n_blocks = spans.shape[2]
    if walk.packed:
        found = unpacked(lists.unflatten(2, (n_blocks, -1)))[..., :n_blocks]
    else:
        found = torch.zeros(*spans.shape[:3], n_blocks, dtype=torch.bool)
        for b, h, block in torch.cartesian_prod(*map(torch.arange, spans.shape[:3])).view(-1, 3):
            begin, end = spans[b, h, block].tolist()
            found[b, h, block, lists[b, h, begin:end].long()] = True
    pairs = found[:, :, query.clamp(min=0) // walk.size, key // walk.size]
    return pairs & (query >= 0)


def met(condition: Condition, indices: dict[str, Any], tensors: dict[str, Tensor]) -> Tensor:
    """Where a condition holds, by its texts as they stand in kernels."""
    names: dict[Any, str] = {name: name for name in indices}
    values = dict(indices)
    for number, entry in enumerate(condition_entries(condition)):
        places = [eval(str(place), {}, indices) for place in entry.indices]
        names[entry] = f"entry_{number}"
        table = tensors[entry.name]
        if isinstance(entry.table, Drawn):
            chosen = (table[:, None] == torch.arange(table.shape[0])[:, None]).any(-1)
            table = chosen.long()
        if isinstance(entry.table, Passing):
            values[f"entry_{number}"] = tensors["logits"] >= table[places[0]]
            continue
        values[f"entry_{number}"] = entry_of(table, places)
    text = condition_text(condition, names, TORCH)
    return eval(text, {}, values) if text else torch.tensor(True)


def entry_of(tensor: Tensor, places: list[Tensor]) -> Tensor:
    """Entries of a tensor, 0 outside of it; a dimension of size 1 serves all."""
    sizes = tensor.shape
    inside = [(p >= 0) & ((p < s) | (s == 1)) for p, s in zip(places, sizes, strict=True)]
    clamped = tuple(p.clamp(0, s - 1) for p, s in zip(places, sizes, strict=True))
    return tensor[clamped] * torch.stack(torch.broadcast_tensors(*inside)).all(0)


def visited(
    plan: KernelPlan, bounds: Any, names: dict[str, Any], n_queries: int, offset: int
) -> Tensor:
    """The pairs [Nq, Nk] in the key range of their query tile; full parts must be inside of it."""
    rows = []
    tile = plan.schedule.forward.queries
    for start in range(0, n_queries, tile):
        count = min(tile, n_queries - start)
        ends = names | {"first": start + offset, "last": start + count - 1 + offset}
        low, high = (eval(text, ends) for text in range_texts(bounds.keys, TORCH))
        assert 0 <= low and high <= names["n_keys"]
        if bounds.full_keys is not None:
            full_low, full_high = (eval(t, ends) for t in range_texts(bounds.full_keys, TORCH))
            assert full_low >= full_high or low <= full_low <= full_high <= high
        inside = (names["key"] >= low) & (names["key"] < high)
        rows += [inside] * count
    return torch.cat(rows)


def reached(bounds: Bounds, query: Tensor, key: Tensor, call: Call) -> Tensor:
    """The pairs [B', H', Nq, Nk] within an extent, which both of its tables have to leave."""
    by_query, by_key = extent_tables(Extent.of(bounds.extent), call)
    keys = by_query[:, :, :, :, None].unbind(2)
    queries = by_key[:, :, :, None, :].unbind(2)
    place = torch.arange(query.shape[0])[:, None]
    own = (key >= keys[0]) & (key < torch.maximum(keys[1], ~keys[1]))
    return own & (place >= queries[0]) & (place < torch.maximum(queries[1], ~queries[1]))


@given(
    expr=patterns(max_leaves=6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(SCORE_KINDS),
    seed=st.integers(0, 2**32 - 1),
)
def test_plans_attend_what_patterns_mean(
    expr: Expr, size: tuple[int, int], kind: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = Shape(query_heads=HEADS, n_queries=size[0], n_keys=size[1])
    tensors = mask_tensors(shape, generator)
    tensors["scores"] = score_tensor(kind, (1, HEADS, size[1]), generator)
    plan = lower(expr, SMALL)
    expected = gate_matrix(build(expr), *size, tensors, HEADS)
    found = plan_gates(plan, size, tensors)
    difference = f"{to_text(expr)}\n{plan_text(plan)}"
    assert torch.equal(found, expected.expand_as(found).double()), difference
