"""A compilation with every stage of it kept, and the stages as named texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from attncomp.api import compile as compile_pattern
from attncomp.codegen.emit import render_all
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.plan_text import plan_text
from attncomp.errors import OptionError, suggest
from attncomp.frontend.ast import Expr, dump, to_text
from attncomp.inspection.drawing import as_characters
from attncomp.inspection.section import Section
from attncomp.ir.graph import Graph
from attncomp.ir.passes import Pass, pipeline
from attncomp.ir.printer import print_graph
from attncomp.ir.schedule import Problem
from attncomp.pictures.picture import Picture
from attncomp.runtime.ahead_of_time import KernelReport, limits
from attncomp.runtime.explain import explain

STAGES: Final = ("ast", "ir", "plan", "source", "explain")
KERNEL_STAGES: Final = ("report", "ptx")  # made from compiled kernels


@dataclass(frozen=True, slots=True)
class PassRecord:
    """What one pass left, and the seconds it took."""

    name: str
    graph: Graph
    seconds: float


@dataclass(frozen=True, slots=True)
class Compilation:
    """A pattern lowered for a problem, with all that happened on the way."""

    expr: Expr
    plan: KernelPlan
    passes: tuple[PassRecord, ...]


def compile_stages(expr: Expr, problem: Problem) -> Compilation:
    """Lower a pattern, keeping the graph after each pass; raises what `lower` raises."""
    records: list[PassRecord] = []

    def keep(step: Pass, graph: Graph, seconds: float) -> None:
        records.append(PassRecord(step.name, graph, seconds))

    plan = lower(expr, problem, keep)
    return Compilation(expr, plan, tuple(records))


def check_pass_name(name: str, problem: Problem) -> None:
    """OptionError for a name that is neither a pass nor "all"."""
    known = [*(step.name for step in pipeline(problem)), "all"]
    if name not in known:
        close = suggest(name, known)
        found = repr(name) + (f" (did you mean '{close}'?)" if close else "")
        raise OptionError(
            subject="--print-after", expected=f"one of {', '.join(known)}", found=found
        )


def stage_section(compilation: Compilation, stage: str) -> Section:
    """One of STAGES as a section."""
    match stage:
        case "ast":
            return Section(title="ast", text=dump(compilation.expr), file="ast.txt")
        case "ir":
            graph = compilation.passes[-1].graph
            modifiers = "".join(f"modifier {part}\n" for part in compilation.plan.modifiers.parts)
            text = print_graph(graph) + modifiers
            return Section(title="ir", text=text, lexer="python", file="ir.txt")
        case "plan":
            text = plan_text(compilation.plan)
            return Section(title="plan", text=text, lexer="yaml", file="plan.txt")
        case "source":
            text = render_all(compilation.plan)
            return Section(title="source", text=text, lexer="python", file="source.py")
        case "explain":
            shapes = compile_pattern(compilation.expr).shapes
            text = explain(compilation.plan, to_text(compilation.expr), shapes)
            return Section(title="explain", text=text, file="explain.txt")
        case _:
            raise ValueError(f"expected one of {', '.join(STAGES)}, found {stage!r}")


def pass_sections(compilation: Compilation, wanted: str) -> list[Section]:
    """The graph after the pass called `wanted`, or after each for "all"."""
    return [
        Section(
            title=f"after {record.name}",
            text=print_graph(record.graph),
            lexer="python",
            file=f"after_{record.name}.txt",
        )
        for record in compilation.passes
        if wanted in ("all", record.name)
    ]


def timing_section(compilation: Compilation) -> Section:
    """Milliseconds of each pass, and how many nodes it left."""
    rows = [
        (record.name, f"{record.seconds * 1e3:.2f}", str(sum(1 for _ in record.graph.walk())))
        for record in compilation.passes
    ]
    total = sum(record.seconds for record in compilation.passes)
    rows.append(("total", f"{total * 1e3:.2f}", ""))
    text = table(("pass", "milliseconds", "nodes"), rows)
    return Section(title="times", text=text, file="times.txt")


def report_section(reports: Sequence[KernelReport], target: str) -> Section:
    """What each kernel takes, against what the target has."""
    found = limits(target)
    rows = [
        (
            report.name,
            f"{report.registers} of {found.registers}",
            str(report.spills),
            f"{report.shared} of {found.shared}",
            str(report.warps),
            str(report.stages),
            "" if report.shared <= found.shared else "too much shared memory",
        )
        for report in reports
    ]
    heads = ("kernel", "registers", "spill bytes", "shared bytes", "warps", "stages", "")
    note = f"{target}: registers and spill bytes are of one thread, shared bytes of one block\n"
    return Section(title=f"kernels for {target}", text=table(heads, rows) + note, file="report.txt")


def kernel_sections(reports: Iterable[KernelReport], target: str) -> list[Section]:
    """The PTX, or AMD assembly, of each kernel."""
    suffix, lexer = ("ptx", "ptx") if limits(target).vendor == "cuda" else ("amdgcn", "gas")
    return [
        Section(
            title=f"{report.name} ({suffix})",
            text=report.text,
            lexer=lexer,
            file=f"{report.name.replace('#', '_')}.{suffix}",
        )
        for report in reports
    ]


def mask_section(picture: Picture) -> Section:
    """A gate matrix, in characters where there are no colours."""
    text = f". is 0, 1 to 9 tenths, # 1\n{as_characters(picture.gate)}"
    lead = f"{picture.caption}\n"
    return Section(title="mask", lead=lead, text=text, file="mask.txt", picture=picture)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first one aligned to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = []
    for row in (heads, *rows):
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
