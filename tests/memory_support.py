"""How much memory a call takes at most, on the CPU, and how many operations it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode


def peak_bytes(call: Callable[[], object], folder: Path) -> int:
    """The most bytes that torch has allocated at a time within a call, its result included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = call()
    trace = folder / "trace.json"
    profiled.export_chrome_trace(str(trace))
    del result
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event["name"] == "[memory]"]
    held = most = 0
    for event in sorted(changes, key=lambda event: float(event["ts"])):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


class Started(TorchDispatchMode):
    """Counts the operations that are no views: on a GPU the host needs some 5 us for each."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))
