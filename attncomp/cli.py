"""`attncomp-inspect`: what the compiler makes of a pattern, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import click

from attncomp.api import load
from attncomp.errors import AttncompError, OptionError, suggest
from attncomp.frontend.ast import Expr
from attncomp.inspection.catalogue import catalogue_sections
from attncomp.inspection.formatting import format_files
from attncomp.inspection.parts import parts_of
from attncomp.inspection.section import Section
from attncomp.inspection.specs import check_examples, is_file, pattern_of
from attncomp.inspection.stages import (
    KERNEL_STAGES,
    STAGES,
    Compilation,
    check_pass_name,
    compile_stages,
    kernel_sections,
    mask_section,
    pass_sections,
    report_section,
    stage_section,
    timing_section,
)
from attncomp.inspection.terminal import Screen, write_sections
from attncomp.ir.schedule import BackendName, DtypeName, Problem
from attncomp.pictures.figure import FORMATS, save
from attncomp.pictures.picture import Picture
from attncomp.runtime.ahead_of_time import compile_plan, limits

_EMITS: Final = (*STAGES, *KERNEL_STAGES)
_DTYPES: Final = ("float16", "bfloat16", "float32", "float64")
_MAX_MASK: Final = 2048  # the matrix is dense, and so is the work behind it

_EXAMPLES: Final = """
\b
Examples:
  attncomp-inspect "sparsek(k=512) | window(256)"
  attncomp-inspect specs/sliding_window.attn --emit ast,ir,plan
  attncomp-inspect "mine(w=7)" --library my.attn
  attncomp-inspect my.attn --check
  attncomp-inspect --format my.attn
  attncomp-inspect --format --check specs/*.attn
  attncomp-inspect --catalogue
  attncomp-inspect "first(4) | window(64)" --print-after all --time-passes
  attncomp-inspect "sparsek(k=512) | window(256)" --target sm_90
  attncomp-inspect "window(64)" --target gfx942 --emit ptx --output kernels/
  attncomp-inspect "sparsek(k=8, lag=4) | window(4)" --mask 32
  attncomp-inspect "sparsek(k=16) | window(8)" --mask 256 --output mask.png
"""


class _Failure(click.ClickException):
    """A mistake in what was asked for: its message on standard error, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        message = self.message if self.message.startswith("error: ") else f"error: {self.message}"
        head, rest = message.split("error: ", 1)
        click.echo(head + click.style("error: ", fg="red", bold=True) + rest, file=file, err=True)


class _Command(click.Command):
    """A command whose expected errors are diagnostics instead of tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AttncompError as error:
            raise _Failure(str(error)) from error


def _emits(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """`--emit a,b --emit c` as a list without repetitions."""
    names = [name.strip() for value in values for name in value.split(",")]
    for name in names:
        if name not in _EMITS:
            close = suggest(name, _EMITS)
            hint = f" Did you mean {close!r}?" if close else ""
            raise click.BadParameter(f"{name!r} is not one of {', '.join(_EMITS)}.{hint}")
    return list(dict.fromkeys(names))


def _print_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    try:
        version = metadata.version("attncomp")
    except metadata.PackageNotFoundError:  # a checkout on the path
        version = "(not installed)"
    click.echo(f"attncomp-inspect {version}")
    ctx.exit()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """The options of a run, as given."""

    emit: list[str]
    print_after: str | None
    time_passes: bool
    backend: str | None
    target: str | None
    dtype: str
    head_dim: int
    value_dim: int | None
    unit_heads: int
    heads: int | None
    mask: int | None
    seed: int
    output: Path | None
    library: str | None
    check: bool
    format: bool
    catalogue: bool

    @property
    def picture(self) -> Path | None:
        """The output, if it is one image of the mask."""
        is_image = self.output is not None and self.output.suffix.lower() in FORMATS
        return self.output if is_image else None

    @property
    def directory(self) -> Path | None:
        """The output, if it is a directory for all sections."""
        return None if self.picture else self.output

    def check_output(self) -> None:
        """Raise OptionError for a file of no known format, rather than name a directory so."""
        path = self.directory
        if path is not None and path.suffix and not path.is_dir():
            raise OptionError(
                subject="--output",
                expected=f"{', '.join(FORMATS)} or a directory",
                found=repr(str(path)),
            )

    def problem(self) -> Problem:
        """What the pattern is compiled for; OptionError where backend and dtype do not fit."""
        for_gpu = self.target not in (None, "cpu") or set(self.emit) & set(KERNEL_STAGES)
        backend = self.backend or ("triton" if for_gpu else "torch")
        if backend == "triton" and self.dtype == "float64":
            raise OptionError(
                subject="--dtype",
                expected="float16, bfloat16 or float32 for backend triton",
                found="'float64'",
            )
        return Problem(
            backend=cast(BackendName, backend),
            target=self.target or ("sm_90" if backend == "triton" else "cpu"),
            dtype=cast(DtypeName, self.dtype),
            head_dim=self.head_dim,
            value_dim=self.value_dim or self.head_dim,
            unit_heads=self.unit_heads,
        )

    def stages(self, problem: Problem) -> list[str]:
        """What to emit: what was asked for, else what suits the other options."""
        if self.emit:
            return self.emit
        ahead = problem.backend == "triton" and self.target not in (None, "cpu")
        if self.directory is not None:
            return [*STAGES, *(KERNEL_STAGES if ahead else ())]
        if self.print_after is not None or self.time_passes or self.mask is not None:
            return []
        return ["report"] if ahead else ["explain"]


@click.command(
    cls=_Command, epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("spec", required=False)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option(
    "--emit",
    multiple=True,
    metavar="LIST",
    callback=_emits,
    help=f"What to print, separated by commas: {', '.join(_EMITS)}. Default: 'report' with a GPU "
    "as --target, else 'explain', and nothing beside --print-after, --time-passes or --mask.",
)
@click.option("--print-after", metavar="PASS", help="Print the IR after this pass, or after 'all'.")
@click.option("--time-passes", is_flag=True, help="Print how long each pass took.")
@click.option(
    "--backend",
    type=click.Choice(["triton", "torch"]),
    help="Default: triton with a GPU as --target, else torch.",
)
@click.option(
    "--target",
    help="cpu, sm_80, sm_90, sm_100, gfx942, ... 'report' and 'ptx' compile every kernel for it "
    "ahead of time; no GPU is needed. Default: sm_90 for backend triton, cpu for torch.",
)
@click.option("--dtype", type=click.Choice(_DTYPES), default="bfloat16", show_default=True)
@click.option("--head-dim", type=click.IntRange(16, 256), default=128, show_default=True)
@click.option("--value-dim", type=click.IntRange(16, 256), help="Default: the head dim.")
@click.option(
    "--unit-heads",
    type=click.IntRange(1, 1024),
    default=4,
    show_default=True,
    help="Query heads that share a KV head and a score group.",
)
@click.option(
    "--heads",
    type=click.IntRange(1, 1024),
    help="How many a pattern with groups of heads has. Default: the fewest that these allow.",
)
@click.option(
    "--mask",
    type=click.IntRange(1, _MAX_MASK),
    metavar="N",
    help="Draw the gates of N queries and N keys, for random scores.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of the scores for --mask.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help=f"A file that ends in {', '.join(FORMATS)} for a picture of the mask, or a directory, "
    "new or not, for all that is emitted (by default everything), one file each. A new one has "
    "no dot in its name.",
)
@click.option("--library", metavar="FILE", help="A .attn file whose patterns SPEC may name.")
@click.option(
    "--check",
    is_flag=True,
    help="Compare the examples of the file SPEC with their pictures; exit code 1 if one differs.",
)
@click.option(
    "--format",
    is_flag=True,
    help="Rewrite the .attn file SPEC, and every FILE, in the canonical form: blanks, line ends, "
    "quotes. With --check nothing is written; exit code 1 if one would change.",
)
@click.option(
    "--catalogue",
    is_flag=True,
    help="Describe and draw every primitive, every shipped pattern and those of --library, in "
    "place of a SPEC. --mask sets the size of the drawings.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def main(ctx: click.Context, spec: str | None, files: tuple[str, ...], **options: Any) -> None:
    """Show what the compiler makes of SPEC: a pattern such as "sparsek(k=512) | window(256)", or
    the path of a .attn file with one definition that needs no arguments.

    Highlighted on a terminal, plain text in a pipe. Exit code 2 for a mistake in the pattern or in
    an option, 1 if a kernel needs more shared memory than its target has, an example is wrong or a
    file is not formatted.
    """
    request = _Request(**options)
    if files and not request.format:
        raise click.UsageError("only --format takes several files")
    if request.catalogue:
        _check_catalogue(spec, request)
    elif spec is None:
        raise click.UsageError("Missing argument 'SPEC'.")
    elif request.format:
        _format(ctx, (spec, *files), check=request.check)
    elif request.check:
        _check(ctx, spec)
    request.check_output()
    if request.picture is not None and request.mask is None:
        raise click.UsageError(f"--output {request.picture} is a picture of the mask: add --mask N")
    if spec is None:
        library = None if request.library is None else load(request.library)
        sections, fits = catalogue_sections(library, request.mask, request.seed), True
    else:
        sections, fits = _compiled(spec, request)
    if request.directory is None:
        Screen().show(sections)
    else:
        _write(sections, request.directory)
    ctx.exit(0 if fits else 1)


def _check_catalogue(spec: str | None, request: _Request) -> None:
    """Raise UsageError for what a catalogue has no use for."""
    others = (spec, request.emit, request.print_after, request.time_passes, request.check)
    if any(others) or request.format or request.picture is not None:
        raise click.UsageError(
            "--catalogue goes with --library, --mask, --seed and a directory as --output alone"
        )


def _format(ctx: click.Context, files: tuple[str, ...], *, check: bool) -> NoReturn:
    for file in files:
        _check_file("--format", file)
    try:
        report, formatted = format_files(files, check=check)
    except OSError as error:
        raise _Failure(f"cannot write {error.filename}: {error.strerror}") from error
    click.echo(report, nl=False)
    ctx.exit(0 if formatted or not check else 1)


def _check(ctx: click.Context, spec: str) -> NoReturn:
    _check_file("--check", spec)
    report, holds = check_examples(load(spec))
    click.echo(report, nl=False)
    ctx.exit(0 if holds else 1)


def _compiled(spec: str, request: _Request) -> tuple[list[Section], bool]:
    """The sections of a pattern, its mask included, unless it is written as a picture."""
    expr = pattern_of(spec, request.library)
    shown: list[Section] = []
    pictures: list[Picture] = []
    all_fit = True
    for part in parts_of(expr, request.heads):
        sections, fits = _sections(part.expr, request)
        if request.mask is not None:
            pictures.append(part.pictured(request.mask, request.seed))
            sections += [] if request.picture else [mask_section(pictures[-1])]
        shown += map(part.titled, sections)
        all_fit &= fits
    if request.picture is not None:
        _write_pictures(pictures, request.picture)
    return shown, all_fit


def _check_file(option: str, spec: str) -> None:
    if not is_file(spec):
        raise click.UsageError(f"{option} needs a .attn file, not {spec!r}")


def _sections(expr: Expr, request: _Request) -> tuple[list[Section], bool]:
    """All texts that were asked for, and whether every compiled kernel fits its target."""
    problem = request.problem()
    if request.print_after is not None:
        check_pass_name(request.print_after, problem)
    stages = request.stages(problem)
    compilation = compile_stages(expr, problem)
    sections: list[Section] = []
    if request.print_after is not None:
        sections += pass_sections(compilation, request.print_after)
    if request.time_passes:
        sections.append(timing_section(compilation))
    sections += [stage_section(compilation, stage) for stage in stages if stage in STAGES]
    kernels, fits = _kernel_sections(compilation, [s for s in stages if s in KERNEL_STAGES])
    return sections + kernels, fits


def _kernel_sections(compilation: Compilation, stages: list[str]) -> tuple[list[Section], bool]:
    """The report on all kernels, or their assembly, or both; and whether they fit the target."""
    if not stages:
        return [], True
    target = compilation.plan.problem.target
    reports = compile_plan(compilation.plan, target)
    sections = []
    for stage in stages:
        sections += (
            [report_section(reports, target)]
            if stage == "report"
            else kernel_sections(reports, target)
        )
    return sections, all(report.shared <= limits(target).shared for report in reports)


def _write_pictures(pictures: list[Picture], path: Path) -> None:
    try:
        save(pictures, path, path.suffix.lower())
    except OSError as error:
        raise _Failure(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"wrote {path}", err=True)


def _write(sections: list[Section], directory: Path) -> None:
    try:
        paths = write_sections(sections, directory)
    except OSError as error:
        raise _Failure(f"cannot write to {directory}: {error.strerror}") from error
    for path in paths:
        click.echo(str(path))


if __name__ == "__main__":
    main()
