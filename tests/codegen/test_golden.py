"""The listing after every pass, and the plan, of a few patterns, as files in `tests/golden/plans`.

`pytest --update-golden` rewrites them; a file that no pattern owns fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from attncomp.codegen.lower import lower
from attncomp.codegen.plan_text import plan_text
from attncomp.ir.graph import Graph
from attncomp.ir.passes import Pass
from attncomp.ir.printer import print_graph
from attncomp.ir.schedule import Problem

FOLDER = Path(__file__).parent.parent / "golden" / "plans"
# The interpreter's schedule: tuning a device's tiles changes no golden file.
PROBLEM = Problem(
    backend="triton", target="cpu", dtype="float32", head_dim=64, value_dim=64, unit_heads=2
)
PATTERNS = {
    "causal": "causal",
    "sinks": "first(4) | window(256)",
    "sparsek_window": "sparsek(k=512) | window(256)",
    "sparsek_lag_window": "sparsek(k=512, lag=256) | window(256)",
    "sparsek_sinks_window": "window(256) | (first(4) | sparsek(k=64)) - window(128)",
    "two_selections": "sparsek(k=8) | sparsek(k=8, lag=16)",
    "soft_intersection": "sparsek(k=64) & sparsek(k=16, lag=4) & window(128) | window(8)",
    "hard_difference": (
        'window(4) | sparsek(k=64, gate="hard") - sparsek(k=8, lag=3, gate="hard")'
    ),
    "hard_complement": 'causal - sparsek(k=8, gate="hard")',
    "empty": "window(4) - full",
}


def listing(pattern: str) -> str:
    """All that the compiler decides about a pattern, pass by pass where a pass changes anything."""
    parts = [f"pattern {pattern}\n"]
    last = ""

    def collect(step: Pass, graph: Graph, seconds: float) -> None:
        nonlocal last
        text = print_graph(graph)
        parts.append(f"=== {step.name}\n{text if text != last else 'no change' + chr(10)}")
        last = text

    plan = lower(pattern, PROBLEM, collect)
    return "\n".join([*parts, f"=== plan\n{plan_text(plan)}"])


@pytest.mark.parametrize("name", PATTERNS)
def test_golden(name: str, update_golden: bool) -> None:
    path = FOLDER / f"{name}.txt"
    found = listing(PATTERNS[name])
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert path.read_text() == found, f"if the change is meant: pytest --update-golden {path}"


def test_no_orphans(update_golden: bool) -> None:
    orphans = {path for path in FOLDER.iterdir() if path.stem not in PATTERNS}
    if update_golden:
        for path in orphans:
            path.unlink()
        orphans = set()
    assert orphans == set()
