"""The Gluon kernels for Hopper compile for a GPU that is not there, and fit it."""

from __future__ import annotations

import pytest

from attncomp.codegen.lower import lower
from attncomp.ir.schedule import DtypeName, Problem
from attncomp.runtime.ahead_of_time import compile_plan, limits

TARGET = "sm_90"
KEYS = "hopper_key_kernel"
SPILLS = {"hopper_forward_kernel": 128, "hopper_query_kernel": 256, KEYS: 320}


@pytest.mark.parametrize(
    ("pattern", "dtype", "described"),
    [
        ("window(256)", "bfloat16", True),
        ("sparsek(k=512, lag=256) | window(256)", "float16", False),
    ],
)
def test_they_fit(pattern: str, dtype: DtypeName, described: bool) -> None:
    problem = Problem(
        backend="triton", target=TARGET, dtype=dtype, head_dim=128, value_dim=128, unit_heads=4
    )
    reports = compile_plan(lower(pattern, problem), TARGET, names=SPILLS)
    assert [report.name for report in reports] == [*SPILLS]
    for report in reports:
        name = report.name
        assert report.shared <= limits(TARGET).shared
        # what a work item begins with, not what loops over tiles have
        assert report.spills <= SPILLS[name]
        assert "wgmma.mma_async" in report.text
        # K and V, or Q and dout; rows that have no descriptors are copied by 16 bytes
        assert ("cp.async.bulk.tensor" in report.text) == (described or name == KEYS)
        assert ("cp.async.cg.shared.global" in report.text) == (name != KEYS)
