"""Times one case from its text to its first gradients, in this process, which has done nothing yet.

    python benchmarks/first_gradient.py "attncomp window(256)" --length 4096

Prints JSON: `first_s`, and `again_s` for the same call once more. Imports, inputs and the device's
own start are done before. `benchmarks/compile_time.py` runs it with caches that it knows.
"""

from __future__ import annotations

import json
import time

import click
import torch
from matrix import Setting
from measuring import Clock
from peers import Case, flex_cases, own_cases
from workloads import make_inputs


def cases() -> dict[str, Case]:
    """The cases that compile something, and dense attention, by name."""
    return {case.name: case for case in [*own_cases(), *flex_cases()]}


@click.command(help=__doc__)
@click.argument("name")
@click.option("--length", default=4096, show_default=True)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
def main(name: str, length: int, device: str) -> None:
    case, clock = cases()[name], Clock(device, 0.0)
    given = make_inputs(Setting(length), 0, device)
    if case.workload is not None:
        given = case.workload.inputs(given, 0)
    torch.autograd.grad((given.q.requires_grad_() @ given.q.mT).sum(), given.q)
    clock.synchronize()
    begin = time.perf_counter()
    steps = case.prepare(given)
    steps.both()
    clock.synchronize()
    first = time.perf_counter()
    steps.both()
    clock.synchronize()
    click.echo(json.dumps({"first_s": first - begin, "again_s": time.perf_counter() - first}))


if __name__ == "__main__":
    main()
