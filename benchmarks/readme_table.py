"""Writes the measured tables of README.md from results of benchmarks/ and of the examples.

    python benchmarks/readme_table.py            rewrite the tables
    python benchmarks/readme_table.py --check    exit code 1 if one is not what its file says

A table stands between `<!-- begin FILE.json ... -->` and `<!-- end -->`; paths start at the README.
Files of benchmarks/attention.py give tables each, those of benchmarks/schedules.py, compile_time.py
and host_time.py one each, those of examples/train_lm.py a row each of one.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

README = Path(__file__).parent.parent / "README.md"
DENSE = "cuDNN SDPA causal"
_SECTION = re.compile(r"(<!-- begin ((?:\S+\.json )+)-->\n).*?(<!-- end -->)", re.DOTALL)
Row = Mapping[str, Any]


def rendered(text: str, root: Path, *, brief: bool = False) -> str:
    """The text with each table replaced by what its files, below root, say today.

    If brief, of benchmarks/attention.py the figures of `_BRIEF` alone.
    """

    def section(match: re.Match[str]) -> str:
        return match[1] + _tables_of(root, match[2].split(), brief) + match[3]

    found, count = _SECTION.subn(section, text)
    if count == 0 or count != text.count("<!-- begin "):
        raise click.ClickException(
            "expected pairs of <!-- begin FILE.json ... --> and <!-- end -->"
        )
    return found


def _tables_of(root: Path, names: Sequence[str], brief: bool) -> str:
    missing = [name for name in names if not (root / name).exists()]
    reports = [
        json.loads((root / name).read_text(encoding="utf-8"))
        for name in names
        if name not in missing
    ]
    tables = _TABLES | {"ceilings": functools.partial(matrix_table, brief=brief)}
    parts = [make(report) for key, make in tables.items() for report in reports if key in report]
    if trainings := [report for report in reports if "runs" in report]:
        parts.append(training_table(trainings))
    if missing:
        parts.append(f"Not measured yet: there is no {', no '.join(f'`{n}`' for n in missing)}.\n")
    return "\n".join(parts)


def training_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Reports of examples/train_lm.py in Markdown: a line a report, a column a run."""
    names = list(dict.fromkeys(run["name"] for report in reports for run in report["runs"]))
    lines = [["on", "command", "steps of each run", *names], ["---"] * (3 + len(names))]
    for report in reports:
        versions, settings = report["environment"], report["settings"]
        runs = {run["name"]: _run(run) for run in report["runs"]}
        lines.append(
            [
                f"{versions['device']}, torch {versions['torch']}",
                _code(settings["command"]),
                f"{settings['steps']} of {settings['batch']} x {settings['context']} tokens",
                *(runs.get(name, "-") for name in names),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _run(run: Row) -> str:
    """What one training run came to; the speed where it is what the run shows."""
    if "recalled" in run:
        return f"{_code(run['pattern'])}: {100 * run['recalled']:.1f} %"
    return (
        f"{_code(run['pattern'])}: {run['nats_per_byte']:.4f} nats/byte, "
        f"{run['tokens_per_second']:,.0f} tokens/s, {run['seconds']:.1f} s"
    )


def _code(text: str) -> str:
    """Text in a cell, as code."""
    return f"`{text}`".replace("|", "\\|")


# A table each: what it is headed by, and the figure of a row.
_FIGURES = {
    "Forward, ms": "forward_ms",
    "Backward, ms": "backward_ms",
    "Forward and backward, ms": "both_ms",
    "Of the forward, selection or block mask alone, ms": "select_ms",
    "Time until a call of forward and backward returns, µs": "host_both_us",
    "Peak memory of forward and backward beyond the inputs, GiB": "peak_gib",
}
_BRIEF = ("forward_ms", "both_ms")
_COMPARED = ("forward_ms", "backward_ms", "both_ms")


def matrix_table(report: Mapping[str, Any], *, brief: bool = False) -> str:
    """A report of benchmarks/attention.py in Markdown: for each kind of setting a table a figure.

    Lines are cases, columns lengths. In brackets: how many times as long dense attention takes.
    If brief, without the cases that could not be measured as well.
    """
    measured = [row for row in report["rows"] if "length" in row]
    kinds = dict.fromkeys(_kind(row) for row in measured)
    ceiling = report["ceilings"]["matmul_tflops"]
    parts = [f"{_versions(report)}; a matrix product reaches {_number(ceiling)} TFLOP/s."]
    for kind in kinds:
        rows = [row for row in measured if _kind(row) == kind]
        parts.append(_kind_text(rows[0]))
        parts += _figure_tables(rows, _BRIEF if brief else tuple(_FIGURES.values()))
    absent = [row for row in report["rows"] if "length" not in row and not brief]
    parts += [f"{_code(row['case'])}: {row['error']}." for row in absent]
    return "\n\n".join(parts) + "\n"


def _kind(row: Row) -> tuple[Any, ...]:
    return row["head_dim"], row["layout"], row["batch"]


def _kind_text(row: Row) -> str:
    """What rows of one kind have in common."""
    return (
        f"bfloat16, B={row['batch']}, Hq={row['heads']}, Hk={row['kv_heads']}, "
        f"G={row['groups']}, D={row['head_dim']}:"
    )


def _figure_tables(rows: Sequence[Row], wanted: Sequence[str]) -> list[str]:
    """The tables of the wanted figures for one kind of setting.

    Those of `_COMPARED` have a line for each case, the others lines and columns for what there are
    figures of.
    """
    by_place = {(row["case"], row["length"]): row for row in rows}
    tables = []
    for title, name in [figure for figure in _FIGURES.items() if figure[1] in wanted]:
        shown = [row for row in rows if name in _COMPARED or row.get(name) is not None]
        lengths = sorted({row["length"] for row in shown})
        lines = [
            [title, *(f"N = {length}" for length in lengths)],
            ["---", *["---:"] * len(lengths)],
        ]
        for case in dict.fromkeys(row["case"] for row in shown):
            cells = [
                _figure(by_place.get((case, length)), by_place.get((DENSE, length)), name)
                for length in lengths
            ]
            lines.append([_code(case), *cells])
        if shown:
            tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return tables


def _figure(row: Row | None, dense: Row | None, name: str) -> str:
    """One figure of a row: a time beside the dense kernel's, or why there is none."""
    if row is None:
        return "-"
    if row.get(name) is None:
        kind, _, reason = row.get("error", "-").partition(":")
        return reason.strip() if kind == "not run" else f"did not run ({kind})" if reason else "-"
    text = _number(row[name])
    if name in _COMPARED and dense is not None and dense is not row and name in dense:
        text += f" ({_number(dense[name] / row[name])}x)"
    return f"{text} WRONG" if row.get("agrees") is False else text


def compile_table(report: Mapping[str, Any]) -> str:
    """A report of benchmarks/compile_time.py in Markdown: a line a case, seconds."""
    lines = [
        ["from text to first gradients, s", "empty caches", "caches on disk", "second call"],
        ["---", "---:", "---:", "---:"],
    ]
    for row in report["compile"]:
        if "error" in row:
            cells = [f"did not run ({row['error'].split(':')[0]})", "-", "-"]
        else:
            cells = [_number(row[name]) for name in ("cold_s", "warm_s", "again_s")]
        lines.append([_code(row["case"]), *cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_versions(report)}.\n\n{text}\n"


def schedule_table(report: Mapping[str, Any]) -> str:
    """A report of benchmarks/schedules.py in Markdown: a line a spec and case; columns: lengths."""
    rows = {(row["spec"], row["case"], row["length"]): row for row in report["schedules"]}
    lengths = sorted({length for _, _, length in rows})
    heads = [f"N = {length}" for length in lengths]
    lines = [["spec", "by", *heads], ["---", "---", *["---:"] * len(lengths)]]
    for spec, case in dict.fromkeys((spec, case) for spec, case, _ in rows):
        cells = [_schedule(rows.get((spec, case, length))) for length in lengths]
        lines.append([_code(spec), case, *cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_versions(report)}.\n\n{text}\n"


def host_table(report: Mapping[str, Any]) -> str:
    """A report of benchmarks/host_time.py in Markdown: a line a case and step, microseconds."""
    lines = [
        [f"host's time at N = {report['length']}, us", "of", "in a row", "after a wait"],
        ["---", "---", "---:", "---:"],
    ]
    for row in report["calls"]:
        if "error" in row:
            cells = [f"did not run ({row['error'].split(':')[0]})", "-"]
        else:
            cells = [_number(row[name]) for name in ("host_us", "after_idle_us")]
        lines.append([_code(row["case"]), row["step"], *cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_versions(report)}.\n\n{text}\n"


def _schedule(row: Row | None) -> str:
    """Time and peak memory of one schedule."""
    if row is None:
        return "-"
    if "error" in row:
        kind, _, reason = row["error"].partition(":")
        return reason.strip() if kind == "not run" else f"did not run ({kind})"
    peak = "" if row["peak_mib"] is None else f", {_number(row['peak_mib'])} MiB"
    return f"{_number(row['ms'])} ms{peak}"


def _versions(report: Mapping[str, Any]) -> str:
    """Where a report was measured."""
    versions = report["environment"]
    return (
        f"{versions['gpu']}, driver {versions['driver']}, torch {versions['torch']}, "
        f"triton {versions['triton']}, CUDA {versions['cuda']}"
    )


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


# The table of a report that has this entry.
_TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "schedules": schedule_table,
    "compile": compile_table,
    "calls": host_table,
}


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if a table is out of date.")
@click.option(
    "--readme",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=README,
    help="The file to rewrite, by default README.md of this checkout.",
)
@click.pass_context
def main(ctx: click.Context, check: bool, readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    found = rendered(text, readme.parent, brief=True)
    if found == text:
        click.echo(f"{readme.name} is up to date")
    elif check:
        click.echo(f"{readme.name} is out of date: python benchmarks/readme_table.py", err=True)
        ctx.exit(1)
    else:
        readme.write_text(found, encoding="utf-8")
        click.echo(f"wrote {readme.name}")


if __name__ == "__main__":
    main()
