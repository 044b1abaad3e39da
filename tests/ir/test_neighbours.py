"""Schedules that the autotuner tries, and the word that a schedule is kept as."""

from __future__ import annotations

import pytest

from attncomp.ir.neighbours import neighbours, parts_of
from attncomp.ir.passes.schedule import schedule_of
from attncomp.ir.schedule import PARTS, BackendName, Problem, Schedule, Tile, schedule_from


def problem(backend: BackendName = "triton", target: str = "sm_90") -> Problem:
    return Problem(
        backend=backend,
        target=target,
        dtype="bfloat16",
        head_dim=128,
        value_dim=128,
        unit_heads=4,
    )


@pytest.mark.parametrize("asked", [problem(), problem("torch", "cpu"), problem(target="gfx942")])
def test_a_word_holds_a_schedule(asked: Problem) -> None:
    row = schedule_of(asked)
    assert schedule_from(row.text) == row
    assert " " not in row.text


@pytest.mark.parametrize("text", ["", "4/2048", "4/2048/1x2x3x4/1x2x3x4/1x2x3x4", "a/b/c/d/e/f"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|argument|invalid literal"):
        schedule_from(text)


def test_parts() -> None:
    assert parts_of(problem(), gathered=True, gradients=True) == PARTS
    assert parts_of(problem(), gathered=True, gradients=False) == ("forward",)
    without = ("forward", "backward_query", "backward_contiguous")
    assert parts_of(problem(), gathered=False, gradients=True) == without
    assert parts_of(problem("torch", "cpu"), gathered=True, gradients=True) == ("forward",)


def schedule(forward: Tile, backward_query: Tile) -> Schedule:
    return Schedule(
        packed_heads=4,
        segment=64,
        forward=forward,
        backward_query=backward_query,
        backward_gathered=Tile(queries=64, keys=64),
        backward_contiguous=Tile(queries=64, keys=64),
    )


def test_one_size_another_step() -> None:
    first = schedule(Tile(queries=32, keys=64), Tile(queries=32, keys=32))
    near = [s.forward for s in neighbours(first, "forward", problem(), gathered=False)]
    assert near == [
        Tile(queries=16, keys=64),
        Tile(queries=64, keys=64),
        Tile(queries=32, keys=32),
        Tile(queries=32, keys=128),
        Tile(queries=32, keys=64, warps=2),
        Tile(queries=32, keys=64, warps=8),
        Tile(queries=32, keys=64, stages=1),
        Tile(queries=32, keys=64, stages=3),
    ]


def test_lists_of_keys_serve_the_backward() -> None:
    first = schedule(Tile(queries=32, keys=64), Tile(queries=32, keys=32))
    forward = neighbours(first, "forward", problem(), gathered=True)
    assert min(s.forward.queries for s in forward) == 32
    backward = neighbours(first, "backward_query", problem(), gathered=True)
    assert max(s.backward_query.queries for s in backward) == 32
    gathered = neighbours(first, "backward_gathered", problem(), gathered=True)
    assert max(s.backward_gathered.queries for s in gathered) == 64  # the segment


def test_ends_of_the_neighbourhood() -> None:
    small = schedule(Tile(queries=16, keys=16, warps=2, stages=1), Tile(queries=16, keys=16))
    near = [s.forward for s in neighbours(small, "forward", problem(), gathered=False)]
    assert all(min(t.queries, t.keys) >= 16 and t.warps >= 2 and t.stages >= 1 for t in near)
    large = schedule(Tile(queries=64, keys=256, warps=8, stages=5), Tile(queries=64, keys=256))
    near = [s.forward for s in neighbours(large, "forward", problem(), gathered=False)]
    assert all(4 * t.queries <= 256 and t.keys <= 256 for t in near)
    assert all(t.warps <= 8 and t.stages <= 5 for t in near)


def test_torch_tiles_have_neither_warps_nor_stages() -> None:
    asked = problem("torch", "cpu")
    first = schedule_of(asked)
    near = [s.forward for s in neighbours(first, "forward", asked, gathered=False)]
    assert [(t.queries, t.keys) for t in near] == [(64, 1024), (256, 1024), (128, 512), (128, 2048)]
    assert {(t.warps, t.stages) for t in near} == {(4, 2)}
