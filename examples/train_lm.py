"""Train a small language model whose attention is a compiled pattern, beside a plain window.

    python examples/train_lm.py                           bytes of the standard library, on the CPU
    python examples/train_lm.py --device cuda --dense     the same at a real size
    python examples/train_lm.py --task recall --pairs 16  facts in noise, asked for at the end

Nothing is downloaded. On a CPU the same seed gives the same losses; on a GPU sums of gradients may
differ in their last bits.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from click.core import ParameterSource
from lm_data import Corpus, Recall
from lm_model import LanguageModel, ModelSize
from lm_recall import FROZEN, hard, recall
from lm_report import language_table, plot_losses, plot_selection, write_report
from lm_training import Run, mean_loss, sample, train
from rich.console import Console
from rich.text import Text

import attncomp
from attncomp.errors import PatternError

_PICTURED = 1024  # bytes at most in the picture of a selection
_PROMPT = b"def main("


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a task runs with on a kind of device. evaluated: batches of held-out text."""

    size: ModelSize
    pattern: str
    context: int
    batch: int
    steps: int
    rate: float
    evaluated: int = 16


_LANGUAGE = {
    "cpu": Defaults(
        size=ModelSize(vocabulary=256, dim=128, layers=2, heads=4, kv_heads=2),
        pattern="sparsek(k=32, lag=32) | window(32)",
        context=512,
        batch=8,
        steps=260,
        rate=5e-3,
    ),
    "cuda": Defaults(
        size=ModelSize(vocabulary=256, dim=768, layers=8, heads=12, kv_heads=4),
        pattern="sparsek(k=256, lag=256) | window(256)",
        context=8192,
        batch=8,
        steps=1000,
        rate=1e-3,
    ),
}
# One layer: of two, the first can gather a fact into any token near it, and the second find it
# there, so that whatever is selected, at random even, serves as well.
_RECALL_SIZE = ModelSize(vocabulary=Recall.vocabulary, dim=128, layers=1, heads=4, kv_heads=2)
_RECALL = {
    "cpu": Defaults(
        size=_RECALL_SIZE,
        pattern="sparsek(k=32, lag=32) | window(32)",
        context=512,
        batch=8,
        steps=200,
        rate=4e-3,
    ),
    "cuda": Defaults(
        size=_RECALL_SIZE,
        pattern="sparsek(k=32, lag=32) | window(32)",
        context=4096,
        batch=16,
        steps=600,
        rate=3e-3,
    ),
}


@click.command(help=(__doc__ or "").replace("\n\n    python", "\n\n\b\n    python"))
@click.option(
    "--task", type=click.Choice(["language", "recall"]), default="language", show_default=True
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--pattern", help="The pattern of the first run.")
@click.option("--context", type=click.IntRange(min=64), help="Tokens of a sequence.")
@click.option("--batch", type=click.IntRange(min=1), help="Sequences of a step.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps of each run.")
@click.option("--pairs", type=click.IntRange(1, 62), help="Facts to recall. [default: 1]")
@click.option("--dense", is_flag=True, help="Add a run with full causal attention.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("out"),
    show_default=True, help="Where pictures, the table as JSON and the sample go.",
)  # fmt: skip
def main(
    task: str,
    device: str,
    pattern: str | None,
    context: int | None,
    batch: int | None,
    steps: int | None,
    pairs: int | None,
    dense: bool,
    seed: int,
    output: Path,
) -> None:
    if task != "recall" and pairs is not None:
        raise click.UsageError("--pairs is for --task recall")
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("--device cuda: torch finds no GPU")
    defaults = (_LANGUAGE if task == "language" else _RECALL)[device]
    chosen = Defaults(
        size=defaults.size,
        pattern=pattern or defaults.pattern,
        context=context or defaults.context,
        batch=batch or defaults.batch,
        steps=steps or defaults.steps,
        rate=defaults.rate,
    )
    console = Console()
    try:
        keys = attended(chosen.pattern, chosen.context)
    except PatternError as error:
        raise click.BadParameter(f"\n{error}", param_hint="--pattern") from None
    if keys == 0:
        raise click.UsageError(
            f"--pattern: expected keys to attend to, found none for the last of {chosen.context} "
            f"queries under '{chosen.pattern}'"
        )
    patterns = {"pattern": chosen.pattern, "window": f"window({keys})"}
    if dense:
        patterns["dense"] = "causal"
    settings = {"command": command(), "task": task, "seed": seed, **asdict(chosen)}
    if task == "recall":
        pairs = pairs or 1
        runs = run_recall(chosen, patterns, pairs, seed, device, output, console)
        path, measure, settings["pairs"] = output / "recall.json", "recalled", pairs
    else:
        runs = run_language(chosen, patterns, seed, device, output, console)
        path, measure = output / "losses.json", "nats_per_byte"
    write_report(path, runs, measure, settings, device)
    console.print(Text(f"wrote {path}"), soft_wrap=True)


def command() -> str:
    """The command line that runs this again: what was given, but for where to write."""
    context = click.get_current_context()
    words = ["python", "examples/train_lm.py"]
    for option in context.command.params:
        name, value = option.name or "", context.params[option.name or ""]
        source = context.get_parameter_source(name)
        if name != "output" and source is ParameterSource.COMMANDLINE:
            words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return shlex.join(words)


def attended(pattern: str, context: int) -> int:
    """How many keys the last query of a full context attends to."""
    compiled = attncomp.compile(pattern)
    rows = torch.zeros(1, 1, context, 16)
    # Every product is 0, so that the softmax counts keys; scores this far apart leave no gate
    # between 0 and 1.
    scores = 2.0 * torch.arange(context).view(1, 1, context)
    tensors = dict.fromkeys(compiled.tensors, scores)
    _, lse = compiled(rows[:, :, -1:], rows, rows, return_lse=True, **tensors)
    return round(lse.exp().item())


def announce(patterns: dict[str, str], output: Path, console: Console) -> None:
    """Make the folder and say what will run."""
    output.mkdir(parents=True, exist_ok=True)
    for name, pattern in patterns.items():
        console.print(Text(f"{name}: {pattern}"), soft_wrap=True)


def run_recall(
    chosen: Defaults,
    patterns: dict[str, str],
    pairs: int,
    seed: int,
    device: str,
    output: Path,
    console: Console,
) -> list[Run]:
    """The recall task, with a frozen random scorer beside the other runs."""
    if attncomp.compile(chosen.pattern).tensors:
        patterns = {**patterns, FROZEN: hard(chosen.pattern)}
    reach = chosen.size.reach(attended(chosen.pattern, chosen.context))
    reach = max(reach, chosen.context // 4)
    try:
        task = Recall(context=chosen.context, pairs=pairs, reach=reach)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    announce(patterns, output, console)
    return recall(
        patterns,
        task=task,
        size=chosen.size,
        batch=chosen.batch,
        steps=chosen.steps,
        rate=chosen.rate,
        seed=seed,
        device=device,
        output=output,
        console=console,
    )


def run_language(
    chosen: Defaults,
    patterns: dict[str, str],
    seed: int,
    device: str,
    output: Path,
    console: Console,
) -> list[Run]:
    """Every pattern on the same batches of source text, then what came out."""
    announce(patterns, output, console)
    corpus = Corpus.standard_library()
    console.print(
        f"{corpus.files[0]} files, {len(corpus.training):,} bytes to train on; "
        f"{corpus.files[1]} files, {len(corpus.validation):,} bytes held out"
    )
    runs = []
    for name, pattern in patterns.items():
        torch.manual_seed(seed)
        run = Run(name=name, pattern=pattern, model=LanguageModel(chosen.size, pattern).to(device))
        batches = corpus.batches(chosen.batch, chosen.context, seed, device)
        train(run, lambda _, batches=batches: next(batches), chosen.steps, chosen.rate, console)
        held_out = corpus.held_out(chosen.batch, chosen.context, chosen.evaluated, device)
        run.result = mean_loss(run.model, held_out)
        runs.append(run)
    keys = {run.name: attended(run.pattern, chosen.context) for run in runs}
    console.print(language_table(runs, keys))
    pictures = {"loss": output / "loss.png", "selection": output / "selection.png"}
    plot_losses(runs, pictures["loss"], "byte")
    excerpt = corpus.validation[: min(chosen.context, _PICTURED)]
    plot_selection(runs[0].model, excerpt, pictures["selection"])
    text = sample(runs[0].model, _PROMPT, 240, chosen.context, seed).decode("latin-1")
    (output / "sample.txt").write_text(text, encoding="utf-8")
    console.print(Text(text), highlight=False)
    for path in (*pictures.values(), output / "sample.txt"):
        console.print(Text(f"wrote {path}"), soft_wrap=True)
    return runs


if __name__ == "__main__":
    main()
