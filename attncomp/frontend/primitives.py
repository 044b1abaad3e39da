"""The primitives of the pattern language: one row of a table each.

To add a primitive, add a row to `_ROWS`; its meaning as a gate function g(b, h, q, k) is given
where the IR is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attncomp.errors import Span, UnknownPatternError, quoted
from attncomp.frontend.catalog import (
    GATE_MODES,
    MAX_INTEGER,
    REQUIRED,
    Parameter,
    Primitive,
    name_hint,
)


def _count(name: str, doc: str, *, minimum: int = 1, default: int | None = None) -> Parameter:
    """An integer parameter that counts keys or positions."""
    return Parameter(
        name=name,
        type=int,
        default=REQUIRED if default is None else default,
        minimum=minimum,
        maximum=MAX_INTEGER,
        doc=doc,
    )


_STEP: Final = _count("step", "Distance between neighbouring keys.")
_BLOCK: Final = _count("size", "Positions of a block; the first starts at position 0.")

_ROWS = (
    Primitive(name="full", doc="Every key."),
    Primitive(name="causal", doc="Keys at or before the query's position: k <= q."),
    Primitive(
        name="window",
        parameters=(_count("size", "Keys attended, the query's own position included."),),
        choices=(
            (
                _count("before", "Keys before the query's own.", minimum=0, default=0),
                _count("after", "Keys after the query's own.", minimum=0, default=0),
            ),
        ),
        example="window(5)",
        doc="The last `size` keys, 0 <= q - k < size; or -after <= q - k <= before.",
    ),
    Primitive(
        name="first",
        parameters=(_count("count", "Keys attended, from position 0."),),
        example="first(3)",
        doc="The first `count` keys, attention sinks or global keys: k < count and k <= q.",
    ),
    Primitive(
        name="chunk",
        parameters=(_count("size", "Positions of a chunk; the first starts at position 0."),),
        doc="The query's own chunk of `size` positions: q // size == k // size.",
        example="chunk(4)",
    ),
    Primitive(
        name="dilated",
        parameters=(
            _count("size", "Keys attended, the query's own included."),
            _STEP,
        ),
        doc="Every `step`-th key back from the query's, `size` in all: a window with gaps.",
        example="dilated(4, 3)",
    ),
    Primitive(
        name="strided",
        parameters=(_STEP,),
        doc="Every `step`-th key back from the query's: (q - k) % step == 0 and k <= q.",
        example="strided(4)",
    ),
    Primitive(
        name="documents",
        doc="The keys of the query's own document, before and after it.\n"
        "Takes `documents` [B or 1, Nk], the id of each position's document, in any order; or, in\n"
        "its place, `cu_seqlens`, the cumulative lengths 0, n1, n1 + n2, ..., Nk of documents\n"
        "that follow each other.",
        given={"documents": [[0] * 5 + [1] * 8 + [2] * 3]},
    ),
    Primitive(
        name="prefix_lm",
        doc="A prefix that every query sees, then causal: k <= q or k < prefix_lengths[b].\n"
        "Takes `prefix_lengths` [B or 1], the number of keys in each row's prefix.",
        given={"prefix_lengths": [5]},
    ),
    Primitive(
        name="lifetime",
        doc="Keys until they are evicted: k <= q < evict[b, h, k].\n"
        "Takes `evict` [B or 1, H dividing Hq, Nk], the first position that has lost each key.",
        given={"evict": [[[16, 3, 4, 16, 7, 9, 8, 16, 10, 16, 13, 14, 13, 16, 16, 16]]]},
    ),
    Primitive(
        name="blocks",
        parameters=(_BLOCK,),
        doc="Blocks of pairs that a mask has: block_mask[b, h, q // size, k // size] != 0.",
        example="blocks(4)",
        given={"block_mask": [[[[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]]]]},
    ),
    Primitive(
        name="topk_blocks",
        parameters=(
            _count("k", "Blocks chosen for a block of queries."),
            _BLOCK,
        ),
        doc="The k highest-scored blocks of keys up to the query's own, by block_scores.",
        example="topk_blocks(k=2, size=4)",
    ),
    Primitive(
        name="random_blocks",
        parameters=(
            Parameter(
                name="count",
                type=int,
                minimum=1,
                maximum=128,  # a mask compares a key's block with each
                doc="Blocks drawn for a block of queries, perhaps one more than once.",
            ),
            _BLOCK,
            _count("seed", "Chooses among the draws.", minimum=0, default=0),
        ),
        doc="Random blocks of keys, the same for all heads (BigBird, arXiv 2007.14062).",
        example="random_blocks(count=2, size=4)",
    ),
    Primitive(
        name="threshold",
        parameters=(
            Parameter(
                name="theta",
                type=str,
                default="theta",
                names_tensor=True,
                doc="Name of the call's tensor [Hq] of thresholds, floats.",
            ),
        ),
        doc="The keys whose logit reaches the head's threshold: scale * (q . k) >= theta[h].",
        given={"theta": [0.5]},
    ),
    Primitive(
        name="sparsek",
        parameters=(
            _count("k", "Keys selected for a query."),
            _count("lag", "Positions by which selection trails the query.", minimum=0, default=0),
            Parameter(
                name="gate",
                type=str,
                default="key_value",
                choices=GATE_MODES,
                doc="How the gate enters attention.",
            ),
            Parameter(
                name="scores",
                type=str,
                default="scores",
                names_tensor=True,
                doc="Name of the call's tensor [B, G, Nk] that ranks the keys.",
            ),
        ),
        soft=True,
        example="sparsek(k=4)",
        doc="The k highest-scored keys of the prefix, gated by SparseK (arXiv 2406.16747).",
    ),
)

PRIMITIVES: Final[Mapping[str, Primitive]] = MappingProxyType({row.name: row for row in _ROWS})


def lookup(name: str, span: Span | None = None) -> Primitive:
    """The primitive called `name`; UnknownPatternError at `span`, with a suggestion, if none is."""
    primitive = PRIMITIVES.get(name)
    if primitive is None:
        raise UnknownPatternError(
            span, name=quoted(name), hint=name_hint(name, PRIMITIVES, "patterns")
        )
    return primitive
