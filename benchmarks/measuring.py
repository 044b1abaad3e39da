"""What the benchmarks share: times, and where they were taken."""

from __future__ import annotations

import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import triton

# Where kernel modules of NVIDIA and AMD say which version they are.
DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/sys/module/amdgpu/version"))


def milliseconds(
    step: Callable[[], object], repeats: int, *, warm_up: int = 3, device: str = "cuda"
) -> float:
    """Median time of one call, after warm-up calls: CUDA events, or the clock on a CPU."""
    for _ in range(warm_up):
        step()
    return statistics.median(_time(step, device) for _ in range(repeats))


def _time(step: Callable[[], object], device: str) -> float:
    if device == "cpu":
        begin = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - begin)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def environment(device: str = "cuda") -> dict[str, str]:
    """The device and the versions that the numbers belong to."""
    on_gpu = device != "cpu"
    return {
        "gpu": torch.cuda.get_device_name() if on_gpu else f"none, {platform.machine()} CPU",
        "driver": driver_version() if on_gpu else "none",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "python": sys.version.split()[0],
    }


def driver_version() -> str:
    """The version of the GPU's driver, from nvidia-smi or the kernel; "unknown" where neither says.

    torch knows only which CUDA versions the driver serves.
    """
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        texts = [done.stdout]
    except (OSError, subprocess.SubprocessError):
        texts = [path.read_text() for path in DRIVER_FILES if path.is_file()]
    found = [re.search(r"\b\d+\.\d[\d.]*", text) for text in texts]
    return next((match[0] for match in found if match), "unknown")
