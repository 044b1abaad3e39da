"""From a kernel plan to the text of its module."""

from __future__ import annotations

import functools
import math
import textwrap

import jinja2

from attncomp.codegen import entries, expressions, full_lists, triton_view
from attncomp.codegen.hopper import hopper_query_view, hopper_view
from attncomp.codegen.hopper_keys import hopper_keys_view
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.state import state_fields
from attncomp.codegen.torch_view import cache_line, sweep_views


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
        autoescape=False,  # the output is Python, not HTML
    )
    environment.filters["block"] = _block
    environment.filters["wrapped"] = triton_view.wrapped
    environment.filters["power_of_two"] = lambda size: 1 << (size - 1).bit_length()
    for query in (
        expressions.selections_of,
        expressions.selections_read,
        expressions.selections_read_by_any,
        expressions.selections_used,
        expressions.sources,
        expressions.selection_of_scores,
        expressions.ranks,
        expressions.other_scores,
        expressions.score_sum,
        expressions.gate_masks,
        full_lists.has_full_lists,
        full_lists.full_box,
        expressions.divides,
        expressions.reads_draws,
        expressions.reads_entries,
        expressions.asks_for_size,
        expressions.compares_logits,
        triton_view.modifier_sums,
    ):
        environment.filters[query.__name__] = query
    return environment


def _padded(size: int) -> bool:
    return size & (size - 1) != 0


def render_all(plan: KernelPlan) -> str:
    """The source of all modules of a plan, one below the other."""
    return "\n\n".join(map(render, plan.modules))


def render(plan: KernelPlan) -> str:
    """The Python source of one module: `select`, `forward` and `backward`."""
    dialect = expressions.DIALECTS[plan.problem.backend]
    template = _environment().get_template(f"{plan.problem.backend}/module.py.jinja")
    return template.render(
        plan=plan,
        problem=plan.problem,
        schedule=plan.schedule,
        fields=state_fields(plan),
        state_text=functools.partial(triton_view.state_text, plan),
        selection_arguments=functools.partial(triton_view.selection_arguments, plan),
        size_names=triton_view.size_names(plan),
        tile_descriptors=triton_view.tile_descriptors(plan),
        row_descriptors=triton_view.row_descriptors(plan),
        padded_head=_padded(plan.problem.head_dim),
        padded_value=_padded(plan.problem.value_dim),
        hopper=hopper_view(plan),
        hopper_query=hopper_query_view(plan),
        hopper_keys=hopper_keys_view(plan),
        sweeps=sweep_views(plan),
        cache_line=cache_line(plan),
        log2e=math.log2(math.e),
        gate_text=functools.partial(expressions.gate_text, dialect=dialect),
        owner_texts=functools.partial(expressions.owner_texts, dialect=dialect),
        mask_text=expressions.mask_text,
        condition_indices=expressions.condition_indices,
        condition_text=functools.partial(triton_view.condition_text, plan),
        triton_loads=functools.partial(entries.triton_loads, plan),
        tensor_arguments=functools.partial(triton_view.tensor_arguments, plan),
        walk_arguments=functools.partial(triton_view.walk_arguments, plan),
        walk_texts=functools.partial(entries.walk_texts, plan),
        extent_texts=functools.partial(entries.extent_texts, plan),
        extent_arguments=functools.partial(triton_view.extent_arguments, plan),
        sink_argument=triton_view.sink_argument(plan),
        modifier_arguments=triton_view.modifier_arguments(plan),
        tensor_text=functools.partial(entries.tensor_text, plan),
        tensor_pointer=entries.pointer,
        modifier_text=functools.partial(entries.modifier_text, plan),
        modifiers=plan.modifiers,
        range_texts=functools.partial(expressions.range_texts, dialect=dialect),
    )
