"""A plan in words: what it visits, what that costs and what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.ir.ops import Box


def explain(plan: KernelPlan, pattern: str, tensors: Sequence[str]) -> str:
    """The plan of a pattern in words; tensors are what a call needs beside q, k and v."""
    return ""
