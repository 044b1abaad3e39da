"""What modifiers mean: how the logits of attention differ from scale * (q . k).

With s = scale * (q . k) and a the gate where the gate mode multiplies logits by it, else 1:

    x  =  a * s
    x  =  cap * tanh(x / cap)                                       softcap(cap)
    x  =  x - slope_h * |q - k|                                     alibi
    x  =  x + table[h, clamp(q - k, 1 - size, size - 1) + size - 1]   bias(size)
    x  =  x + log g                                                 gate mode "logit"

The softmax is over the attended keys and, with a sink, one more logit a head that has no value: lse
holds it, and a row without keys has out 0 and the sink as its lse. q and k are positions, h is the
query head. Gates are those of the pattern without modifiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attncomp.errors import Span, TensorNameError, quoted
from attncomp.frontend.ast import Expr, Modified
from attncomp.frontend.heads import modifiers_of_groups
from attncomp.frontend.modifiers import STANDARD_SLOPES, Modifier


class Learned(NamedTuple):
    """A float tensor of the call with a gradient: its name and its entries a head, None for one."""

    name: str
    width: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """A bias a distance: `table` [Hq, 2 * size - 1] is the name of a tensor."""

    size: int
    table: str

    @property
    def width(self) -> int:
        """Entries a head."""
        return 2 * self.size - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Modifiers:
    """The modifiers of a pattern; None for each that it does not have.

    slopes and sink are the names of tensors [Hq]; slopes may be STANDARD_SLOPES.
    """

    scale: float | None = None
    softcap: float | None = None
    slopes: str | None = None
    bias: Bias | None = None
    sink: str | None = None

    def __bool__(self) -> bool:
        return self != NO_MODIFIERS

    @property
    def positional(self) -> bool:
        """Whether the logits depend on the positions of a pair."""
        return self.slopes is not None or self.bias is not None

    @property
    def changes_logits(self) -> bool:
        """Whether the logit of a key is anything but scaled and gated."""
        return self.positional or self.softcap is not None

    @property
    def learned_slopes(self) -> bool:
        """Whether the slopes are a tensor of the call."""
        return self.slopes not in (None, STANDARD_SLOPES)

    @property
    def tensors(self) -> tuple[Learned, ...]:
        """The tensors that kernels read, in the order of the state; slopes may be the standard."""
        slopes = [] if self.slopes is None else [Learned(self.slopes, None)]
        bias = [] if self.bias is None else [Learned(self.bias.table, self.bias.width)]
        sink = [] if self.sink is None else [Learned(self.sink, None)]
        return (*slopes, *bias, *sink)

    @property
    def learned(self) -> tuple[Learned, ...]:
        """Those of them that a call gives, all of which have a gradient."""
        return self.tensors if self.learned_slopes else self.tensors[self.slopes is not None :]

    def scale_or(self, scale: float) -> float:
        """The scale of the pattern, else another one."""
        return scale if self.scale is None else self.scale

    @property
    def in_kernels(self) -> Modifiers:
        """Without the scale, which kernels take at run time."""
        return replace(self, scale=None)

    @property
    def parts(self) -> tuple[str, ...]:
        """Each modifier with its numbers and names, as in `softcap 30.0`."""
        texts = {
            "scale": self.scale,
            "softcap": self.softcap,
            "alibi slopes": self.slopes,
            "bias": self.bias and f"{self.bias.table} of {self.bias.size} distances",
            "sink": self.sink,
        }
        return tuple(f"{name} {value}" for name, value in texts.items() if value is not None)


NO_MODIFIERS = Modifiers()


def modifiers_of(expr: Expr) -> Modifiers:
    """The modifiers at the top of a pattern."""
    return _of(expr.modifiers) if isinstance(expr, Modified) else NO_MODIFIERS


def modifiers_by_group(expr: Expr) -> tuple[Modifiers, ...]:
    """The modifiers of each group of heads; of a pattern without groups its own alone."""
    return tuple(map(_of, modifiers_of_groups(expr)))


def _of(modifiers: Iterable[Modifier]) -> Modifiers:
    values: dict[str, Any] = {}
    for modifier in modifiers:
        bound: dict[str, Any] = dict(modifier.arguments)
        match modifier.name:
            case "alibi":
                values["slopes"] = bound["slopes"]
            case "bias":
                values["bias"] = Bias(**bound)
            case name:
                (values[name],) = bound.values()
    return Modifiers(**values)


def check_tensor_names(expr: Expr, uses: Mapping[str, str]) -> None:
    """TensorNameError for a modifier's tensor with a name that has another use.

    Groups of heads may share a tensor by having the same modifier.
    """
    known = dict(uses)
    for modifier in dict.fromkeys(chain.from_iterable(modifiers_of_groups(expr))):
        name = _tensor_name(modifier)
        if name is None:
            continue
        if name in known:
            span: Span | None = modifier.span
            raise TensorNameError(span, name=quoted(name), use=known[name])
        known[name] = f"the tensor of modifier {quoted(modifier.name)}"


def _tensor_name(modifier: Modifier) -> str | None:
    names = [value for _, value in modifier.arguments if isinstance(value, str)]
    return names[0] if names and names[0] != STANDARD_SLOPES else None


def standard_slopes(
    heads: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """The slopes [Hq] of arXiv 2108.12409, section 3: 2^(-8 / n), 2^(-16 / n), ... for n heads.

    Of n heads that are no power of two, the first are those of the power below, the others every
    second one of the power above, as in the authors' code.
    """
    power = 1 << (heads.bit_length() - 1)
    first = torch.arange(1, power + 1, dtype=dtype, device=device) * (-8 / power)
    others = (2 * torch.arange(heads - power, dtype=dtype, device=device) + 1) * (-4 / power)
    return torch.exp2(torch.cat([first, others]))
