"""Patterns from Python: a function a primitive and a shipped definition, and the operators.

    from attncomp import patterns as P

    pattern = P.sparsek(k=512) | P.window(256)  # the same as "sparsek(k=512) | window(256)"
    attend = attncomp.compile(pattern)

`|`, `&`, `-` and `~` bind as in the language, `str(pattern)` is the canonical text, and errors
show the line of Python. A value that does not fit raises ArgumentTypeError or ArgumentRangeError
as it does in a text; a missing or unknown argument is Python's own TypeError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from attncomp.errors import (
    HeadSliceError,
    Note,
    PatternError,
    Span,
    UnexpectedTextError,
    cropped,
    quoted,
)
from attncomp.frontend.ast import Call, Expr, HeadGroups, HeadSlice, Where
from attncomp.frontend.caller import caller
from attncomp.frontend.catalog import Argument, GateMode, Value, lookup
from attncomp.frontend.library import shipped
from attncomp.frontend.limits import MAX_HEADS
from attncomp.frontend.parser import parse

__all__ = [
    "Pattern",
    "block_diffusion",
    "causal",
    "chunk",
    "chunked",
    "documents_causal",
    "documents_full",
    "first",
    "full",
    "heads",
    "longformer",
    "neighborhood",
    "prefix_lm",
    "sliding_window",
    "sparse_transformer_fixed",
    "sparse_transformer_strided",
    "sparsek",
    "sparsek_window",
    "streaming_llm",
    "tree",
    "where",
    "window",
]

Pattern: TypeAlias = Expr

_INDEX: Final = re.compile(r"\s*-?[0-9]{1,9}\s*", re.ASCII)
_SLICE: Final = re.compile(r"\s*(-?[0-9]{1,9})?\s*:\s*(-?[0-9]{1,9})?\s*", re.ASCII)


def full() -> Call:
    """Every key."""
    return _call("full")


def causal() -> Call:
    """Keys at or before the query's position: k <= q."""
    return _call("causal")


def window(size: int) -> Call:
    """The last `size` keys: 0 <= q - k < size.

    size: Keys attended, the query's own position included.
    Sliding-window attention is a causal pattern of `size` keys a query (arXiv 2004.05150).
    """
    return _call("window", size=size)


def first(count: int) -> Call:
    """The first `count` keys, attention sinks or global keys: k < count and k <= q.

    count: Keys attended, from position 0.
    As sinks beside a window they are StreamingLLM's (arXiv 2309.17453).
    """
    return _call("first", count=count)


def chunk(size: int) -> Call:
    """The query's own chunk of `size` positions: q // size == k // size.

    size: Positions of a chunk; the first starts at position 0.
    With `causal()` it is the chunked attention of Llama 4.
    """
    return _call("chunk", size=size)


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


def heads(groups: Mapping[int | str | slice, Expr]) -> HeadGroups:
    """The pattern of the group that a query head is in, each with kernels of its own.

    groups: patterns by half-open slices of heads, `"0:8"`, `"-2:"` (`slice(0, 8)` where Python's
    slices are hashable, from 3.12 on), or by the index of one head.
    Raises HeadSliceError, HeadOverlapError and HeadGapError for slices that do not cut the heads.
    """
    span = caller()
    parts = []
    for key, pattern in groups.items():
        if not isinstance(pattern, Expr):
            raise TypeError(f"expected a pattern for heads {key}, found {type(pattern).__name__}")
        parts.append((_head_slice(key, span), pattern))
    if not parts:
        raise HeadSliceError(span, reason="expected one slice or more, found none")
    return HeadGroups(tuple(parts), span)


def _head_slice(key: object, span: Span | None) -> HeadSlice:
    if isinstance(key, int) and not isinstance(key, bool):
        return HeadSlice.of_index(_head(key, span) or 0, span)
    start: object = None
    stop: object = None
    if isinstance(key, slice) and key.step is None:
        start, stop = key.start, key.stop
    elif isinstance(key, str) and (found := _SLICE.fullmatch(key)) is not None:
        start, stop = (None if end is None else int(end) for end in found.groups())
    elif isinstance(key, str) and _INDEX.fullmatch(key) is not None:
        return _head_slice(int(key), span)
    else:
        shown = cropped(repr(key))
        raise HeadSliceError(span, reason=f"expected an index or a slice, found {shown}")
    first, end = (_head(value, span) for value in (start, stop))
    return HeadSlice(first or 0, end, span)


def _head(value: object, span: Span | None) -> int | None:
    """An end of a slice; HeadSliceError for what is no integer or beyond all heads."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise HeadSliceError(span, reason=f"expected an integer, found {cropped(repr(value))}")
    if abs(value) > MAX_HEADS:
        raise HeadSliceError(span, reason=f"expected at most {MAX_HEADS} heads, found {value}")
    return value


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
    return _call("sparsek", k=k, lag=lag, gate=gate, scores=scores)


# The definitions of `specs`.


def block_diffusion(size: int = 16) -> Expr:
    """Block diffusion's block-causal attention (arXiv 2503.09573).

    All keys of the query's own block of `size` positions, in both directions, and of the blocks
    before it. As many keys a query as these blocks have.
    """
    return _shipped("block_diffusion", size=size)


def chunked(size: int = 8192) -> Expr:
    """Chunked attention: causal within chunks (Llama 4; the local attention of arXiv 1801.10198).

    The keys of the query's own chunk of `size` positions, up to its own. At most `size` keys a
    query.
    """
    return _shipped("chunked", size=size)


def documents_causal() -> Expr:
    """Causal attention within documents packed into one row (arXiv 2107.02027).

    Takes `documents` [B or 1, Nk], the id of each position's document; ids need not be sorted. At
    most as many keys a query as its document has; visits every key of the past.
    """
    return _shipped("documents_causal")


def documents_full() -> Expr:
    """Attention in both directions within documents packed into one row (arXiv 2107.02027).

    Takes `documents` [B or 1, Nk], the id of each position's document; ids need not be sorted. As
    many keys a query as its document has; visits every key.
    """
    return _shipped("documents_full")


def longformer(w: int = 512, g: int = 64) -> Expr:
    """Longformer's sliding window and global keys, in their causal form (arXiv 2004.05150).

    The last `w` keys and the first `g` keys, which every query sees. At most `w + g` keys a query.
    """
    return _shipped("longformer", w=w, g=g)


def neighborhood(size: int = 7) -> Expr:
    """Neighborhood attention in one dimension, not causal (NATTEN, arXiv 2204.07143).

    The `size` keys nearest to the query: as many before as after it, or one more before it if
    `size` is even. Near both ends of the row the window is shifted inwards, so that it stays
    whole. Exactly `size` keys a query, or all keys where there are no more.
    """
    return _shipped("neighborhood", size=size)


def prefix_lm() -> Expr:
    """Prefix language model: a prefix in both directions, then causal (T5, arXiv 1910.10683).

    The keys of the prefix, and those up to the query's own. Takes `prefix_lengths` [B or 1], the
    number of keys in each row's prefix. At most all keys a query; visits every key.
    """
    return _shipped("prefix_lm")


def sliding_window(size: int = 1024) -> Expr:
    """Sliding-window attention (Longformer, arXiv 2004.05150; Mistral, arXiv 2310.06825).

    The last `size` keys, the query's own position included. At most `size` keys a query.
    """
    return _shipped("sliding_window", size=size)


def sparse_transformer_fixed(stride: int = 128, c: int = 8) -> Expr:
    """Fixed attention of Sparse Transformers, both factors in one head (arXiv 1904.10509).

    The keys of the query's own block of `stride` positions, and the last `c` of each block, up to
    its own position. At most `stride + c * Nk / stride` keys a query, but visits every key of the
    past: no faster than `causal`.
    """
    return _shipped("sparse_transformer_fixed", stride=stride, c=c)


def sparse_transformer_strided(stride: int = 128) -> Expr:
    """Strided attention of Sparse Transformers, both factors in one head (arXiv 1904.10509).

    The last `stride` keys, and each key a multiple of `stride` positions back. At most
    `stride + Nk / stride` keys a query, but visits every key of the past: no faster than `causal`.
    """
    return _shipped("sparse_transformer_strided", stride=stride)


def sparsek_window(
    k: int = 512,
    size: int = 256,
    lag: int = 0,
    gate: GateMode = "key_value",
    scores: str = "scores",
) -> Expr:
    """SparseK attention with a sliding window (arXiv 2406.16747).

    The `k` keys that a learned score ranks highest among those at least `lag` positions back, and
    the last `size` keys. The scores are the tensor of the call that `scores` names. At most
    `k + size` keys a query; generation keeps as many, whatever the context length.
    """
    return _shipped("sparsek_window", k=k, size=size, lag=lag, gate=gate, scores=scores)


def streaming_llm(sinks: int = 4, size: int = 1024) -> Expr:
    """StreamingLLM: attention sinks at the start and a sliding window (arXiv 2309.17453).

    The first `sinks` keys and the last `size` keys. At most `sinks + size` keys a query.
    """
    return _shipped("streaming_llm", sinks=sinks, size=size)


def tree(drafts: int = 64) -> Expr:
    """Tree attention over drafted tokens (SpecInfer, arXiv 2305.09781; Medusa, arXiv 2401.10774).

    The last `drafts` keys are a tree of drafted tokens, parents before children. A drafted token
    sees the committed keys, its ancestors in the tree and itself. Takes `committed` [B or 1], how
    many of the keys before the drafted ones count, from position 0 on (the others are padding),
    and `ancestors` [B or 1, drafts, drafts]: `ancestors[b, i, j]` is not 0 where draft i sees
    draft j, itself included. At most `committed + drafts` keys a query; visits every key of the
    past.
    """
    return _shipped("tree", drafts=drafts)


def _call(name: str, /, **values: Value) -> Call:
    span = caller()
    return Call(name, lookup(name).bind(_arguments(values, span)), span)


def _shipped(name: str, /, **values: Value) -> Expr:
    span = caller()
    return shipped().expand(name, _arguments(values, span), span)


def _arguments(values: dict[str, Value], span: Span | None) -> list[Argument]:
    return [Argument(parameter, value, span) for parameter, value in values.items()]
