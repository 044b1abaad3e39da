"""`select`: the state of every selection, against brute force in exact arithmetic."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from selection_reference import (
    Prefix,
    bounded,
    differentiable_gates,
    key_lists,
    near_step,
    select_all,
    split_state,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attncomp.codegen.emit import render
from attncomp.codegen.plan import KernelPlan, SelectionPlan
from attncomp.codegen.state import state_layout
from attncomp.ir.ops import GateMode
from attncomp.ir.schedule import BackendName, Problem, Schedule, Tile
from attncomp.runtime.loader import load_module

BACKENDS: tuple[BackendName, ...] = ("torch",)
_numbers = itertools.count()


@pytest.fixture(params=BACKENDS, scope="module")
def backend(request: pytest.FixtureRequest) -> BackendName:
    return request.param


def make_plan(
    *selections: SelectionPlan,
    backend: BackendName,
    mode: GateMode | None = "key_value",
    tile: int = 4,
) -> KernelPlan:
    tiles = Tile(queries=tile, keys=16)
    return KernelPlan(
        mode=mode,
        scores=tuple(dict.fromkeys(selection.scores for selection in selections)),
        selections=selections,
        sweeps=(),
        problem=Problem(
            backend=backend, target="cpu", dtype="float64", head_dim=16, value_dim=16, unit_heads=1
        ),
        schedule=Schedule(
            packed_heads=1,
            forward=tiles,
            backward_query=tiles,
            backward_gathered=tiles,
            backward_contiguous=tiles,
            segment=tile,
        ),
        pattern="a selection",
    )


@functools.cache
def load_select(plan: KernelPlan) -> Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]]:
    """`select` of the module that is generated for the plan."""
    name = f"select_{next(_numbers)}"
    path = Path(os.environ["ATTNCOMP_CACHE_DIR"]) / f"{name}.py"
    path.write_text(render(plan), encoding="utf-8")
    return load_module(path, name).select


def run(
    scores: Tensor, n_queries: int | None = None, *, k: int, lag: int = 0, **options: Any
) -> dict[str, Tensor]:
    """The state of one selection over scores [B, G, Nk] or [Nk]."""
    plan = make_plan(SelectionPlan(k=k, lag=lag, scores="scores"), **options)
    if scores.ndim == 1:
        scores = scores[None, None]
    n_queries = scores.shape[-1] if n_queries is None else n_queries
    (state,) = split_state(plan, load_select(plan)((scores,), n_queries))
    return state


def intervals(begin: Tensor, end: Tensor) -> Tensor:
    """[..., time, key]: whether begin <= time < end."""
    time = torch.arange(begin.shape[-1])[:, None]
    return (begin.unsqueeze(-2) <= time) & (time < end.unsqueeze(-2))


def check_lifetimes(row: dict[str, Tensor], prefixes: list[Prefix]) -> None:
    born = torch.arange(len(prefixes))
    assert ((born <= row["evict"]) & (row["evict"] <= len(prefixes))).all()
    for prefix, alive in zip(prefixes, intervals(born, row["evict"]), strict=True):
        assert prefix.selected == tuple(alive.nonzero().flatten().tolist())


def check_thresholds(row: dict[str, Tensor], prefixes: list[Prefix]) -> None:
    tolerance = 1e-6 if row["delta"].dtype == torch.float32 else 1e-11
    for prefix, theta, delta in zip(
        prefixes, row["theta"].tolist(), row["delta"].tolist(), strict=True
    ):
        if prefix.theta is None or prefix.delta is None:
            assert (theta, delta) == (-torch.inf, 0)
            continue
        assert Fraction(theta) == prefix.theta
        assert 0 < delta <= 1
        assert delta == pytest.approx(float(prefix.delta), abs=tolerance)


def check_fractional(row: dict[str, Tensor], prefixes: list[Prefix], exact: bool) -> None:
    """F is right, and |F| is exactly the number of keys that are said to be in F."""
    members = intervals(row["frac_birth"], row["frac_death"])
    assert torch.equal(members.sum(-1, dtype=torch.int32), row["support"])
    assert (row["delta"][row["support"] == 0].remainder(1) == 0).all()
    for prefix, found in zip(prefixes, members.tolist(), strict=True):
        assert not any(found[len(prefix.gates) :])
        for gate, member in zip(prefix.gates, found, strict=False):
            assert member == (0 < gate < 1) or (near_step(gate) and not exact)


def check_lists(row: dict[str, Tensor], expected: list[tuple[int, ...]], capacity: int) -> None:
    keys, count = row["tile_keys"], row["tile_count"]
    assert keys.shape == (len(expected), capacity)
    for wanted, found, n in zip(expected, keys.tolist(), count.tolist(), strict=True):
        assert tuple(found[:n]) == wanted
        assert not any(found[n:])


def check_all(
    state: dict[str, Tensor],
    scores: Tensor,
    n_queries: int,
    *,
    k: int,
    lag: int,
    tile: int,
    exact: bool = False,
) -> None:
    """Every field against brute force; exact: the scores lie on a binary grid."""
    kept = min(k, scores.shape[-1])
    for place in [(b, g) for b in range(scores.shape[0]) for g in range(scores.shape[1])]:
        row = {name: field[place] for name, field in state.items()}
        assert torch.equal(row["score"], bounded(scores[place].to(row["score"].dtype)))
        prefixes = select_all(row["score"].tolist(), k)
        check_lifetimes(row, prefixes)
        if "theta" in row:
            check_thresholds(row, prefixes)
            check_fractional(row, prefixes, exact)
        check_lists(row, key_lists(prefixes, n_queries, lag, tile), kept + tile)


GRIDS: dict[str, st.SearchStrategy[float]] = {
    "constant": st.just(0.7),
    "integers": st.integers(-3, 3).map(float),
    "halves": st.integers(-4, 4).map(lambda x: x / 2),
    "eighths": st.integers(-12, 12).map(lambda x: x / 8),
    "tenths": st.integers(-15, 15).map(lambda x: x / 10),
    "reals": st.floats(-3, 3, width=32),
    "wide": st.floats(-300, 300, width=32),
    "huge": st.sampled_from([1e30, -1e30, 3e30, 0.0, 0.25, 1.0, 1.5]),
    "infinite": st.sampled_from([torch.inf, -torch.inf, 0.0, 0.5]),
}
EXACT = {"constant", "integers", "halves", "eighths", "huge", "infinite"}
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])


@st.composite
def score_rows(draw: st.DrawFn, grid: str) -> Tensor:
    """Scores [1, G, Nk] of one kind, in no order, rising or falling."""
    groups, n_keys = draw(st.integers(1, 2)), draw(st.integers(1, 18))
    rows = [draw(st.lists(GRIDS[grid], min_size=n_keys, max_size=n_keys)) for _ in range(groups)]
    order = draw(st.sampled_from(["as drawn", "rising", "falling"]))
    if order != "as drawn":
        rows = [sorted(row, reverse=order == "falling") for row in rows]
    return torch.tensor(rows, dtype=torch.float64).to(draw(DTYPES))[None]


@pytest.mark.parametrize("grid", GRIDS)
@given(data=st.data())
def test_matches_brute_force(backend: BackendName, grid: str, data: st.DataObject) -> None:
    scores = data.draw(score_rows(grid))
    n_queries = data.draw(st.integers(1, 24), label="n_queries")
    shape = {
        "k": data.draw(st.sampled_from([1, 2, 3, 5, 8, 20]), label="k"),
        "lag": data.draw(st.sampled_from([0, 1, 3, 7, 30]), label="lag"),
        "tile": data.draw(st.sampled_from([1, 2, 4]), label="tile"),
    }
    state = run(scores, n_queries, backend=backend, **shape)
    check_all(state, scores, n_queries, exact=grid in EXACT, **shape)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_ties_between_rounded_sums(
    backend: BackendName, k: int, generator: torch.Generator
) -> None:
    """Gates of exactly 0 or 1 among scores on no grid: membership survives rounding."""
    for _ in range(25):
        base = (1 + torch.rand(4, generator=generator, dtype=torch.float64)).tolist()
        # Where u is 1, u - 1 is 0, and the gates of v and 2 u - 1 - v sum to 1.
        ties = [u - 1 for u in base] + [
            2 * u - 1 - v
            for u in base
            for v in base
            if Fraction(2 * u - 1 - v) == 2 * Fraction(u) - 1 - Fraction(v)
        ]
        row = torch.tensor([*base, *ties], dtype=torch.float64)
        scores = row[torch.randperm(len(row), generator=generator)][None, None]
        state = run(scores, k=k, backend=backend)
        check_all(state, scores, len(row), k=k, lag=0, tile=4, exact=True)


@pytest.mark.parametrize("mode", ["hard", "logit"])
def test_modes(backend: BackendName, mode: GateMode, generator: torch.Generator) -> None:
    """Hard plans have the same evict times and lists and no thresholds."""
    scores = torch.randn(2, 3, 40, generator=generator)
    soft = run(scores, 33, k=6, lag=2, backend=backend)
    state = run(scores, 33, k=6, lag=2, backend=backend, mode=mode)
    assert ("theta" in state) == (mode != "hard")
    for name, field in state.items():
        assert torch.equal(field, soft[name])
    check_all(state, scores, 33, k=6, lag=2, tile=4)


def test_layout_of_several_selections(backend: BackendName, generator: torch.Generator) -> None:
    """Two selections share a score tensor; each is what it is alone; the layout is as declared."""
    selections = (
        SelectionPlan(k=3, lag=0, scores="a"),
        SelectionPlan(k=5, lag=4, scores="b"),
        SelectionPlan(k=50, lag=9, scores="a"),
    )
    plan = make_plan(*selections, backend=backend)
    scores = {
        "a": torch.randn(2, 1, 21, generator=generator),
        "b": torch.randn(2, 4, 21, generator=generator),
    }
    flat = load_select(plan)((scores["a"], scores["b"]), 30)
    layout = state_layout(plan, 2, [1, 4], 30, 21)
    assert [tuple(field.shape) for field in flat] == [field.shape for field in layout]
    dtypes = {"float": torch.float32, "int": torch.int32}
    assert [field.dtype for field in flat] == [dtypes[field.kind] for field in layout]
    assert all(field.is_contiguous() for field in flat)
    # Outputs of an operator must not share memory.
    assert len({field.untyped_storage().data_ptr() for field in flat}) == len(flat)
    for selection, state in zip(selections, split_state(plan, flat), strict=True):
        alone = run(scores[selection.scores], 30, k=selection.k, lag=selection.lag, backend=backend)
        for name, field in state.items():
            assert torch.equal(field, alone[name])


def test_no_selection(backend: BackendName) -> None:
    assert load_select(make_plan(backend=backend, mode=None))((), 7) == ()


@pytest.mark.parametrize(("n_queries", "n_keys"), [(0, 5), (5, 0), (0, 0), (1, 1), (1, 9), (9, 1)])
def test_tiny(backend: BackendName, n_queries: int, n_keys: int) -> None:
    scores = torch.arange(n_keys, dtype=torch.float32).view(1, 1, -1)
    state = run(scores, n_queries, k=2, lag=1, backend=backend)
    check_all(state, scores, n_queries, k=2, lag=1, tile=4)


@pytest.mark.parametrize("n", [6, 60])
def test_empty_batch(backend: BackendName, n: int) -> None:
    state = run(torch.zeros(0, 2, n), k=2, backend=backend)
    plan = make_plan(SelectionPlan(k=2, lag=0, scores="scores"), backend=backend)
    layout = state_layout(plan, 0, [2], n, n)
    assert [tuple(field.shape) for field in state.values()] == [field.shape for field in layout]


def test_strided_scores_that_require_grad(backend: BackendName, generator: torch.Generator) -> None:
    scores = torch.randn(2, 12, 3, generator=generator).transpose(1, 2).requires_grad_()
    state = run(scores, k=4, backend=backend)
    assert not any(field.requires_grad for field in state.values())
    for name, field in run(scores.detach().contiguous(), k=4, backend=backend).items():
        assert torch.equal(field, state[name])


@pytest.mark.parametrize("place", [0, 3, 9])
def test_nan(backend: BackendName, place: int, generator: torch.Generator) -> None:
    """Prefixes that hold a NaN have no threshold; others, and other rows, do not notice."""
    clean = torch.randn(1, 2, 10, generator=generator, dtype=torch.float64)
    scores = clean.clone()
    scores[0, 0, place] = torch.nan
    state, want = (run(u, k=3, lag=1, backend=backend) for u in (scores, clean))
    assert torch.equal(state["score"], scores.nan_to_num(nan=0.0).to(state["score"].dtype))
    for name in ("theta", "delta"):
        assert state[name][0, 0, place:].isnan().all()
        assert torch.allclose(state[name][0, 0, :place], want[name][0, 0, :place], rtol=1e-12)
    for name, field in state.items():
        assert torch.equal(field[0, 1], want[name][0, 1])
    for name in ("tile_keys", "evict", "support", "frac_birth", "frac_death"):
        assert ((state[name] >= 0) & (state[name] <= 10)).all()


GRIDS_OF_GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "reals": lambda x: x,
    "eighths": lambda x: (8 * x).round() / 8,
    "halves": lambda x: (2 * x).round() / 2,
    "constant": lambda x: torch.zeros_like(x),
}


@pytest.mark.parametrize("grid", GRIDS_OF_GRADIENTS)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_gradient_through_thresholds(
    backend: BackendName, grid: str, k: int, generator: torch.Generator
) -> None:
    """sum over q of G - C / |F|, from the state alone, is autograd's gradient of the gates."""
    n = 24
    draw = torch.randn(n, generator=generator, dtype=torch.float64)
    scores = GRIDS_OF_GRADIENTS[grid](draw).requires_grad_()
    weight = torch.randn(n, n, generator=generator, dtype=torch.float64)
    state = {name: field[0, 0] for name, field in run(scores, k=k, backend=backend).items()}
    selected = intervals(torch.arange(n), state["evict"])
    gates = (state["score"] - state["theta"][:, None] + state["delta"][:, None]).clamp(0, 1)
    expected = differentiable_gates(scores, k)
    assert torch.allclose(gates[selected], expected[selected], rtol=0, atol=1e-12)

    (want,) = torch.autograd.grad((expected * weight)[selected].sum(), scores)
    gradient = torch.where(selected & (gates > 0) & (gates < 1), weight, 0)
    share = gradient.sum(-1) / state["support"].clamp(min=1)
    members = intervals(state["frac_birth"], state["frac_death"])
    assert torch.allclose(
        gradient.sum(0) - (members * share[:, None]).sum(0), want, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [0.1, 1.0, 100.0])
def test_gates_sum_to_k(
    backend: BackendName, dtype: torch.dtype, spread: float, generator: torch.Generator
) -> None:
    n, k = 700, 60
    scores = spread * torch.randn(2, 1, n, generator=generator, dtype=dtype)
    state = run(scores, k=k, backend=backend, tile=16)
    time = torch.arange(n)
    offset = (state["delta"] - state["theta"].clamp(min=-1e4)).double().unsqueeze(-1)
    gates = (state["score"].double().unsqueeze(-2) + offset).clamp(0, 1)
    sums = torch.where(time <= time[:, None], gates, 0).sum(-1)
    assert torch.allclose(sums[..., k:], torch.full((), float(k), dtype=sums.dtype), atol=2e-2)
    members = intervals(state["frac_birth"], state["frac_death"])
    assert torch.equal(members.sum(-1, dtype=torch.int32), state["support"])
    alive = intervals(time, state["evict"]).sum(-1)
    assert torch.equal(alive, (time + 1).clamp(max=k).expand_as(alive))


class Work(TorchDispatchMode):
    """Counts the elements that all operations write, and the most that one writes."""

    total = 0
    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor) and not func.is_view:
                self.total += tensor.numel()
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("mode", ["key_value", "hard"])
def test_work_grows_like_n_log_n(backend: BackendName, mode: GateMode) -> None:
    """Twice the keys are little more than twice the work, and no step is quadratic."""
    works = []
    for n in (2048, 4096):
        with Work() as work:
            run(torch.randn(n), k=64, backend=backend, mode=mode, tile=64)
        works.append(work)
    assert works[1].total < 2.3 * works[0].total
    assert works[1].largest < 2.3 * works[0].largest


@pytest.mark.parametrize("mode", ["key_value", "hard"])
def test_keys_that_never_matter_cost_little(backend: BackendName, mode: GateMode) -> None:
    """Of random scores most are too low when they come; of rising ones none is."""
    works = []
    for scores in (torch.randn(8192), torch.arange(8192) / 8):
        with Work() as work:
            run(scores, k=64, backend=backend, mode=mode, tile=64)
        works.append(work.total)
    assert works[0] < 0.4 * works[1]
