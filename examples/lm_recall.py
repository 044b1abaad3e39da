"""The recall task: facts in noise, asked for far beyond the window."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import torch
from lm_data import IGNORED, Batch, Recall
from lm_model import LanguageModel, ModelSize
from lm_report import plot_losses, recall_table
from lm_training import Run, answers, train
from rich.console import Console
from rich.text import Text

import attncomp

FROZEN = "frozen scorer"  # the run whose score networks stay as they began
_EVALUATED = 16  # batches of 16 sequences
# Sequences start short, with their share of the facts, and double up to the full length: look-ups
# are learnt where few keys compete, and the selection then has to keep finding the facts.
_SHORTEST = 64  # tokens
_FIRST, _LAST = 0.45, 0.65  # shares of the steps before they first and last double


def hard(pattern: str) -> str:
    """The pattern with `gate="hard"` in every sparsek: selection without gradients to the scores.

    `sparsek(32, lag=32) | window(32)` gives `sparsek(k=32, lag=32, gate="hard") | window(32)`.
    """
    canonical = str(attncomp.compile(pattern))  # all arguments by keyword, strings in double quotes
    ungated = re.sub(r', gate="\w+"', "", canonical)
    return re.sub(r"sparsek\(([^)]*)\)", r'sparsek(\1, gate="hard")', ungated)


def stages(task: Recall, steps: int) -> list[tuple[int, Recall]]:
    """The first step of each stage of training, and its task; the last is `task` itself."""
    contexts = [task.context]
    while (half := contexts[0] // (2 * task.slot) * task.slot) >= _SHORTEST:
        contexts.insert(0, half)
    found = []
    for i, context in enumerate(contexts[:-1]):
        start = _FIRST + (_LAST - _FIRST) * (i - 1) / max(1, len(contexts) - 2) if i else 0.0
        pairs = max(1, task.pairs * context // task.context)
        stage = Recall(context=context, pairs=pairs, reach=min(task.reach, context // 4))
        found.append((int(start * steps), stage))
    return [*found, (int(_LAST * steps) if found else 0, task)]


class Curriculum:
    """Batches of one number of tokens, through the stages; the same for the same seed."""

    def __init__(self, task: Recall, batch: int, steps: int, seed: int, device: str) -> None:
        self._stages = [
            (start, stage.batches(batch * task.context // stage.context, seed, device))
            for start, stage in stages(task, steps)
        ]

    def __call__(self, step: int) -> Batch:
        return next([batches for start, batches in self._stages if step >= start][-1])


@torch.no_grad()
def accuracy(model: LanguageModel, task: Recall, seed: int, device: str) -> float:
    """Share of the judged questions that the model answers right."""
    model.eval()
    right, count = 0, 0
    for tokens, targets in islice(task.batches(16, seed, device), _EVALUATED):
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
    rate: float,
    seed: int,
    device: str,
    output: Path,
    console: Console,
) -> list[Run]:
    """Train each named pattern on the task; FROZEN learns no scores."""
    done = []
    for name, pattern in runs.items():
        torch.manual_seed(seed)
        run = Run(name=name, pattern=pattern, model=LanguageModel(size, pattern).to(device))
        if name == FROZEN:
            for block in run.model.blocks:
                block.attention.score_network.requires_grad_(False)
        train(run, Curriculum(task, batch, steps, seed, device), steps, rate, console)
        run.result = accuracy(run.model, task, seed + 1, device)
        done.append(run)
    facts = "one fact" if task.pairs == 1 else f"{task.pairs} facts"
    title = f"Recall of {facts} from {task.context} tokens, asked for at the end"
    console.print(recall_table(done, title, 1 / (task.vocabulary - task.first)))
    plot_losses(done, output / "recall_loss.png", "answer")
    console.print(Text(f"wrote {output / 'recall_loss.png'}"), soft_wrap=True)
    return done
