"""The Gluon kernels for Hopper compile for a GPU that is not there, and fit it."""

from __future__ import annotations

import pytest

from attncomp.codegen.lower import lower
from attncomp.ir.schedule import DtypeName, Problem
from attncomp.runtime.ahead_of_time import compile_plan, limits

TARGET = "sm_90"


@pytest.mark.parametrize(
    ("pattern", "dtype", "spills"),
    [
        (
            "window(256)",
            "bfloat16",
            {"hopper_forward_kernel": 512, "hopper_query_kernel": 640, "hopper_key_kernel": 320},
        ),
        (
            "sparsek(k=512, lag=256) | window(256)",
            "float16",
            {"hopper_forward_kernel": 512, "hopper_query_kernel": 640, "hopper_key_kernel": 320},
        ),
    ],
)
def test_they_fit(pattern: str, dtype: DtypeName, spills: dict[str, int]) -> None:
    problem = Problem(
        backend="triton", target=TARGET, dtype=dtype, head_dim=128, value_dim=128, unit_heads=4
    )
    reports = {report.name: report for report in compile_plan(lower(pattern, problem), TARGET)}
    for name, most in spills.items():
        report = reports[name]
        assert report.shared <= limits(TARGET).shared
        assert report.spills <= most  # what a work item begins with, not what loops over tiles have
        assert "wgmma.mma_async" in report.text
        # tiles by descriptors, or rows by 16 bytes; none of the copies is element by element
        by_descriptors = name == "hopper_key_kernel"
        copies = "cp.async.bulk.tensor" if by_descriptors else "cp.async.cg.shared.global"
        assert copies in report.text
