"""Patterns from Python: a function a primitive and a shipped definition, and the operators.

    from attncomp import patterns as P

    pattern = P.sparsek(k=512) | P.window(256)  # the same as "sparsek(k=512) | window(256)"
    attend = attncomp.compile(pattern)

Modifiers stand last: `pattern.with_(P.softcap(30), P.sink())` is "... with softcap(30), sink".

`|`, `&`, `-` and `~` bind as in the language, `str(pattern)` is the canonical text, and errors
show the line of Python. A value that does not fit raises ArgumentTypeError or ArgumentRangeError
as it does in a text; a missing or unknown argument is Python's own TypeError.
"""

from __future__ import annotations

from typing import TypeAlias, overload

from attncomp.errors import Note, PatternError, Span, UnexpectedTextError, quoted
from attncomp.frontend.ast import Call, Expr, Where
from attncomp.frontend.caller import caller
from attncomp.frontend.catalog import Argument, GateMode, Value
from attncomp.frontend.library import shipped
from attncomp.frontend.modifiers import Modifier, lookup_modifier
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import lookup

__all__ = [
    "Modifier",
    "Pattern",
    "alibi",
    "apb",
    "bias",
    "bigbird",
    "block_diffusion",
    "block_sparse",
    "blocks",
    "causal",
    "chunk",
    "chunked",
    "dilated",
    "dilated_window",
    "documents",
    "documents_causal",
    "documents_full",
    "first",
    "full",
    "lifetime",
    "locret",
    "longformer",
    "moba",
    "nats",
    "neighborhood",
    "nsa_selection",
    "prefix_language_model",
    "prefix_lm",
    "quest",
    "random_blocks",
    "scale",
    "sink",
    "sliding_window",
    "softcap",
    "sparse_transformer_fixed",
    "sparse_transformer_strided",
    "sparsek",
    "sparsek_window",
    "streaming_llm",
    "strided",
    "topk_blocks",
    "tree",
    "where",
    "window",
]

Pattern: TypeAlias = Expr


def full() -> Call:
    """Every key."""
    return _call("full")


def causal() -> Call:
    """Keys at or before the query's position: k <= q."""
    return _call("causal")


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
    return _call("window", **{name: value for name, value in given.items() if value is not None})


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


def dilated(size: int, step: int) -> Call:
    """Every `step`-th key back from the query's, `size` in all: a window with gaps.

    size: Keys attended, the query's own included.
    step: Distance between neighbouring keys.
    Longformer's dilated window (arXiv 2004.05150).
    """
    return _call("dilated", size=size, step=step)


def strided(step: int) -> Call:
    """Every `step`-th key back from the query's: (q - k) % step == 0 and k <= q.

    step: Distance between neighbouring keys.
    One of the two factors of Sparse Transformers (arXiv 1904.10509).
    """
    return _call("strided", step=step)


def documents() -> Call:
    """The keys of the query's own document, before and after it.

    Takes `documents` [B or 1, Nk], the id of each position's document, in any order; or, in
    its place, `cu_seqlens`, the cumulative lengths 0, n1, n1 + n2, ..., Nk of documents
    that follow each other.
    """
    return _call("documents")


def prefix_lm() -> Call:
    """A prefix that every query sees, then causal: k <= q or k < prefix_lengths[b].

    Takes `prefix_lengths` [B or 1], the number of keys in each row's prefix.
    The prefix language model of T5 (arXiv 1910.10683).
    """
    return _call("prefix_lm")


def lifetime() -> Call:
    """Keys until they are evicted: k <= q < evict[b, h, k].

    Takes `evict` [B or 1, H dividing Hq, Nk], the first position that has lost each key.
    """
    return _call("lifetime")


def blocks(size: int) -> Call:
    """Blocks of pairs that a mask has: block_mask[b, h, q // size, k // size] != 0.

    size: Positions of a block; the first starts at position 0.
    The call of the compiled pattern takes `block_mask` [B or 1, H, T, T] of integers or bool, with
    H dividing Hq and T = ceil(Nk / size). Not causal by itself: `blocks(64) & causal()`. From 16
    positions a block on, kernels visit the blocks of the mask alone.
    """
    return _call("blocks", size=size)


def topk_blocks(k: int, size: int) -> Call:
    """The k highest-scored blocks of keys up to the query's own, by block_scores.

    k: Blocks chosen for a block of queries.
    size: Positions of a block; the first starts at position 0.
    The call of the compiled pattern takes `block_scores` [B or 1, G, T, T] of floats, with G
    dividing Hq and T = ceil(Nk / size): a score for each block of queries and block of keys. The
    query's own block competes as the others do; later ones are never chosen. Of equal scores the
    earlier block wins, NaN loses to every number, and -inf is the lowest finite one. The scores get
    no gradient. All keys of a chosen block are attended, those ahead of the query included:
    `topk_blocks(16, 64) & causal()` is causal.
    """
    return _call("topk_blocks", k=k, size=size)


def random_blocks(count: int, size: int, seed: int = 0) -> Call:
    """Random blocks of keys, the same for all heads (BigBird, arXiv 2007.14062).

    count: Blocks drawn for a block of queries, perhaps one more than once.
    size: Positions of a block; the first starts at position 0.
    seed: Chooses among the draws.
    With T = ceil(Nk / size), draw i of query block q is key block mix(mix(mix(seed) + q) + i) % T
    in unsigned 32-bit arithmetic, where mix(x) is x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15;
    x *= 0x846ca68b; x ^= x >> 16. Not causal by itself.
    """
    return _call("random_blocks", count=count, size=size, seed=seed)


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


def sparsek(k: int, lag: int = 0, gate: GateMode = "key_value") -> Call:
    """The k highest-scored keys of the prefix, gated by SparseK (arXiv 2406.16747).

    k: Keys selected for a query.
    lag: Positions by which selection trails the query.
    gate: How the gate enters attention.
    The call of the compiled pattern takes `scores` [B, G, Nk], a row for each group of heads. The
    gate of a selected key is its score less a threshold, cut to [0, 1]; the gates of a prefix of
    k keys or more sum to k over all of its keys.
    """
    return _call("sparsek", k=k, lag=lag, gate=gate)


# The modifiers, arguments of `Pattern.with_`.


def scale(factor: float) -> Modifier:
    """The scale of q . k, in place of 1 / sqrt(D).

    factor: What q . k is multiplied by.
    A call of the compiled pattern then takes no `scale`.
    """
    return _modifier("scale", factor=factor)


def softcap(cap: float) -> Modifier:
    """Logits x become cap * tanh(x / cap) (Gemma 2, arXiv 2408.00118).

    cap: The limit of the logits on both sides.
    What alibi and bias add is added to capped logits.
    """
    return _modifier("softcap", cap=cap)


def alibi(slopes: str = "standard") -> Modifier:
    """Adds -slope * |q - k| to the logits, a slope a head (ALiBi, arXiv 2108.12409).

    slopes: A tensor [Hq] of the call, or "standard" for the slopes of the paper.
    q and k are positions; the tensor gets a gradient.
    """
    return _modifier("alibi", slopes=slopes)


def bias(size: int, table: str = "bias") -> Modifier:
    """Adds table[h, clamp(q - k, 1 - size, size - 1) + size - 1] to the logits (arXiv 1803.02155).

    size: Distances from which on all have one bias.
    table: A tensor [Hq, 2 * size - 1] of the call.
    q and k are positions; the tensor gets a gradient.
    """
    return _modifier("bias", size=size, table=table)


def sink(logits: str = "sink") -> Modifier:
    """One more logit a head in each softmax, which has no value (arXiv 2309.17453).

    logits: A tensor [Hq] of the call.
    It gets a gradient. lse holds it; a query without keys has it as its lse.
    """
    return _modifier("sink", logits=logits)


# The definitions of `specs`.


def apb(block: int = 16384, anchor: int = 4096) -> Expr:
    """The attention of APB (arXiv 2502.12085).

    A query sees the first `anchor` keys, the block of `block` positions of its own host, causally,
    and the keys of earlier blocks that their hosts passed on. Takes `passed` [B or 1, H dividing
    Hq, Nk], bool: which those are. At most `anchor + block` keys a query beside the passed ones;
    visits every key of the past.
    """
    return _shipped("apb", block=block, anchor=anchor)


def bigbird(w: int = 192, g: int = 128, random: int = 3, size: int = 64, seed: int = 0) -> Expr:
    """BigBird's window, global keys and random blocks, in their causal form (arXiv 2007.14062).

    The last `w` keys, the first `g` keys, which every query sees, and `random` blocks of `size`
    keys drawn for each block of queries, the same for all heads, as far as they lie in the
    past. At most `w + g + random * size` keys a query; visits no others.
    """
    return _shipped("bigbird", w=w, g=g, random=random, size=size, seed=seed)


def block_diffusion(size: int = 16) -> Expr:
    """Block diffusion's block-causal attention (arXiv 2503.09573).

    All keys of the query's own block of `size` positions, in both directions, and of the blocks
    before it. As many keys a query as these blocks have.
    """
    return _shipped("block_diffusion", size=size)


def block_sparse(size: int = 64) -> Expr:
    """Block-sparse causal attention by a mask given at the call (BlockBERT, arXiv 1911.02972).

    Takes `block_mask` [B or 1, H, T, T], integers or bool, with H dividing Hq and T = ceil(Nk /
    size): a query sees the keys of its past in the blocks that the mask has for its own block.
    As many keys a query as these blocks have; visits no others.
    """
    return _shipped("block_sparse", size=size)


def chunked(size: int = 8192) -> Expr:
    """Chunked attention: causal within chunks (Llama 4; the local attention of arXiv 1801.10198).

    The keys of the query's own chunk of `size` positions, up to its own. At most `size` keys a
    query.
    """
    return _shipped("chunked", size=size)


def dilated_window(size: int = 256, step: int = 4, local: int = 64) -> Expr:
    """Dilated sliding window (Longformer, arXiv 2004.05150; WaveNet, arXiv 1609.03499).

    Every `step`-th key back from the query's, `size` of them, beside a window without gaps that
    keeps the neighbours. At most `local + size` keys a query; visits `size * step` of them.
    """
    return _shipped("dilated_window", size=size, step=step, local=local)


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


def locret(budget: int = 6000, stabilizers: int = 2500) -> Expr:
    """Locret's eviction, token by token (arXiv 2410.01805).

    The `budget` best keys by the score of the retaining heads, beside the last `stabilizers`
    keys, which are kept whatever their scores. Takes `scores` [B, G, Nk]; they get no gradient. At
    most `budget + stabilizers` keys a query.
    """
    return _shipped("locret", budget=budget, stabilizers=stabilizers)


def longformer(w: int = 512, g: int = 64) -> Expr:
    """Longformer's sliding window and global keys, in their causal form (arXiv 2004.05150).

    The last `w` keys and the first `g` keys, which every query sees. At most `w + g` keys a query.
    """
    return _shipped("longformer", w=w, g=g)


def moba(k: int = 3, size: int = 512) -> Expr:
    """Mixture of Block Attention (MoBA, arXiv 2502.13189).

    The keys of the past in the query's own block, and in the `k` blocks that score highest
    among those up to it. Takes `block_scores` [B or 1, G, T, T], in the paper the products of
    queries and mean keys. At most `(k + 1) * size` keys a query.
    """
    return _shipped("moba", k=k, size=size)


def nats(size: int = 256) -> Expr:
    """Neural Attention Search with its three kinds of tokens (arXiv 2502.13251).

    Global tokens are kept for good, local ones up to the next global token, and all others for
    the window of the last `size` positions. Takes `evict` [B or 1, H dividing Hq, Nk], the first
    position that has lost each token: Nk for a global one, the position behind the next global
    token for a local one, 0 for the others. As many keys a query as are kept; visits every key of
    the past.
    """
    return _shipped("nats", size=size)


def neighborhood(size: int = 7) -> Expr:
    """Neighborhood attention in one dimension, not causal (NATTEN, arXiv 2204.07143).

    The `size` keys nearest to the query: as many before as after it, or one more before it if
    `size` is even. Near both ends of the row the window is shifted inwards, so that it stays
    whole. Exactly `size` keys a query, or all keys where there are no more.
    """
    return _shipped("neighborhood", size=size)


def nsa_selection(k: int = 16, size: int = 64) -> Expr:
    """The selection branch of Native Sparse Attention (NSA, arXiv 2502.11089).

    The keys of the past in the `k` blocks that score highest among those up to the query's own.
    Takes `block_scores` [B or 1, G, T, T], the importance of blocks of `size` keys (equations 8
    to 10), summed over the heads that share a KV head; infinite for blocks that are always
    chosen, as the paper's first block and two latest ones. At most `k * size` keys a query.
    """
    return _shipped("nsa_selection", k=k, size=size)


def prefix_language_model() -> Expr:
    """Prefix language model: a prefix in both directions, then causal (T5, arXiv 1910.10683).

    The keys of the prefix, and those up to the query's own. Takes `prefix_lengths` [B or 1], the
    number of keys in each row's prefix. At most all keys a query; visits every key.
    """
    return _shipped("prefix_language_model")


def quest(k: int = 128, size: int = 16) -> Expr:
    """Quest's query-aware choice of pages (arXiv 2406.10774).

    The keys of the past in the `k` pages of `size` keys that score highest. Takes
    `block_scores` [B or 1, G, T, T], in the paper upper bounds of the products of a query with
    the keys of a page. At most `k * size` keys a query.
    """
    return _shipped("quest", k=k, size=size)


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
    `stride + Nk / stride` keys a query, the distant ones by classes of positions.
    """
    return _shipped("sparse_transformer_strided", stride=stride)


def sparsek_window(
    k: int = 512, size: int = 256, lag: int = 0, gate: GateMode = "key_value"
) -> Expr:
    """SparseK attention with a sliding window (arXiv 2406.16747).

    The `k` keys that a learned score ranks highest among those at least `lag` positions back, and
    the last `size` keys. Needs `scores` at the call. At most `k + size` keys a query; generation
    keeps as many, whatever the context length.
    """
    return _shipped("sparsek_window", k=k, size=size, lag=lag, gate=gate)


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


def _modifier(name: str, /, **values: Value) -> Modifier:
    span = caller()
    return Modifier(name, lookup_modifier(name).bind(_arguments(values, span)), span)


def _shipped(name: str, /, **values: Value) -> Expr:
    span = caller()
    return shipped().expand(name, _arguments(values, span), span)


def _arguments(values: dict[str, Value], span: Span | None) -> list[Argument]:
    return [Argument(parameter, value, span) for parameter, value in values.items()]
