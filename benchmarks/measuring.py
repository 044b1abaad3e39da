"""What the benchmarks share: times, and where they were taken."""

from __future__ import annotations

import contextlib
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
import triton

# Where kernel modules of NVIDIA and AMD say which version they are.
DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/sys/module/amdgpu/version"))


@dataclass(frozen=True)
class Clock:
    """Measures steps on a device, each in about `seconds`, its first call left out."""

    device: str
    seconds: float

    def milliseconds(self, step: Callable[[], object]) -> float:
        """Median time of one call: of 3 to 50 calls, or of one that takes more than `seconds`."""
        step()
        self.synchronize()
        once, most = _time(step, self.device), 1e3 * self.seconds
        if once > most:
            return once
        calls = most / max(once, 1e-3)
        for _ in range(min(10, int(calls / 5))):
            step()
        repeats = max(3, min(50, int(calls * 4 / 5)))
        return statistics.median(_time(step, self.device) for _ in range(repeats))

    def issue_microseconds(self, step: Callable[[], object]) -> float:
        """Median time until a call returns, the device idle before it and not waited for."""
        step()
        times: list[float] = []
        end = time.perf_counter() + self.seconds
        while not times or (len(times) < 50 and time.perf_counter() < end):
            self.synchronize()
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        return 1e6 * statistics.median(times)

    def peak_gib(self, step: Callable[[], object]) -> float | None:
        """The most memory that a call takes beyond what is there before it; None on a CPU."""
        if self.device == "cpu":
            return None
        step()  # what compiling takes is not of the call
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        self.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**30

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def ceilings(clock: Clock) -> dict[str, float]:
    """What the device does at most: TFLOP/s of a bf16 matrix product, TB/s of a copy."""
    size = 8192 if clock.device != "cpu" else 256
    a, b = (torch.randn(size, size, device=clock.device).bfloat16() for _ in range(2))
    source = torch.randn(2 * size**2, device=clock.device)
    target = torch.empty_like(source)
    product = clock.milliseconds(lambda: a @ b)
    copy = clock.milliseconds(lambda: target.copy_(source))
    return {
        "matmul_tflops": 2 * size**3 / product / 1e9,
        "copy_tbps": 2 * source.nbytes / copy / 1e9,
    }


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


def package_versions() -> dict[str, str]:
    """The versions of those peers that are installed, by the names of their packages."""
    names = ("flash-attn", "flash-attn-4", "flash-linear-attention")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


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
