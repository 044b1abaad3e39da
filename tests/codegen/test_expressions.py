"""Plan expressions as text, evaluated."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from attncomp.codegen.expressions import (
    TORCH,
    TRITON,
    Dialect,
    fold,
    gate_masks,
    gate_text,
    mask_text,
    owner_texts,
    range_texts,
    selections_of,
    selections_read,
)
from attncomp.codegen.plan import Comparison, Gate, Largest, Selected, Smallest, SweepPlan
from attncomp.ir.affine import Affine, constant, index
from attncomp.ir.ops import Box, Interval, Range
from attncomp.ir.passes.bound import bounds_of

SELECTIONS = 4
# Triton's functions by their torch equals, so that either dialect's text can be evaluated here.
NAMES = {
    "torch": torch,
    "tl": SimpleNamespace(maximum=torch.maximum, minimum=torch.minimum),
}
SCALAR_NAMES = {"tl": SimpleNamespace(maximum=max, minimum=min), "max": max, "min": min}


def gates(leaves: int = 6) -> st.SearchStrategy[Gate]:
    return st.recursive(
        st.integers(0, SELECTIONS - 1).map(Selected),
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map(lambda m: Largest(tuple(m))),
            st.lists(inner, min_size=2, max_size=3).map(lambda m: Smallest(tuple(m))),
        ),
        max_leaves=leaves,
    )


@st.composite
def members(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Gates m0, m1, ... of 50 pairs; few distinct values, so that ties are common."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from((1, 3, 1000)))
    size = (SELECTIONS, 50)
    values = torch.randint(0, steps + 1, size, generator=generator) / steps
    return {f"m{i}": row for i, row in enumerate(values)}


def value_of(gate: Gate, m: dict[str, torch.Tensor]) -> torch.Tensor:
    match gate:
        case Selected(selection):
            return m[f"m{selection}"]
        case Largest(parts):
            return torch.stack([value_of(part, m) for part in parts]).amax(0)
        case Smallest(parts):
            return torch.stack([value_of(part, m) for part in parts]).amin(0)


@given(gate=gates(), m=members(), dialect=st.sampled_from((TORCH, TRITON)))
def test_gate_text(gate: Gate, m: dict[str, torch.Tensor], dialect: Dialect) -> None:
    found = eval(gate_text(gate, dialect), {**NAMES, **m})
    assert torch.equal(found, value_of(gate, m))
    assert set(selections_of(gate)) == {i for i in range(SELECTIONS) if f"m{i}" in str(gate)}


# Selection 0 owns pairs in two places of a member that must itself win.
TWICE = Largest((Selected(2), Largest((Smallest((Selected(0), Selected(1))), Selected(0)))))


RISING = {f"m{i}": torch.tensor([gate]) for i, gate in ((1, 0.0), (0, 0.5), (2, 1.0))}


@example(gate=TWICE, m=RISING, dialect=TORCH)
@given(gate=gates(), m=members(), dialect=st.sampled_from((TORCH, TRITON)))
def test_each_pair_has_one_owner_whose_gate_it_has(
    gate: Gate, m: dict[str, torch.Tensor], dialect: Dialect
) -> None:
    everywhere = torch.ones_like(m["m0"], dtype=torch.bool)
    owned = {
        selection: eval(text, {**NAMES, **m}) if text else everywhere
        for selection, text in owner_texts(gate, dialect).items()
    }
    assert torch.equal(sum(mask.int() for mask in owned.values()), everywhere.int())
    for selection, mask in owned.items():
        assert torch.equal(m[f"m{selection}"][mask], value_of(gate, m)[mask])


def test_first_of_equal_members_owns_the_pair() -> None:
    half = torch.tensor([0.5])
    for gate in (Largest((Selected(1), Selected(0))), Smallest((Selected(1), Selected(0)))):
        texts = owner_texts(gate, TORCH)
        owned = {
            i: bool(eval(text, {**NAMES, "m0": half, "m1": half})) for i, text in texts.items()
        }
        assert owned == {1: True, 0: False}


def test_texts_read_like_code() -> None:
    gate = Largest((Selected(0), Smallest((Selected(1), Selected(2)))))
    assert gate_text(gate, TRITON) == "tl.maximum(m0, tl.minimum(m1, m2))"
    assert gate_text(gate, TORCH, "gate_{}") == (
        "torch.maximum(gate_0, torch.minimum(gate_1, gate_2))"
    )
    assert owner_texts(Largest((Selected(0), Selected(1))), TORCH) == {
        0: "((m0 >= m1))",
        1: "((m1 > m0))",
    }
    assert owner_texts(Selected(3), TRITON) == {3: ""}
    assert fold("f", ["a", "b", "c"]) == "f(f(a, b), c)"


comparisons = st.builds(
    Comparison,
    st.sampled_from(("distance", "key")),
    st.sampled_from((">=", "<")),
    st.integers(-6, 6),
)


@given(residual=st.lists(st.lists(comparisons, min_size=1, max_size=3), min_size=1, max_size=3))
def test_mask_text(residual: list[list[Comparison]]) -> None:
    text = mask_text(residual, "d", "j")
    for distance, key in itertools.product(range(-7, 8), range(-7, 8)):
        values = {"distance": distance, "key": key}
        expected = any(
            all(
                values[c.value] >= c.bound if c.relation == ">=" else values[c.value] < c.bound
                for c in conjunction
            )
            for conjunction in residual
        )
        assert bool(eval(text, {"d": distance, "j": key})) == expected


def test_mask_text_reads_like_code() -> None:
    far, sink = Comparison("distance", ">=", 256), Comparison("key", "<", 4)
    assert mask_text([[far]], "distance", "key") == "(distance >= 256)"
    assert mask_text([[far, sink], [sink]], "distance", "key[None, :]") == (
        "((distance >= 256) & (key[None, :] < 4)) | ((key[None, :] < 4))"
    )


terms = st.one_of(
    st.integers(-40, 40).map(constant),
    st.builds(index, st.sampled_from(("first", "last", "n_keys")), st.integers(-40, 40)),
)


@given(
    lower=st.lists(terms, max_size=3),
    upper=st.lists(terms, max_size=3),
    dialect=st.sampled_from((TORCH, TRITON)),
)
def test_range_texts(lower: list[Affine], upper: list[Affine], dialect: Dialect) -> None:
    names = {"first": 17, "last": 32, "n_keys": 25}
    bounds = Range(lower=tuple(lower), upper=tuple(upper))
    for ends, text, pick in zip(
        (lower, upper), range_texts(bounds, dialect), (max, min), strict=True
    ):
        assert bool(text) == bool(ends)
        if ends:
            values = [eval(str(end), {}, names) for end in ends]
            assert eval(text, {**SCALAR_NAMES, **names}) == pick(values)


def test_range_texts_read_like_code() -> None:
    bounds = bounds_of(Box(distance=Interval(0, 256)))
    assert range_texts(bounds.keys, TRITON) == (
        "tl.maximum(0, first - 255)",
        "tl.minimum(n_keys, last + 1)",
    )
    assert range_texts(bounds.full_keys, TORCH) == (
        "max(0, last - 255)",
        "min(n_keys, first + 1)",
    )
    assert range_texts(bounds_of(Box()).queries, TORCH) == ("", "")


@pytest.mark.parametrize(
    ("gate", "masks"),
    [
        (None, False),
        (Selected(0), False),
        (Selected(1), True),
        (Largest((Selected(1), Selected(0))), False),
        (Smallest((Selected(0), Selected(1))), True),
        (Smallest((Selected(0), Largest((Selected(0), Selected(1))))), False),
    ],
)
def test_gates_that_can_be_zero(gate: Gate | None, masks: bool) -> None:
    sweep = SweepPlan(
        source=0, box=(Box(),), absent=(2,), residual=(), gate=gate, bounds=None, label=""
    )
    assert gate_masks(sweep) == masks
    assert selections_read(sweep) == sorted({0, 2, *selections_of(gate)})
