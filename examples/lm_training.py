"""One training run: a model, its losses, and how fast it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from lm_data import IGNORED, Batch
from lm_model import LanguageModel, precision
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import Tensor

_WARM_UP = 30  # steps
_LAST_RATE = 0.05  # of the learning rate, reached linearly


@dataclass(slots=True, kw_only=True)
class Run:
    """A model under a pattern, and what its training came to.

    losses: nats a target, one a step. tokens, seconds: all steps together. result: what the
    evaluation at the end measured.
    """

    name: str
    pattern: str
    model: LanguageModel
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    result: float = float("nan")

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def answers(model: LanguageModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [n, vocabulary] float32 and classes [n] of the positions that have a target."""
    tokens, targets = batch
    wanted = targets != IGNORED
    with precision(tokens.device):
        logits = model.head(model.hidden(tokens)[wanted])
    return logits.float(), targets[wanted]


def train(
    run: Run, batches: Callable[[int], Batch], steps: int, rate: float, console: Console
) -> None:
    """Train run.model on `batches(step)` for each step, behind a progress bar.

    AdamW; the rate rises for 30 steps and then falls linearly.
    """
    optimizer = torch.optim.AdamW(
        [p for p in run.model.parameters() if p.requires_grad],
        lr=rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / _WARM_UP) * max(_LAST_RATE, 1 - step / steps)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    run.model.train()
    with _progress(console) as progress:
        bar = progress.add_task(run.name, total=steps, loss=float("nan"), speed=0.0)
        start = time.perf_counter()
        for step in range(steps):
            batch = batches(step)
            logits, classes = answers(run.model, batch)
            loss = torch.nn.functional.cross_entropy(logits, classes)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            run.losses.append(loss.item())
            run.tokens += batch[0].numel()
            run.seconds = time.perf_counter() - start
            progress.update(bar, advance=1, loss=run.losses[-1], speed=run.tokens_per_second)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeRemainingColumn(),
        console=console,
    )


@torch.no_grad()
def mean_loss(model: LanguageModel, batches: Iterator[Batch]) -> float:
    """Mean loss of all targets, in nats."""
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        logits, classes = answers(model, batch)
        total += torch.nn.functional.cross_entropy(logits, classes, reduction="sum").item()
        count += len(classes)
    return total / count


@torch.no_grad()
def sample(model: LanguageModel, prompt: bytes, count: int, context: int, seed: int) -> bytes:
    """The prompt and `count` further bytes, drawn at temperature 0.8."""
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([list(prompt)], device=device)
    for _ in range(count):
        with precision(device):
            logits = model.head(model.hidden(tokens[:, -context:])[:, -1])
        chosen = torch.multinomial((logits.float() / 0.8).softmax(-1).cpu(), 1, generator=generator)
        tokens = torch.cat([tokens, chosen.to(device)], dim=1)
    return bytes(tokens[0].tolist())
