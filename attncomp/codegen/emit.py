"""From a kernel plan to the text of its module."""

from __future__ import annotations

import functools
import textwrap

import jinja2

from attncomp.codegen import expressions
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.state import state_fields
from attncomp.codegen.torch_view import sweep_views


def _block(text: str, columns: int) -> str:
    """A macro's output as an indented block without its surrounding blank lines."""
    return textwrap.indent(text.strip("\n"), " " * columns).lstrip(" ")


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("attncomp.codegen"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the output is Python, not HTML
    )
    environment.filters["block"] = _block
    environment.filters["power_of_two"] = lambda size: 1 << (size - 1).bit_length()
    for query in (
        expressions.selections_of,
        expressions.selections_read,
        expressions.selections_read_by_any,
        expressions.selections_used,
        expressions.sources,
        expressions.selection_of_scores,
        expressions.gate_masks,
    ):
        environment.filters[query.__name__] = query
    return environment


def _size_names(selections: list[int], tensors: list[str], lists: bool = True) -> list[str]:
    """Kernel arguments that take any value without a compilation of their own."""
    names = ["n_queries", "n_keys", "n_units", "heads_per_kv"]
    names += [f"{name}_{axis}" for name in tensors for axis in ("batch", "head", "row")]
    for i in selections:
        names += [f"groups_{i}"] + ([f"capacity_{i}"] if lists else [])
    return names


def _padded(size: int) -> bool:
    return size & (size - 1) != 0


def render(plan: KernelPlan) -> str:
    """The Python source of the plan's module: `select`, `forward` and `backward`."""
    dialect = expressions.DIALECTS[plan.problem.backend]
    fields = state_fields(plan)

    def state_argument(selection: int, field: str) -> str:
        return f"state[{selection * len(fields) + fields.index(field)}]"

    template = _environment().get_template(f"{plan.problem.backend}/module.py.jinja")
    return template.render(
        plan=plan,
        problem=plan.problem,
        schedule=plan.schedule,
        fields=fields,
        state_argument=state_argument,
        size_names=_size_names,
        padded_head=_padded(plan.problem.head_dim),
        padded_value=_padded(plan.problem.value_dim),
        sweeps=sweep_views(plan),
        gate_text=functools.partial(expressions.gate_text, dialect=dialect),
        owner_texts=functools.partial(expressions.owner_texts, dialect=dialect),
        mask_text=expressions.mask_text,
        range_texts=functools.partial(expressions.range_texts, dialect=dialect),
    )
