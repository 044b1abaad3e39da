"""A function a primitive, and `where`."""

from __future__ import annotations

from typing import overload

from attncomp.errors import Note, PatternError, UnexpectedTextError, quoted
from attncomp.frontend.ast import Call, Where
from attncomp.frontend.caller import caller
from attncomp.frontend.catalog import GateMode
from attncomp.frontend.parser import parse
from attncomp.patterns.calls import call


def full() -> Call:
    """Every key."""
    return call("full")


def causal() -> Call:
    """Keys at or before the query's position: k <= q."""
    return call("causal")


@overload
def window(size: int) -> Call: ...


@overload
def window(*, before: int, after: int = 0) -> Call: ...


@overload
def window(*, after: int) -> Call: ...


def window(size: int | None = None, *, before: int | None = None, after: int | None = None) -> Call:
    """The last `size` keys, 0 <= q - k < size; or -after <= q - k <= before.

    size: Keys attended, the query's own position included.
    before: Keys before the query's own.
    after: Keys after the query's own.
    Sliding-window attention is a causal pattern of `size` keys a query (arXiv 2004.05150).
    """
    given = {"size": size, "before": before, "after": after}
    return call("window", **{name: value for name, value in given.items() if value is not None})


def first(count: int) -> Call:
    """The first `count` keys, attention sinks or global keys: k < count and k <= q.

    count: Keys attended, from position 0.
    As sinks beside a window they are StreamingLLM's (arXiv 2309.17453).
    """
    return call("first", count=count)


def chunk(size: int) -> Call:
    """The query's own chunk of `size` positions: q // size == k // size.

    size: Positions of a chunk; the first starts at position 0.
    With `causal()` it is the chunked attention of Llama 4.
    """
    return call("chunk", size=size)


def dilated(size: int, step: int) -> Call:
    """Every `step`-th key back from the query's, `size` in all: a window with gaps.

    size: Keys attended, the query's own included.
    step: Distance between neighbouring keys.
    Longformer's dilated window (arXiv 2004.05150).
    """
    return call("dilated", size=size, step=step)


def strided(step: int) -> Call:
    """Every `step`-th key back from the query's: (q - k) % step == 0 and k <= q.

    step: Distance between neighbouring keys.
    One of the two factors of Sparse Transformers (arXiv 1904.10509).
    """
    return call("strided", step=step)


def documents() -> Call:
    """The keys of the query's own document, before and after it.

    Takes `documents` [B or 1, Nk], the id of each position's document, in any order; or, in
    its place, `cu_seqlens`, the cumulative lengths 0, n1, n1 + n2, ..., Nk of documents
    that follow each other.
    """
    return call("documents")


def prefix_lm() -> Call:
    """A prefix that every query sees, then causal: k <= q or k < prefix_lengths[b].

    Takes `prefix_lengths` [B or 1], the number of keys in each row's prefix.
    The prefix language model of T5 (arXiv 1910.10683).
    """
    return call("prefix_lm")


def lifetime() -> Call:
    """Keys until they are evicted: k <= q < evict[b, h, k].

    Takes `evict` [B or 1, H dividing Hq, Nk], the first position that has lost each key.
    """
    return call("lifetime")


def blocks(size: int) -> Call:
    """Blocks of pairs that a mask has: block_mask[b, h, q // size, k // size] != 0.

    size: Positions of a block; the first starts at position 0.
    The call of the compiled pattern takes `block_mask` [B or 1, H, T, T] of integers or bool, with
    H dividing Hq and T = ceil(Nk / size), or for fewer queries than keys, which stand at the end,
    the last Nq / size rows of it, where they begin with a block. Not causal by itself:
    `blocks(64) & causal()`. From 16 positions a block on, kernels visit the blocks of the mask
    alone.
    """
    return call("blocks", size=size)


def topk_blocks(k: int, size: int) -> Call:
    """The k highest-scored blocks of keys up to the query's own, by block_scores.

    k: Blocks chosen for a block of queries.
    size: Positions of a block; the first starts at position 0.
    The call of the compiled pattern takes `block_scores` [B or 1, G, T, T] of floats, with G
    dividing Hq and T = ceil(Nk / size): a score for each block of queries and block of keys (of the
    rows those of the call's queries are enough, as for `blocks`). The
    query's own block competes as the others do; later ones are never chosen. Of equal scores the
    earlier block wins, NaN loses to every number, and -inf is the lowest finite one. The scores get
    no gradient. All keys of a chosen block are attended, those ahead of the query included:
    `topk_blocks(16, 64) & causal()` is causal.
    """
    return call("topk_blocks", k=k, size=size)


def random_blocks(count: int, size: int, seed: int = 0) -> Call:
    """Random blocks of keys, the same for all heads (BigBird, arXiv 2007.14062).

    count: Blocks drawn for a block of queries, perhaps one more than once.
    size: Positions of a block; the first starts at position 0.
    seed: Chooses among the draws.
    With T = ceil(Nk / size), draw i of query block q is key block mix(mix(mix(seed) + q) + i) % T
    in unsigned 32-bit arithmetic, where mix(x) is x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15;
    x *= 0x846ca68b; x ^= x >> 16. Not causal by itself.
    """
    return call("random_blocks", count=count, size=size, seed=seed)


def threshold(theta: str = "theta") -> Call:
    """The keys whose logit reaches the head's threshold: scale * (q . k) >= theta[h].

    theta: Name of the call's tensor [Hq] of thresholds, floats.
    The compiled pattern's call takes that tensor by its name. The logit is the bare one, before the
    gate of a selection and the modifiers. A NaN, in the logit or in theta, reaches nothing: its
    pairs are those of `~threshold()`. Theta gets no gradient, and neither do q and k through the
    choice. Not causal by itself; all keys of the pattern around it are visited. In the place of q,
    k and scale, `mask` takes `logits` [B or 1, Hq, Nq, Nk].
    """
    return call("threshold", theta=theta)


def where(predicate: str) -> Where:
    """The pairs for which a predicate holds, such as `"q - k < 8 or (q - k) % 64 == 0"`.

    predicate: Comparisons of integer arithmetic (`+ - * // %`, constant divisors), joined by `and`,
    `or` and `not`, over q and k, the positions of query and key, h, the query head, b, the row of
    the batch, n, the number of keys, and integer tensors with subscripts. These tensors are keyword
    arguments of the call: `where("segment[q] == segment[k]")` takes `segment` [Nk].
    Raises PatternError with the place in the predicate.
    """
    here = caller()
    try:
        tree = parse(f"where({predicate})", "<where>")
    except PatternError as error:
        error.notes = (*error.notes, Note("in where, called here", here))
        raise
    if not isinstance(tree, Where):  # `q < 1) | full(`
        raise UnexpectedTextError(here, found=quoted(predicate), expected="one predicate")
    return Where(tree.condition, here)


def sparsek(k: int, lag: int = 0, gate: GateMode = "key_value", scores: str = "scores") -> Call:
    """The k highest-scored keys of the prefix, gated by SparseK (arXiv 2406.16747).

    k: Keys selected for a query.
    lag: Positions by which selection trails the query.
    gate: How the gate enters attention.
    scores: Name of the call's tensor [B, G, Nk] that ranks the keys.
    The compiled pattern's call takes that tensor, a row for each of G groups of heads, by its name:
    `attend(q, k, v, near=u)` for `scores="near"`. Selections that name different tensors rank keys
    differently, each with a G of its own. The gate of a selected key is its score less a threshold,
    cut to [0, 1]; the gates of a prefix of k keys or more sum to k over all of its keys.
    """
    return call("sparsek", k=k, lag=lag, gate=gate, scores=scores)
