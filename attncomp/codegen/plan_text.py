"""A kernel plan as text: every decision, and nothing that only labels it."""

from __future__ import annotations

from attncomp.codegen.plan import KernelPlan, SweepPlan
from attncomp.ir.ops import ALWAYS
from attncomp.ir.printer import bounds_lines, box_condition, condition_text, schedule_lines

_INDENT = "    "


def plan_text(plan: KernelPlan) -> str:
    """The plan, one decision a line; plans are equal exactly if their texts are.

    Cache keys are made of it. What takes no part in equality (pattern, labels, spans) is left out.
    """
    problem = plan.problem
    lines = [
        f"backend {problem.backend}, target {problem.target}, dtype {problem.dtype}",
        f"head_dim {problem.head_dim}, value_dim {problem.value_dim}, "
        f"unit_heads {problem.unit_heads}",
        f"mode {plan.mode or 'crisp'}, scores {', '.join(plan.scores) or 'none'}",
    ]
    lines += [f"modifier {part}" for part in plan.modifiers.parts]
    for index, selection in enumerate(plan.selections):
        lines.append(
            f"selection {index}: k={selection.k} lag={selection.lag} scores={selection.scores}"
        )
    for index, sweep in enumerate(plan.sweeps):
        lines += [f"sweep {index}:", *(_INDENT + line for line in _sweep_lines(sweep))]
    kernels = ("forward", plan.hopper), ("dq", plan.hopper_query), ("dk and dv", plan.hopper_keys)
    for name, shape in kernels:
        if shape is not None:
            lines.append(
                f"{name}: hopper, warp-specialised, {shape.keys} keys, {shape.stages} stages, "
                f"registers {shape.consumer_registers} and {shape.producer_registers}"
            )
    for part in plan.strided:
        inner = plan_text(part.plan).splitlines()
        lines += [f"classes modulo {part.step}:", *(_INDENT + line for line in inner)]
    lines += ["schedule:", *(_INDENT + line for line in schedule_lines(plan.schedule))]
    return "\n".join(lines) + "\n"


def _sweep_lines(sweep: SweepPlan) -> list[str]:
    walks = "contiguous keys" if sweep.source is None else f"keys of selection {sweep.source}"
    lines = [f"walk {walks if sweep.walk is None else sweep.walk}"]
    lines += [f"box {box_condition(box)}" for box in sweep.box]
    lines += [f"not in selection {index}" for index in sweep.absent]
    if sweep.residual:
        groups = [" and ".join(map(str, conjunction)) for conjunction in sweep.residual]
        lines.append(f"mask {' or '.join(groups)}")
    if sweep.condition != ALWAYS:
        lines.append(f"where {condition_text(sweep.condition)}")
    lines.append(f"gate {'1' if sweep.gate is None else sweep.gate}")
    lines.append(f"full_tiles {'yes' if sweep.full_tiles else 'no'}")
    return lines + ([] if sweep.bounds is None else bounds_lines(sweep.bounds))
