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

from typing import TypeAlias

from attncomp.frontend.ast import Expr
from attncomp.frontend.modifiers import Modifier
from attncomp.patterns.groups import (
    heads,
)
from attncomp.patterns.modifiers import (
    alibi,
    bias,
    scale,
    sink,
    softcap,
)
from attncomp.patterns.primitives import (
    blocks,
    causal,
    chunk,
    dilated,
    documents,
    first,
    full,
    lifetime,
    prefix_lm,
    random_blocks,
    sparsek,
    strided,
    threshold,
    topk_blocks,
    where,
    window,
)
from attncomp.patterns.shipped import (
    apb,
    bigbird,
    block_diffusion,
    block_sparse,
    chunked,
    dilated_window,
    documents_causal,
    documents_full,
    locret,
    longformer,
    moba,
    nats,
    neighborhood,
    nsa_selection,
    prefix_language_model,
    quest,
    sliding_window,
    sparse_transformer_fixed,
    sparse_transformer_strided,
    sparsek_window,
    streaming_llm,
    top_theta,
    tree,
)

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
    "heads",
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
    "threshold",
    "top_theta",
    "topk_blocks",
    "tree",
    "where",
    "window",
]

Pattern: TypeAlias = Expr
