"""Times what compiling takes: from a pattern's text to its first gradients, in new processes.

    python benchmarks/compile_time.py --output benchmarks/results/h200_compile.json

Each case runs in one process with empty caches (`cold_s`) and then in another one that finds what
the first has left on disk (`warm_s`); `again_s` is the second call of that one. The caches are
those of attncomp, Triton, torch.compile and CUDA's driver, in a directory of the case's own. The
time for imports is in none of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from measuring import environment

CHILD = Path(__file__).with_name("first_gradient.py")
CASES = (
    "attncomp sparsek(k=512, lag=256) | window(256)",
    "attncomp window(256)",
    "attncomp causal",
    "attncomp bigbird",
    "FlexAttention window(256)",
    "FlexAttention causal",
    "FlexAttention bigbird",
)
# What names the directory of a cache.
CACHES = (
    "ATTNCOMP_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "CUDA_CACHE_PATH",
)


def measure(case: str, length: int, device: str, timeout: float) -> dict[str, Any]:
    """One row: seconds with empty and with filled caches; or the reason why there are none."""
    row: dict[str, Any] = {"case": case, "length": length}
    with tempfile.TemporaryDirectory(prefix="compile-time-") as directory:
        try:
            cold, warm = (_child(case, length, device, timeout, Path(directory)) for _ in range(2))
        except subprocess.TimeoutExpired:
            return row | {"error": f"TimeoutExpired: longer than {timeout:g} s"}
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            return row | {"error": (lines[-1] if lines else str(error))[:300]}
    return row | {"cold_s": cold["first_s"], "warm_s": warm["first_s"], "again_s": warm["again_s"]}


def _child(
    case: str, length: int, device: str, timeout: float, directory: Path
) -> Mapping[str, float]:
    """What one new process says, with its caches below a directory."""
    caches = {name: str(directory / name.lower()) for name in CACHES}
    command = [sys.executable, str(CHILD), case, "--length", str(length), "--device", device]
    done = subprocess.run(
        command,
        env=os.environ | {"ATTNCOMP_CACHE": "1"} | caches,
        capture_output=True,
        text=True,
        check=True,
        timeout=timeout,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


@click.command(help=__doc__)
@click.option("--length", default=4096, show_default=True)
@click.option("--only", default="", help="Keep the cases whose name contains this text.")
@click.option("--timeout", default=120.0, show_default=True, help="For one process, in seconds.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(length: int, only: str, timeout: float, device: str, output: Path) -> None:
    rows: list[dict[str, Any]] = []
    report = {"environment": environment(device), "compile": rows}
    output.parent.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if only in case:
            rows.append(measure(case, length, device, timeout))
            output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            click.echo(json.dumps(rows[-1]), err=True)


if __name__ == "__main__":
    main()
