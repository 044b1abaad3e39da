"""From the arguments of a call to checked ones; what a kind of call has shown is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor

from attncomp import knobs
from attncomp.ir.affine import Entry
from attncomp.ir.modifiers import Learned
from attncomp.runtime.checks import (
    check_query_key_value,
    check_tensors,
    check_tunable,
    checked_scale,
)
from attncomp.runtime.directly import PLAIN, wants_gradients
from attncomp.runtime.inputs import Sizes, autocast, checked_inputs
from attncomp.runtime.program import backend_for
from attncomp.runtime.replay import Records

_REMEMBERED: Final = 1024  # kinds of calls; a new length makes a new kind
# Scores of the calls that have records. Those hold all that a selection takes until their last
# launch; where there are more scores, the GPU takes longer than the host in any case.
_RECORDED: Final = 1 << 18


class Checked(NamedTuple):
    """What a call runs with; problem is None where `problem_text` has to tell it.

    records: of calls of this kind, where they may be made.
    """

    inputs: tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]
    scale: float
    backend: str
    problem: str | None
    records: Records | None
    kind: tuple[object, ...] | None


class _Known(NamedTuple):
    """What all calls of a kind share."""

    scale: float
    backend: str
    problem: str
    records: Records | None


@dataclass(eq=False)
class Checks:
    """The checks of a pattern's calls.

    text, backend: the pattern's, the latter None for the device's own. needed: names of the tensors
    beside q, k and v; entries: what tests read of each; learned: those of modifiers; own_scale:
    whether the pattern has a scale. tuned: whether schedules differ with and without gradients.
    """

    text: str
    backend: str | None
    needed: tuple[str, ...]
    entries: Mapping[str, Sequence[Entry]]
    learned: tuple[Learned, ...]
    own_scale: bool
    tuned: bool = False
    _known: dict[tuple[object, ...], _Known] = field(default_factory=dict, init=False, repr=False)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: dict[str, Tensor], scale: float | None
    ) -> Checked:
        """The checked call; raises the CallError of the first thing that is wrong."""
        kind = None
        if not torch.compiler.is_compiling() and type(q) in PLAIN and not self.entries:
            if torch._C._is_any_autocast_enabled():
                q, k, v = autocast(q, k, v)
            kind = self._kind(q, k, v, tensors, scale)
            known = None if kind is None else self._known.get(kind)
            if known is not None:
                return Checked((q, k, v, tensors), *known, kind)
        check_tensors(q, k, v, self.text)
        q, k, v = autocast(q, k, v)
        backend = backend_for(self.backend, q.device.type, q.dtype)
        if self.tuned:
            check_tunable(backend, self.text)
        check_query_key_value(q, k, v, backend, self.text)
        sizes = Sizes(q.shape[0], q.shape[1], k.shape[2], q.shape[2])
        tensors = checked_inputs(
            tensors, self.needed, self.entries, sizes, self.text, q, self.learned
        )
        factor = checked_scale(scale, q.shape[3], self.text, own=self.own_scale)
        return Checked((q, k, v, tensors), factor, backend, None, None, kind)

    def remember(self, call: Checked, problem: str) -> None:
        """Take calls like this one, which are checked, for checked."""
        if call.kind is None:
            return
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        few = sum([tensor.numel() for tensor in call.inputs[3].values()]) <= _RECORDED
        records = Records() if call.backend == "triton" and few else None
        self._known[call.kind] = _Known(call.scale, call.backend, problem, records)

    def _kind(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: dict[str, Tensor], scale: float | None
    ) -> tuple[object, ...] | None:
        """All that checks look at, for plain strided tensors; None for others."""
        if scale is not None and type(scale) is not float:
            return None
        given = (q, k, v, *tensors.values())
        kind: list[object] = [
            scale,
            torch._C._get_float32_matmul_precision(),
            knobs.BACKEND.read() if self.backend is None else None,
            wants_gradients(*given) if self.tuned else None,
            *tensors,
        ]
        for t in given:
            if type(t) not in PLAIN or t.layout is not torch.strided:
                return None
            kind += (t.dtype, t.device, t.shape, t.stride())
        return tuple(kind)
