"""What the models train on: source text of the standard library, and facts hidden in noise."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# (tokens, targets) [B, N] int64, a target the next token's class or IGNORED.
Batch = tuple[Tensor, Tensor]
IGNORED = -100

# Folders of the standard library that are tests, or not of the standard library.
_LEFT_OUT = frozenset(
    ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__")
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Bytes [n] uint8 of the training files and of the held-out files."""

    training: Tensor
    validation: Tensor
    files: tuple[int, int]

    @staticmethod
    def standard_library() -> Corpus:
        """The running Python's own library; a twentieth of its files, by a hash of their paths, is

        held out. The same files give the same corpus, in the same order, on every machine.
        """
        root = Path(sysconfig.get_paths()["stdlib"])
        parts: tuple[list[bytes], list[bytes]] = ([], [])
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
            name = path.relative_to(root)
            if _LEFT_OUT.isdisjoint(name.parts):
                held_out = hashlib.sha256(name.as_posix().encode()).digest()[0] < 13
                parts[held_out].append(path.read_bytes() + b"\0")
        training, validation = (
            torch.frombuffer(bytearray(b"".join(part)), dtype=torch.uint8) for part in parts
        )
        return Corpus(training, validation, (len(parts[0]), len(parts[1])))

    def batches(self, size: int, context: int, seed: int, device: str) -> Iterator[Batch]:
        """Endless random excerpts of the training text; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            last = len(self.training) - context - 1
            starts = torch.randint(last + 1, (size,), generator=generator)
            yield _excerpts(self.training, starts, context, device)

    def held_out(self, size: int, context: int, count: int, device: str) -> Iterator[Batch]:
        """`count` batches of excerpts spread evenly over the held-out text."""
        last = len(self.validation) - context - 1
        starts = torch.linspace(0, last, size * count, dtype=torch.float64).long()
        for part in starts.split(size):
            yield _excerpts(self.validation, part, context, device)


def _excerpts(text: Tensor, starts: Tensor, context: int, device: str) -> Batch:
    rows = text[starts[:, None] + torch.arange(context + 1)].long().to(device)
    return rows[:, :-1], rows[:, 1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Facts scattered in noise, asked for later.

    A sequence is `context` tokens in slots of four. Most slots are noise; `pairs` of them say
    MARKER key value, and a share of those behind say ASK key: the target there is the value, which
    is not shown. The last `pairs` slots ask for every fact, at a distance of more than `reach`
    tokens; by these recall is judged. Keys, values and noise share the tokens 2..63, so that only
    its marker tells a fact from noise, and guessing is right once in 62 times.
    """

    context: int
    pairs: int
    reach: int

    vocabulary = 64
    marker, ask, first = 0, 1, 2
    slot = 4
    asked = 0.3  # share of the slots behind a fact that ask for one

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= self.vocabulary - self.first:
            raise ValueError(f"pairs: expected 1 to 62, found {self.pairs}")
        if self.context % self.slot:
            raise ValueError(f"context: expected a multiple of {self.slot}, found {self.context}")
        if self.places < self.pairs:
            raise ValueError(
                f"context: {self.context} tokens leave {max(self.places, 0)} slots that are more "
                f"than {self.reach} tokens before the questions, for {self.pairs} facts"
            )

    @property
    def places(self) -> int:
        """How many slots, the first ones, may hold a fact."""
        return self.context // self.slot - self.pairs - self.reach // self.slot - 1

    @property
    def judged(self) -> int:
        """How many tokens at the end hold the questions that count."""
        return self.pairs * self.slot

    def batches(self, size: int, seed: int, device: str) -> Iterator[Batch]:
        """Endless random sequences; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            tokens, targets = self._sequences(size, generator)
            yield tokens.to(device), targets.to(device)

    def _sequences(self, size: int, generator: torch.Generator) -> Batch:
        slots, pairs = self.context // self.slot, self.pairs
        row = torch.arange(size)[:, None]

        def distinct(count: int, chosen: int) -> Tensor:
            """Different random numbers below `count`, [size, chosen]."""
            return torch.rand(size, count, generator=generator).argsort(1)[:, :chosen]

        def random(low: int, high: int, *shape: int) -> Tensor:
            return torch.randint(low, high, (size, *shape), generator=generator)

        key = distinct(self.vocabulary - self.first, pairs) + self.first  # [size, pairs]
        value = random(self.first, self.vocabulary, pairs)
        place = distinct(self.places, pairs)  # the slot of each fact
        asked_pair = random(0, pairs, slots)
        asks = torch.rand(size, slots, generator=generator) < self.asked
        asked_pair[:, -pairs:] = distinct(pairs, pairs)
        asks[:, -pairs:] = True
        asks &= place.gather(1, asked_pair) < torch.arange(slots)
        asks[row, place] = False

        tokens = random(self.first, self.vocabulary, slots, self.slot)
        tokens[row, place, 0] = self.marker
        tokens[row, place, 1] = key
        tokens[row, place, 2] = value
        tokens[:, :, 0] = torch.where(asks, self.ask, tokens[:, :, 0])
        tokens[:, :, 1] = torch.where(asks, key.gather(1, asked_pair), tokens[:, :, 1])
        targets = torch.full_like(tokens, IGNORED)
        targets[:, :, 1] = torch.where(asks, value.gather(1, asked_pair), IGNORED)
        return tokens.flatten(1), targets.flatten(1)
