"""The order of listed keys in generated torch modules, which spares pairs their masks and gates."""

from __future__ import annotations

import pytest
import torch
from dense import Shape, assert_same_results, dense_result, random_inputs
from torch_modules import make_plan, module_of, run_module

from attncomp.codegen.state import state_fields
from attncomp.ir.ops import GATE_MODES, GateMode

SHAPE = Shape(batch=2, query_heads=4, kv_heads=2, groups=2, n_queries=150, n_keys=170)


@pytest.mark.parametrize("mode", GATE_MODES)
@pytest.mark.parametrize(
    "pattern",
    [
        "sparsek(k=40, gate={mode!r}) | window(30)",
        "sparsek(k=40, lag=25, gate={mode!r}) & window(120)",
        "sparsek(k=40, gate={mode!r}) & first(90) | window(9)",
    ],
)
def test_lists_with_many_certain_keys_match_dense_attention(
    pattern: str, mode: GateMode, generator: torch.Generator
) -> None:
    """Scores far apart: most gates are 1, and most lists long enough for keys of every kind."""
    pattern = pattern.format(mode=mode).replace("'", '"')
    scores = 3 * torch.randn(2, 2, 170, generator=generator, dtype=torch.float64)
    inputs = random_inputs(SHAPE, generator, scores=scores)
    actual, _ = run_module(make_plan(pattern, SHAPE, tile=(16, 32)), inputs, scale=0.4)
    assert_same_results(actual, dense_result(pattern, inputs, scale=0.4), atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize(("lower", "upper"), [(0, None), (30, None), (30, 60), (90, 91)])
@pytest.mark.parametrize("lag", [0, 40])
def test_blocks_say_which_queries_attend_their_keys(
    lag: int, lower: int, upper: int | None, generator: torch.Generator
) -> None:
    plan = make_plan(f"sparsek(k=40, lag={lag})", SHAPE, tile=(16, 32))
    module = module_of(plan)
    scores = 3 * torch.randn(2, 2, 170, generator=generator, dtype=torch.float64)
    state = module.select((scores,), 150)
    evict = state[state_fields(plan).index("evict")]  # [B, G, Nk]; a unit a group
    (selection,) = module.selections(state, 2, 150)
    lists = module.Lists(selection, 150, lower=lower, upper=upper, filtered=False)
    key, query = torch.arange(170), torch.arange(20, 170)[:, None]
    wanted = (key <= query - lag) & (query - lag < evict.unsqueeze(2)) & (query - key >= lower)
    if upper is not None:
        wanted &= query - key < upper
    found = torch.zeros(wanted.shape, dtype=torch.int64)  # [B, G, Nq, Nk]
    spared = 0
    for tile in module.tiles(150, 170, torch.device("cpu")):
        for block in lists.blocks(tile):
            size = block.key.shape[3]
            attended = torch.ones(2, 2, tile.last + 1 - tile.first, size, dtype=torch.bool)
            attended[..., block.unmasked :] = block.attended
            found[:, :, tile.span].scatter_add_(
                3, block.key.long().expand_as(attended), attended * 1
            )
            certain = selection.score.take(block.rows[..., : block.ungated])
            assert (selection.gate(tile, certain) == 1).all()
            assert block.ungated <= block.unmasked <= size
            spared += block.ungated
    assert torch.equal(found, wanted.long())
    assert spared > 0 or upper is not None
