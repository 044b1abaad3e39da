"""The tensors of a call beside q, k and v: scores of selections and integers that tests read."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from attncomp.errors import OptionError, TensorDtypeError, TensorShapeError
from attncomp.frontend.modifiers import STANDARD_SLOPES
from attncomp.ir.affine import Affine, Entry, IndexName, Passing, Top, index
from attncomp.ir.graph import Graph
from attncomp.ir.modifiers import Learned, standard_slopes
from attncomp.ir.ops import SparseK, Where
from attncomp.ir.oracle import check_logits, needs_logits, tensor_names
from attncomp.ir.tables import LOGITS
from attncomp.runtime.block_rows import positions_a_size, with_all_rows
from attncomp.runtime.checks import (
    SCORE_DTYPES,
    check_device,
    check_given,
    check_layout,
    check_learned,
    check_names,
    check_real,
    check_scores,
    check_thresholds,
    checked_length,
    name_of,
    names_of,
)
from attncomp.runtime.packing import with_documents
from attncomp.runtime.tables import with_all_heads

_INTEGER_DTYPES: Final = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)


SizeRule: TypeAlias = tuple[Callable[[], str], Callable[[int], bool]]
Layout: TypeAlias = list[SizeRule]
"""What sizes each dimension of a tensor may have: in words when asked, and as a check."""


class Sizes(NamedTuple):
    """What subscripts range over: rows of the batch, query heads, keys; and queries."""

    batch: int
    heads: int
    n_keys: int
    n_queries: int


def checked_inputs(
    tensors: Mapping[str, Tensor],
    needed: Sequence[str],
    entries: Mapping[str, Sequence[Entry]],
    sizes: Sizes,
    pattern: str,
    q: Tensor | None = None,
    learned: Sequence[Learned] = (),
    logits: tuple[int, int, int, int] | None = None,
) -> dict[str, Tensor]:
    """The needed tensors, integers in 32 or 64 bits; CallError of the first thing that is wrong.

    entries: what tests read of each tensor; learned: tensors of modifiers, which may lack where not
    needed; others are scores of keys. q: of the call, None for a mask. logits: of which shape, too.
    """
    tensors = with_documents(tensors, needed, sizes.n_keys, pattern, q)
    widths = dict(learned)
    others: tuple[str, ...] = () if q is None or needed else ("q", "k", "v")
    others += () if logits is None else (LOGITS,)
    check_names(tensors, (*dict.fromkeys((*needed, *widths)), *others), pattern)
    checked = {}
    for name in needed:
        if q is not None and name in widths:
            check_given(name, tensors.get(name), learned_text(widths[name]), pattern)
            check_learned(name, tensors[name], widths[name], pattern, q)
            checked[name] = tensors[name]
        elif name not in entries:
            check_given(name, tensors.get(name), _score_layout(sizes, q), pattern)
            check_scores(name, tensors[name], sizes.n_keys, pattern, q)
            checked[name] = tensors[name]
        elif are_thresholds(entries[name]):
            check_given(name, tensors.get(name), learned_text(None), pattern)
            check_thresholds(name, tensors[name], sizes.heads, pattern, q)
            checked[name] = as_thresholds(tensors[name], q)
        else:
            given = tensors.get(name)
            checked[name] = _checked_entries(name, given, entries[name], sizes, pattern, q)
    if logits is not None:
        check_logits(tensors.get(LOGITS), logits, pattern)
        check_real(LOGITS, tensors[LOGITS], pattern)
        checked[LOGITS] = tensors[LOGITS].detach()
    return checked


def _checked_entries(
    name: str,
    tensor: Tensor | None,
    entries: Sequence[Entry],
    sizes: Sizes,
    pattern: str,
    q: Tensor | None,
) -> Tensor:
    """A tensor that tests read entries of, or of a table made from it."""
    layout = entry_layout(entries, sizes)
    if not isinstance(tensor, Tensor):  # words of symbolic sizes fix them
        check_given(name, tensor, _layout_text(layout), pattern)
    assert tensor is not None
    tensor = with_all_rows(tensor, entries, sizes.n_queries, sizes.n_keys)
    if q is not None:
        check_device(name, tensor, q, pattern)
    dtypes = SCORE_DTYPES if are_scores(entries) else _INTEGER_DTYPES
    _check_entries(name, tensor, layout, dtypes, pattern)
    return _widened(tensor)


def mask_inputs(
    tensors: Mapping[str, Tensor],
    sizes: Sizes,
    graph: Graph,
    entries: Mapping[str, Sequence[Entry]],
    learned: Sequence[Learned],
    pattern: str,
) -> dict[str, Tensor]:
    """What the dense mask of a graph is made of, an entry a head; CallError as `checked_inputs`."""
    shape = (sizes.batch, sizes.heads, sizes.n_queries, sizes.n_keys)
    logits = shape if needs_logits(graph) else None
    names = tensor_names(graph)
    checked = checked_inputs(
        tensors, names, entries, sizes, pattern, learned=learned, logits=logits
    )
    return with_all_heads(checked, entries, sizes.heads)


def learned_text(width: int | None) -> str:
    """The shape of a modifier's tensor in symbols: `[Hq]` or `[Hq, 511]`."""
    return "[Hq]" if width is None else f"[Hq, {width}]"


def modifier_state(names: Sequence[str], tensors: Mapping[str, Tensor], q: Tensor) -> list[Tensor]:
    """The tensors of modifiers as kernels read them: contiguous, float32 (float64 for float64).

    Standard slopes are those of q's heads, unless q has some of a call's heads alone and they are
    given.
    """
    real = torch.float64 if q.dtype == torch.float64 else torch.float32
    return [
        all_slopes(q)
        if name == STANDARD_SLOPES and name not in tensors
        else tensors[name].detach().to(real).contiguous()
        for name in names
    ]


def all_slopes(q: Tensor) -> Tensor:
    """The standard slopes [Hq] of a call, float32 (float64 for float64)."""
    real = torch.float64 if q.dtype == torch.float64 else torch.float32
    return standard_slopes(operator.index(q.shape[1]), dtype=real, device=q.device)


def _score_layout(sizes: Sizes, q: Tensor | None) -> str:
    return "[B, G, Nk]" if q is not None else f"[B, G, {sizes.n_keys}]"


def autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in the dtype of torch.autocast where it is on, float64 aside as everywhere."""
    device_type = q.device.type
    # Named, since torch.compile of older versions cannot trace torch.amp.is_autocast_available.
    if device_type not in ("cuda", "cpu") or not torch.is_autocast_enabled(device_type):
        return q, k, v
    dtype = torch.get_autocast_dtype(device_type)
    q, k, v = (
        tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
        for tensor in (q, k, v)
    )
    return q, k, v


def mask_sizes(
    graph: Graph,
    entries: Mapping[str, Sequence[Entry]],
    tensors: Mapping[str, Tensor],
    heads: int | None,
    batch: int | None,
    lengths: tuple[int, int],
    pattern: str,
) -> Sizes:
    """The sizes of a mask: those asked for, else the fewest that the tensors allow.

    lengths: of keys and of queries.
    """
    asked = bare_indices(graph)

    def size(option: str, name: Literal["h", "b"], given: int | None) -> int:
        if given is not None:
            return checked_length(option, given)
        if name in asked:
            raise OptionError(
                subject=option,
                expected=f"a number, as the pattern asks for {name}",
                found=None,
                pattern=pattern,
            )
        return least_size(graph, entries, tensors, name)

    n_heads = size("heads", "h", heads)
    return Sizes(size("batch", "b", batch), n_heads, *lengths)


def least_size(
    graph: Graph,
    entries: Mapping[str, Sequence[Entry]],
    tensors: Mapping[str, Tensor],
    name: Literal["h", "b"],
) -> int:
    """The fewest heads (h) or rows of the batch (b) that the tensors' sizes allow, 1 at least."""
    given = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    found = _sizes_along(graph, entries, given, name, 1 if name == "h" else 0)
    sizes = [size for size in found if size > 0]
    return math.lcm(*sizes) if name == "h" else max(sizes, default=1)


def bare_indices(graph: Graph) -> frozenset[IndexName]:
    """The indices that the tests of a pattern ask for otherwise than as subscripts."""
    tests = [op for op in map(graph.op, graph.walk()) if isinstance(op, Where)]
    return frozenset[IndexName]().union(*(test.value.bare_indices for test in tests))


def _sizes_along(
    graph: Graph,
    entries: Mapping[str, Sequence[Entry]],
    tensors: Mapping[str, Tensor],
    name: IndexName,
    place: int,
) -> list[int]:
    """The sizes of all dimensions that an index subscripts; `place` is that of scores."""
    ops = [graph.op(node) for node in graph.walk()]
    scores = {op.scores for op in ops if isinstance(op, SparseK)}
    sizes = [t.shape[place] for n, t in tensors.items() if n in scores and t.ndim > place]
    if name == "b" and LOGITS in tensors and needs_logits(graph):
        sizes += tensors[LOGITS].shape[-4:-3]  # their heads are those of the thresholds
    for tensor, found in entries.items():
        for dimension, subscript in enumerate(found[0].indices):
            if subscript == index(name) and tensor in tensors:
                sizes += tensors[tensor].shape[dimension : dimension + 1]
    return sizes


def are_scores(entries: Sequence[Entry]) -> bool:
    """Whether what tests read of a tensor are the best ones of its scores."""
    return isinstance(entries[0].table, Top)


def are_thresholds(entries: Sequence[Entry]) -> bool:
    """Whether the entries of a tensor are what logits have to reach."""
    return isinstance(entries[0].table, Passing)


def as_thresholds(tensor: Tensor, q: Tensor | None) -> Tensor:
    """Checked thresholds as kernels compare them: float32, float64 for float64; no gradient."""
    if q is None:
        return tensor.detach()
    return tensor.detach().to(torch.float64 if q.dtype == torch.float64 else torch.float32)


def integer_names(entries: Mapping[str, Sequence[Entry]]) -> tuple[str, ...]:
    """Those among the tensors that tests read that hold integers."""
    floats = [name for name, e in entries.items() if are_scores(e) or are_thresholds(e)]
    return tuple(name for name in entries if name not in floats)


def block_count(entry: Entry, n_keys: int) -> int:
    """How many blocks of positions an entry's last subscript tells apart."""
    return -(-n_keys // (positions_a_size(entry.indices[-1]) or 1))


def _check_entries(
    name: str, tensor: Tensor, layout: Layout, dtypes: Sequence[torch.dtype], pattern: str
) -> None:
    """Raise the CallError of the first thing that is wrong with a tensor that tests read."""
    if tensor.layout is not torch.strided:
        check_layout(name, tensor, pattern)
    fits = tensor.ndim == len(layout) and all(
        fits(size) for (_, fits), size in zip(layout, tensor.shape, strict=False)
    )
    if not fits:
        raise TensorShapeError(
            subject=name,
            expected=_layout_text(layout),
            found=tuple(tensor.shape),
            pattern=pattern,
        )
    if tensor.dtype not in dtypes:
        raise TensorDtypeError(
            subject=name,
            expected=names_of(dtypes),
            found=name_of(tensor.dtype),
            pattern=pattern,
        )


def _widened(tensor: Tensor) -> Tensor:
    """A checked tensor as kernels read it: of integers int32 or int64, of scores as it is."""
    kept = tensor.dtype == torch.int64 or tensor.is_floating_point()
    return tensor if kept else tensor.to(torch.int32)


def shape_text(entries: Sequence[Entry]) -> str:
    """The shape of an integer tensor in symbols: `[B or 1, Nk]`; `...` for a free size."""
    if are_thresholds(entries):
        return learned_text(None)
    names = []
    for place in range(len(entries[0].indices)):
        subscripts = [entry.indices[place] for entry in entries]
        known = [name for name in map(_size_name, subscripts) if name is not None]
        names.append(known[0] if known else "...")
    return f"[{', '.join(names)}]"


def _size_name(subscript: Affine) -> str | None:
    if subscript == index("b"):
        return "B or 1"
    if subscript == index("h"):
        return "H dividing Hq"
    block = positions_a_size(subscript)
    return None if block is None else "Nk" if block == 1 else f"Nk / {block}"


def _layout_text(layout: Layout) -> str:
    return "[" + ", ".join(text() for text, _ in layout) + "]"


def entry_layout(entries: Sequence[Entry], sizes: Sizes) -> Layout:
    """The sizes of a tensor's dimensions, of which the pattern reads all of entries.

    A subscript b asks for a size of B or 1, h for one that divides the number of heads, q and k for
    one entry a position, q // c and k // c for one a block of c positions; of any other subscript
    the size is free.
    """
    layout: Layout = []
    for place in range(len(entries[0].indices)):
        subscripts = [entry.indices[place] for entry in entries]
        rules = [_size_rule(subscript, sizes) for subscript in subscripts]
        known = [rule for rule in rules if rule is not None] or [
            (lambda: "any", lambda size: size >= 1)
        ]
        layout.append(known[0])
    return layout


def _size_rule(subscript: Affine, sizes: Sizes) -> SizeRule | None:
    """The sizes that a subscript asks for; None for any."""
    if subscript == index("b"):
        batch = sizes.batch
        return lambda: f"{batch} or 1" if batch != 1 else "1", lambda size: size in (1, batch)
    if subscript == index("h"):
        heads = sizes.heads
        return lambda: f"H dividing {heads} heads", lambda size: size >= 1 and heads % size == 0
    blocks = positions_a_size(subscript)
    if blocks is None:
        return None
    size = -(-sizes.n_keys // blocks)
    return lambda: str(size), lambda found: found == size
