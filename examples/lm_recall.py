"""The recall task: facts in noise, asked for far beyond the window."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from lm_data import IGNORED, Batch, Recall
from lm_model import LanguageModel, ModelSize
from lm_report import plot_losses, recall_table
from lm_training import Run, answers, train
from rich.console import Console

_EVALUATED = 512  # sequences
_RATE = 3e-3
# From which share of the steps on sequences have which part of the full length: whole look-ups
# are learnt where few keys compete, and the selection then has to keep finding their facts.
_LENGTHS = ((0.0, 8), (0.25, 4), (0.45, 2), (0.65, 1))


def hard(pattern: str) -> str:
    """The pattern with `gate="hard"` in every sparsek: selection without gradients to the scores.

    `sparsek(32, lag=32) | window(32)` gives `sparsek(32, lag=32, gate="hard") | window(32)`.
    """
    ungated = re.sub(r",\s*gate\s*=\s*(\"[^\"]*\"|'[^']*')", "", pattern)
    return re.sub(r"sparsek\(([^()]*)\)", r'sparsek(\1, gate="hard")', ungated)


class Curriculum:
    """Batches of one number of tokens whose sequences grow to the full length, the same by seed."""

    def __init__(self, task: Recall, batch: int, steps: int, seed: int, device: str) -> None:
        self._steps = steps
        self._stages = []
        for start, part in _LENGTHS:
            context = max(task.context // part, 2 * task.slot * task.pairs + 32)
            context = min(context, task.context)
            # The last facts that count are in proportion as far away.
            stage = Recall(
                context=context, pairs=task.pairs, reach=task.reach * context // (2 * task.context)
            )
            size = max(1, batch * task.context // context)
            self._stages.append((start, stage.batches(size, seed, device)))

    def __call__(self, step: int) -> Batch:
        stages = [stage for start, stage in self._stages if step >= start * self._steps]
        return next(stages[-1])


@torch.no_grad()
def accuracy(model: LanguageModel, task: Recall, batch: int, seed: int, device: str) -> float:
    """Share of the judged questions that the model answers right, on sequences of their own seed."""
    model.eval()
    batches, right, count = task.batches(batch, seed, device), 0, 0
    while count < _EVALUATED * task.pairs:
        tokens, targets = next(batches)
        targets[:, : -task.judged] = IGNORED
        logits, classes = answers(model, (tokens, targets))
        right += int((logits.argmax(-1) == classes).sum())
        count += len(classes)
    return right / count


def recall(
    runs: dict[str, str],
    *,
    task: Recall,
    size: ModelSize,
    batch: int,
    steps: int,
    seed: int,
    device: str,
    output: Path,
    console: Console,
) -> list[Run]:
    """Train each named pattern on the task; the runs named `frozen` keep their random scores."""
    done = []
    for name, pattern in runs.items():
        torch.manual_seed(seed)
        run = Run(name=name, pattern=pattern, model=LanguageModel(size, pattern).to(device))
        if name == "frozen":
            for block in run.model.blocks:
                block.attention.score_network.requires_grad_(False)
        train(run, Curriculum(task, batch, steps, seed, device), steps, _RATE, console)
        run.result = accuracy(run.model, task, batch, seed + 1, device)
        done.append(run)
    facts = "one fact" if task.pairs == 1 else f"{task.pairs} facts"
    title = f"Recall of {facts} from {task.context} tokens, asked for at the end"
    console.print(recall_table(done, title, 1 / (task.vocabulary - task.first)))
    plot_losses(done, output / "recall_loss.png", "answer")
    console.print(f"wrote {output / 'recall_loss.png'}")
    return done
