"""A function a modifier: the arguments of `Pattern.with_`."""

from __future__ import annotations

from attncomp.frontend.modifiers import Modifier
from attncomp.patterns.calls import modifier


def scale(factor: float) -> Modifier:
    """The scale of q . k, in place of 1 / sqrt(D).

    factor: What q . k is multiplied by.
    A call of the compiled pattern then takes no `scale`.
    """
    return modifier("scale", factor=factor)


def softcap(cap: float) -> Modifier:
    """Logits x become cap * tanh(x / cap) (Gemma 2, arXiv 2408.00118).

    cap: The limit of the logits on both sides.
    What alibi and bias add is added to capped logits.
    """
    return modifier("softcap", cap=cap)


def alibi(slopes: str = "standard") -> Modifier:
    """Adds -slope * |q - k| to the logits, a slope a head (ALiBi, arXiv 2108.12409).

    slopes: A tensor [Hq] of the call, or "standard" for the slopes of the paper.
    q and k are positions; the tensor gets a gradient.
    """
    return modifier("alibi", slopes=slopes)


def bias(size: int, table: str = "bias") -> Modifier:
    """Adds table[h, clamp(q - k, 1 - size, size - 1) + size - 1] to the logits (arXiv 1803.02155).

    size: Distances from which on all have one bias.
    table: A tensor [Hq, 2 * size - 1] of the call.
    q and k are positions; the tensor gets a gradient.
    """
    return modifier("bias", size=size, table=table)


def sink(logits: str = "sink") -> Modifier:
    """One more logit a head in each softmax, which has no value (arXiv 2309.17453).

    logits: A tensor [Hq] of the call.
    It gets a gradient. lse holds it; a query without keys has it as its lse.
    """
    return modifier("sink", logits=logits)
