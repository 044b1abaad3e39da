"""A function a definition of `specs`."""

from __future__ import annotations

from attncomp.frontend.ast import Expr
from attncomp.frontend.catalog import GateMode
from attncomp.patterns.calls import definition


def apb(block: int = 16384, anchor: int = 4096) -> Expr:
    """The attention of APB (arXiv 2502.12085).

    A query sees the first `anchor` keys, the block of `block` positions of its own host, causally,
    and the keys of earlier blocks that their hosts passed on. Takes `passed` [B or 1, H dividing
    Hq, Nk], bool: which those are. At most `anchor + block` keys a query beside the passed ones;
    visits the past from the first of these on.
    """
    return definition("apb", block=block, anchor=anchor)


def bigbird(w: int = 192, g: int = 128, random: int = 3, size: int = 64, seed: int = 0) -> Expr:
    """BigBird's window, global keys and random blocks, in their causal form (arXiv 2007.14062).

    The last `w` keys, the first `g` keys, which every query sees, and `random` blocks of `size`
    keys drawn for each block of queries, the same for all heads, as far as they lie in the
    past. At most `w + g + random * size` keys a query; visits no others.
    """
    return definition("bigbird", w=w, g=g, random=random, size=size, seed=seed)


def block_diffusion(size: int = 16) -> Expr:
    """Block diffusion's block-causal attention (arXiv 2503.09573).

    All keys of the query's own block of `size` positions, in both directions, and of the blocks
    before it. As many keys a query as these blocks have.
    """
    return definition("block_diffusion", size=size)


def block_sparse(size: int = 64) -> Expr:
    """Block-sparse causal attention by a mask given at the call (BlockBERT, arXiv 1911.02972).

    Takes `block_mask` [B or 1, H, T, T], integers or bool, with H dividing Hq and T = ceil(Nk /
    size): a query sees the keys of its past in the blocks that the mask has for its own block.
    As many keys a query as these blocks have; visits no others.
    """
    return definition("block_sparse", size=size)


def chunked(size: int = 8192) -> Expr:
    """Chunked attention: causal within chunks (Llama 4; the local attention of arXiv 1801.10198).

    The keys of the query's own chunk of `size` positions, up to its own. At most `size` keys a
    query.
    """
    return definition("chunked", size=size)


def dilated_window(size: int = 256, step: int = 4, local: int = 64) -> Expr:
    """Dilated sliding window (Longformer, arXiv 2004.05150; WaveNet, arXiv 1609.03499).

    Every `step`-th key back from the query's, `size` of them, beside a window without gaps that
    keeps the neighbours. At most `local + size` keys a query; visits `size * step` of them.
    """
    return definition("dilated_window", size=size, step=step, local=local)


def documents_causal() -> Expr:
    """Causal attention within documents packed into one row (arXiv 2107.02027).

    Takes `documents` [B or 1, Nk], the id of each position's document; ids need not be sorted. At
    most as many keys a query as its document has; visits those before it in a tile's documents.
    """
    return definition("documents_causal")


def documents_full() -> Expr:
    """Attention in both directions within documents packed into one row (arXiv 2107.02027).

    Takes `documents` [B or 1, Nk], the id of each position's document; ids need not be sorted. As
    many keys a query as its document has; visits those from its first to its last position.
    """
    return definition("documents_full")


def locret(budget: int = 6000, stabilizers: int = 2500) -> Expr:
    """Locret's eviction, token by token (arXiv 2410.01805).

    The `budget` best keys by the score of the retaining heads, beside the last `stabilizers`
    keys, which are kept whatever their scores. Takes `scores` [B, G, Nk]; they get no gradient. At
    most `budget + stabilizers` keys a query.
    """
    return definition("locret", budget=budget, stabilizers=stabilizers)


def longformer(w: int = 512, g: int = 64) -> Expr:
    """Longformer's sliding window and global keys, in their causal form (arXiv 2004.05150).

    The last `w` keys and the first `g` keys, which every query sees. At most `w + g` keys a query.
    """
    return definition("longformer", w=w, g=g)


def moba(k: int = 3, size: int = 512) -> Expr:
    """Mixture of Block Attention (MoBA, arXiv 2502.13189).

    The keys of the past in the query's own block, and in the `k` blocks that score highest
    among those up to it. Takes `block_scores` [B or 1, G, T, T], in the paper the products of
    queries and mean keys. At most `(k + 1) * size` keys a query.
    """
    return definition("moba", k=k, size=size)


def nats(size: int = 256) -> Expr:
    """Neural Attention Search with its three kinds of tokens (arXiv 2502.13251).

    Global tokens are kept for good, local ones up to the next global token, and all others for
    the window of the last `size` positions. Takes `evict` [B or 1, H dividing Hq, Nk], the first
    position that has lost each token: Nk for a global one, the position behind the next global
    token for a local one, 0 for the others. As many keys a query as are kept; visits those from
    the first that is kept.
    """
    return definition("nats", size=size)


def neighborhood(size: int = 7) -> Expr:
    """Neighborhood attention in one dimension, not causal (NATTEN, arXiv 2204.07143).

    The `size` keys nearest to the query: as many before as after it, or one more before it if
    `size` is even. Near both ends of the row the window is shifted inwards, so that it stays
    whole. Exactly `size` keys a query, or all keys where there are no more.
    """
    return definition("neighborhood", size=size)


def nsa_selection(k: int = 16, size: int = 64) -> Expr:
    """The selection branch of Native Sparse Attention (NSA, arXiv 2502.11089).

    The keys of the past in the `k` blocks that score highest among those up to the query's own.
    Takes `block_scores` [B or 1, G, T, T], the importance of blocks of `size` keys (equations 8
    to 10), summed over the heads that share a KV head; infinite for blocks that are always
    chosen, as the paper's first block and two latest ones. At most `k * size` keys a query.
    """
    return definition("nsa_selection", k=k, size=size)


def prefix_language_model() -> Expr:
    """Prefix language model: a prefix in both directions, then causal (T5, arXiv 1910.10683).

    The keys of the prefix, and those up to the query's own. Takes `prefix_lengths` [B or 1], the
    number of keys in each row's prefix. At most all keys a query; visits the prefix and the past.
    """
    return definition("prefix_language_model")


def quest(k: int = 128, size: int = 16) -> Expr:
    """Quest's query-aware choice of pages (arXiv 2406.10774).

    The keys of the past in the `k` pages of `size` keys that score highest. Takes
    `block_scores` [B or 1, G, T, T], in the paper upper bounds of the products of a query with
    the keys of a page. At most `k * size` keys a query.
    """
    return definition("quest", k=k, size=size)


def sliding_window(size: int = 1024) -> Expr:
    """Sliding-window attention (Longformer, arXiv 2004.05150; Mistral, arXiv 2310.06825).

    The last `size` keys, the query's own position included. At most `size` keys a query.
    """
    return definition("sliding_window", size=size)


def sparse_transformer_fixed(stride: int = 128, c: int = 8) -> Expr:
    """Fixed attention of Sparse Transformers, both factors in one head (arXiv 1904.10509).

    The keys of the query's own block of `stride` positions, and the last `c` of each block, up to
    its own position. At most `stride + c * Nk / stride` keys a query, but visits every key of the
    past: no faster than `causal`.
    """
    return definition("sparse_transformer_fixed", stride=stride, c=c)


def sparse_transformer_strided(stride: int = 128) -> Expr:
    """Strided attention of Sparse Transformers, both factors in one head (arXiv 1904.10509).

    The last `stride` keys, and each key a multiple of `stride` positions back. At most
    `stride + Nk / stride` keys a query, the distant ones by classes of positions.
    """
    return definition("sparse_transformer_strided", stride=stride)


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
    return definition("sparsek_window", k=k, size=size, lag=lag, gate=gate, scores=scores)


def streaming_llm(sinks: int = 4, size: int = 1024) -> Expr:
    """StreamingLLM: attention sinks at the start and a sliding window (arXiv 2309.17453).

    The first `sinks` keys and the last `size` keys. At most `sinks + size` keys a query.
    """
    return definition("streaming_llm", sinks=sinks, size=size)


def top_theta(theta: str = "theta") -> Expr:
    """Top-Theta attention in its causal form (arXiv 2502.08363).

    The keys of the past whose logit `scale * (q . k)` is at least the threshold of the query's
    head. Takes the tensor of the call that `theta` names, [Hq], which the paper calibrates so that
    about a wanted number of keys is left. The softmax is that of the keys that are left, without
    the paper's compensations; a query that has none gets 0. As many keys a query as reach the
    threshold; visits every key of the past. The thresholds get no gradient.
    """
    return definition("top_theta", theta=theta)


def tree(drafts: int = 64) -> Expr:
    """Tree attention over drafted tokens (SpecInfer, arXiv 2305.09781; Medusa, arXiv 2401.10774).

    The last `drafts` keys are a tree of drafted tokens, parents before children. A drafted token
    sees the committed keys, its ancestors in the tree and itself. Takes `committed` [B or 1], how
    many of the keys before the drafted ones count, from position 0 on (the others are padding),
    and `ancestors` [B or 1, drafts, drafts]: `ancestors[b, i, j]` is not 0 where draft i sees
    draft j, itself included. At most `committed + drafts` keys a query; visits these, and
    of the drafted ones those before its own.
    """
    return definition("tree", drafts=drafts)
