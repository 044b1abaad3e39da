"""The Gluon forward for Hopper compiles for a GPU that is not there, and fits it."""

from __future__ import annotations

import pytest

from attncomp.codegen.lower import lower
from attncomp.ir.schedule import DtypeName, Problem
from attncomp.runtime.ahead_of_time import compile_plan, limits

TARGET = "sm_90"


@pytest.mark.parametrize(
    ("pattern", "dtype"),
    [("window(256)", "bfloat16"), ("sparsek(k=512, lag=256) | window(256)", "float16")],
)
def test_it_fits(pattern: str, dtype: DtypeName) -> None:
    problem = Problem(
        backend="triton", target=TARGET, dtype=dtype, head_dim=128, value_dim=128, unit_heads=4
    )
    reports = compile_plan(lower(pattern, problem), TARGET)
    report = next(report for report in reports if report.name == "hopper_forward_kernel")
    assert report.shared <= limits(TARGET).shared
    assert report.spills <= 192  # all of it outside of the loops over tiles
    assert "wgmma.mma_async" in report.text
    # one for the rows of K, Q or V, of 16 bytes; none of the copies is element by element
    assert "cp.async.cg.shared.global" in report.text
