"""Dense attention against ten pinned cases: outputs, lse and the four gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import Inputs, Result, assert_same_results, run_with_gradients
from torch import Tensor

from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.reference import reference_attention

CASES = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())["cases"]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, ids=[f"{c['name']}: {c['spec']}" for c in CASES])
def test_reference_attention(case: dict[str, Any]) -> None:
    given = {name: tensor(case[name]) for name in ("q", "k", "v", "scores", "dout")}
    lse = tensor(case["lse"])
    expected = Result(
        lse=lse.masked_fill(lse == -1e308, -torch.inf),
        **{
            name: tensor(case[name]) if case[name] is not None else torch.zeros_like(given[of])
            for name, of in (
                ("out", "dout"),
                ("dq", "q"),
                ("dk", "k"),
                ("dv", "v"),
                ("dscores", "scores"),
            )
        },
    )
    graph = build(parse(case["spec"]))
    actual = run_with_gradients(
        lambda q, k, v, scores: reference_attention(graph, q, k, v, {"scores": scores}),
        Inputs(**given, dlse=torch.zeros_like(lse)),
        with_lse=False,
    )
    assert_same_results(actual, expected, atol=1e-9)
