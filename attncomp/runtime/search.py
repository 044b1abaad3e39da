"""The search of the autotuner: which schedule near the first one is fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from attncomp.ir.schedule import Part, Schedule

Neighbours = Callable[[Schedule, Part], Iterable[Schedule]]
Clock = Callable[[Schedule, Part], float]
Note = Callable[[Schedule, Part], None]

_ROUNDS: Final = 4
_GAIN: Final = 0.98  # of the time before: what is less may be noise


class Found(NamedTuple):
    """What a search of one part has shown; milliseconds, before and after."""

    part: Part
    before: float
    after: float
    tried: int
    dropped: int


@dataclass
class _Part:
    """The search of one part: every schedule is timed once."""

    part: Part
    clock: Clock
    note: Note
    times: dict[Schedule, float | None] = field(default_factory=dict)

    def time(self, schedule: Schedule) -> float | None:
        """Milliseconds; None for a schedule that cannot run."""
        if schedule not in self.times:
            self.note(schedule, self.part)
            try:
                self.times[schedule] = self.clock(schedule, self.part)
            except Exception:
                # Of many kinds: shared memory, registers or what a compiler cannot do. The first
                # schedule, which has to run, has been timed before.
                self.times[schedule] = None
        return self.times[schedule]


def fastest(
    first: Schedule, parts: Sequence[Part], near: Neighbours, clock: Clock, note: Note
) -> tuple[Schedule, list[Found]]:
    """The fastest schedule on a way down from the first, a part after the other.

    A step goes to the fastest neighbour, for as long as that is faster by 2 per cent, at most 4
    times a part. `clock` gives milliseconds and may raise for schedules other than the first, which
    are dropped then; `note` is told of each before it is timed.
    """
    found = []
    for part in parts:
        note(first, part)
        before = best = clock(first, part)
        search = _Part(part, clock, note, {first: before})
        for _ in range(_ROUNDS):
            timed = [(search.time(other), other) for other in near(first, part)]
            ran = [(time, number) for number, (time, _) in enumerate(timed) if time is not None]
            if not ran or min(ran)[0] > _GAIN * best:
                break
            best, number = min(ran)
            first = timed[number][1]
        dropped = sum(time is None for time in search.times.values())
        found.append(Found(part, before, best, len(search.times), dropped))
    return first, found
