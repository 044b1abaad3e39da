"""The entry point: `compile` turns a pattern into a callable."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor

from attncomp import knobs
from attncomp.codegen.emit import render_all
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.errors import OptionError, suggest
from attncomp.frontend import library as definitions
from attncomp.frontend.ast import Expr, to_text
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.modifiers import modifiers_of
from attncomp.ir.oracle import gate_matrix, tensor_entries, tensor_names
from attncomp.ir.reference import reference_attention
from attncomp.ir.schedule import Problem
from attncomp.pictures.figure import figure_of, has_matplotlib, svg
from attncomp.pictures.request import pictured
from attncomp.runtime.autograd import attention
from attncomp.runtime.checks import (
    check_query_key_value,
    check_tensors,
    checked_length,
    checked_scale,
)
from attncomp.runtime.explain import explain
from attncomp.runtime.inputs import (
    Sizes,
    are_scores,
    autocast,
    checked_inputs,
    learned_text,
    mask_sizes,
    modifier_state,
    shape_text,
)
from attncomp.runtime.program import (
    backend_for,
    problem_from,
    problem_text,
    target_of,
)
from attncomp.runtime.tables import BlockParts, block_state, list_heads, with_all_heads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def compile(
    spec: str | Expr,
    *,
    library: Library | None = None,
    backend: str | None = None,
    **options: object,
) -> CompiledPattern:
    """The attention of a pattern, given as text (`"sparsek(k=512) | window(256)"`) or as its tree.

    library: definitions of your own, from `attncomp.load`; the shipped ones (`"longformer(w=256)"`)
    need none.
    backend: "triton", "torch", "reference" (dense, by the definition), or None: what the variable
    ATTNCOMP_BACKEND says, else Triton for tensors on a GPU and blocked torch for all others.
    Kernels are generated at the first call and kept on disk; equal texts give one object. The
    object is what torch.compile can trace: make it outside of the function to be traced.

    Raises PatternError, with its place, for a pattern that has no meaning, OptionError for an
    unknown option or backend, and TypeError for what is neither text nor tree.
    """
    if options:
        found = _unknown(next(iter(options)), ("backend", "library"))
        raise OptionError(subject="compile", expected="option 'backend' or 'library'", found=found)
    if library is not None and not isinstance(library, Library):
        raise OptionError(
            subject="library", expected="what attncomp.load returns", found=repr(library)
        )
    if backend is not None and backend not in knobs.BACKENDS:
        *others, last = knobs.BACKENDS
        raise OptionError(
            subject="backend",
            expected=f"{', '.join(others)} or {last}",
            found=_unknown(backend, knobs.BACKENDS),
        )
    if isinstance(spec, Expr):
        return CompiledPattern(spec, backend)
    if not isinstance(spec, str):
        raise TypeError(f"expected the pattern as text or tree, found {type(spec).__name__}")
    return _compile_text(spec, backend, library)


def load(path: str | os.PathLike[str]) -> Library:
    """The definitions of a spec file (`*.attn`), with its imports resolved.

    Raises PatternError, with its place, for a mistake in the file or in one that it imports,
    UnreadableFileError (one of them) if it cannot be read, and TypeError for what is no path.
    """
    return Library.read(path)


class Library(definitions.Library):
    """The patterns that a spec file defines: `attncomp.load("my.attn").compile("mine(w=7)")`."""

    def compile(self, spec: str | Expr, *, backend: str | None = None) -> CompiledPattern:
        """As `attncomp.compile(spec, library=self)`: the file's patterns, primitives and shipped
        patterns under their names."""
        return compile(spec, library=self, backend=backend)


def _unknown(name: object, known: tuple[str, ...]) -> str:
    close = suggest(name, known) if isinstance(name, str) else None
    return f"{name!r}" + (f" (did you mean '{close}'?)" if close is not None else "")


@functools.lru_cache(maxsize=1024)
def _compile_text(
    text: str, backend: str | None, library: Library | None = None
) -> CompiledPattern:
    return CompiledPattern(parse(text, library=library), backend)


class CompiledPattern:
    """Attention under one pattern: call it with q, k, v and the tensors that the pattern needs.

    Two of them are equal if their canonical texts and backends are.
    """

    def __init__(self, expr: Expr, backend: str | None = None) -> None:
        self._expr = expr
        self._backend = backend
        self._text = to_text(expr)
        graph = build(expr)
        self._entries = tensor_entries(graph)
        self._modifiers = modifiers_of(expr)
        self._learned = self._modifiers.learned
        self._gating = tensor_names(graph)
        self._needed = (*self._gating, *(name for name, _ in self._learned))
        # What cannot matter is no part of any plan: such selections' scores, such tests' tensors.
        plan = lower(expr, _default_problem("torch", on_gpu=False))
        self._used, self._blocks = plan.scores, BlockParts.of(plan)
        self._recent: tuple[str, torch.device] | None = None

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scores: Tensor | None = None,
        scale: float | None = None,
        return_lse: Literal[False] = False,
        **tensors: Tensor,
    ) -> Tensor: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scores: Tensor | None = None,
        scale: float | None = None,
        return_lse: Literal[True],
        **tensors: Tensor,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scores: Tensor | None = None,
        scale: float | None = None,
        return_lse: bool,
        **tensors: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scores: Tensor | None = None,
        scale: float | None = None,
        return_lse: bool = False,
        **tensors: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of q [B, Hq, Nq, D] over k [B, Hk, Nk, D] and v [B, Hk, Nk, Dv].

        Hk divides Hq; D and Dv are in 16..256; query i stands at position i + Nk - Nq. The dtype
        is float16, bfloat16, float32 or, on backends torch and reference, float64; under
        torch.autocast q, k and v are cast to its dtype. Strides are any with a last one of 1.
        scores: [B, G, Nk] with G dividing Hq, of any floating dtype, for patterns with sparsek.
        Tensors that `where` reads are keyword arguments by the names they have there: integers or
        bool, with a size of B or 1 for a subscript b, one that divides Hq for h, Nk for q and k.
        Masks and scores of blocks (`blocks`, `topk_blocks`) have T = ceil(Nk / size) for q and k.
        Modifiers' tensors, [Hq] or as wide as a table of biases, are keywords too, of any floating
        dtype. scale defaults to 1 / sqrt(D); a pattern with a scale of its own takes none.

        Returns out [B, Hq, Nq, Dv] in q's dtype; with return_lse also lse [B, Hq, Nq], natural,
        in float32 (float64 for float64). A query that attends to no key has out 0 and lse -inf.
        Differentiable once in q, k, v, scores and modifiers' tensors. Raises a CallError that names
        the argument that does not fit, and BackendError where the backend cannot run.
        """
        if scores is not None:
            tensors["scores"] = scores
        check_tensors(q, k, v, self._text)
        q, k, v = autocast(q, k, v)
        backend = backend_for(self._backend, q.device.type, q.dtype)
        check_query_key_value(q, k, v, backend, self._text)
        sizes = Sizes(q.shape[0], q.shape[1], k.shape[2])
        tensors = checked_inputs(
            tensors, self._needed, self._entries, sizes, self._text, q, self._learned
        )
        factor = checked_scale(scale, q.shape[3], self._text, own=self._modifiers.scale)
        if backend == "reference":
            out, lse = self._reference(q, k, v, tensors, factor)
        else:
            used = [tensors[name] for name in self._used]
            given = block_state(self._blocks, tensors, sizes.heads, sizes.n_keys, q.device)
            given += modifier_state(self._modifiers, tensors, q)
            learned = [tensors[name] for name, _ in self._learned]
            lists = list_heads(self._blocks, tensors)
            problem = problem_text(backend, q, k, v, used, lists)
            if not torch.compiler.is_compiling():
                self._recent = problem, q.device
            out, lse = attention(q, k, v, used, learned, given, factor, self._text, problem)
        return (out, lse) if return_lse else out

    def _reference(
        self, q: Tensor, k: Tensor, v: Tensor, tensors: Mapping[str, Tensor], scale: float
    ) -> tuple[Tensor, Tensor]:
        real = torch.float64 if q.dtype == torch.float64 else torch.float32
        graph = build(self._expr)
        tensors = with_all_heads(tensors, self._entries, q.shape[1])
        # In fp16 or bf16 the gates would be rounded to it.
        wide = {
            name: u.to(torch.promote_types(real, u.dtype)) if u.is_floating_point() else u
            for name, u in tensors.items()
        }
        wide_inputs = (q.to(real), k.to(real), v.to(real))
        out, lse = reference_attention(graph, *wide_inputs, wide, scale, self._modifiers)
        return out.to(q.dtype), lse

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that a call needs beside q, k and v."""
        return self._needed

    @property
    def shapes(self) -> dict[str, str]:
        """The shapes of `tensors`, as in `[B, G, Nk]`."""
        shapes = {
            name: shape_text(self._entries[name]) if name in self._entries else "[B, G, Nk]"
            for name in self._gating
        }
        return shapes | {name: learned_text(width) for name, width in self._learned}

    @property
    def integer_tensors(self) -> tuple[str, ...]:
        """Those among `tensors` that `where` reads, integers or bool; all others are floats."""
        return tuple(name for name, read in self._entries.items() if not are_scores(read))

    @property
    def backend(self) -> str | None:
        """The backend asked for; None for that of the tensors' device."""
        return self._backend

    def plan_for(self, problem: Problem) -> KernelPlan:
        """The kernel plan for a problem; its labels and spans are those of the text compiled."""
        return lower(self._expr, problem)

    @property
    def plan(self) -> KernelPlan:
        """The kernel plan of the latest call; before any, that of a usual problem on this machine.

        The backend reference has no plans: calls of it leave this one as it is.
        """
        if self._recent is not None:
            return self.plan_for(problem_from(*self._recent))
        return self.plan_for(_default_problem(self._backend, on_gpu=torch.cuda.is_available()))

    @property
    def source(self) -> str:
        """The generated module for `plan`, or modules, as text."""
        return render_all(self.plan)

    def explain(self) -> str:
        """What each sweep visits, what a query costs, how cost grows, and what generation keeps."""
        dense = self._backend == "reference"
        return explain(self.plan, self._text, self.shapes, dense=dense)

    def mask(
        self,
        n_queries: int,
        n_keys: int | None = None,
        /,
        *,
        heads: int | None = None,
        batch: int | None = None,
        **tensors: Tensor,
    ) -> Tensor:
        """The gate of every pair [B or 1, H or 1, Nq, Nk] in [0, 1], dense; n_keys defaults to Nq.

        heads and batch default to the fewest that the tensors' sizes allow; a pattern that asks for
        the head h or the row b itself needs them. The dtype is that of the scores, float64 for
        patterns without any. Raises CallError for sizes below 1 and tensors that do not fit. For
        small sizes: takes time and memory in proportion to Nq * Nk.
        """
        n_queries = checked_length("n_queries", n_queries)
        n_keys = n_queries if n_keys is None else checked_length("n_keys", n_keys)
        graph = build(self._expr)
        sizes = mask_sizes(graph, self._entries, tensors, heads, batch, n_keys, self._text)
        given = checked_inputs(tensors, self._gating, self._entries, sizes, self._text)
        given = with_all_heads(given, self._entries, sizes.heads)
        return gate_matrix(graph, n_queries, n_keys, given, sizes.heads, sizes.batch)

    def plot(
        self,
        n_queries: int,
        n_keys: int | None = None,
        /,
        *,
        tile: int | tuple[int, int] | None = None,
        head: int = 0,
        batch: int = 0,
        ax: Axes | None = None,
        **tensors: Tensor,
    ) -> Figure:
        """A matplotlib figure of `mask`, one head of one batch row: which pairs are attended, by
        which sweep, and which tiles the kernels visit for it.

        Scores that are not given are standard normal from seed 0, as the caption says. tile:
        queries by keys, a number for both; the kernels' own tiles are in `plan.schedule`. ax: the
        axes to draw on, whose figure is returned. Raises the errors of `mask`, CallError for a
        head or a batch row that there is not, and BackendError without matplotlib.
        """
        picture = pictured(
            self._expr,
            n_queries,
            n_keys,
            tensors,
            tile=tile,
            head=head,
            batch=batch,
        )
        return figure_of(picture, axes=ax)

    def _repr_svg_(self) -> str | None:
        """What a notebook shows: the pattern at a length that tells its parts apart."""
        if self._entries or not has_matplotlib():
            return None  # its integer tensors are the user's to give
        return svg(pictured(self._expr, None))

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        backend = "" if self._backend is None else f", backend={self._backend!r}"
        return f"attncomp.compile({self._text!r}{backend})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CompiledPattern):
            return NotImplemented
        return (self._text, self._backend) == (other._text, other._backend)

    def __hash__(self) -> int:
        return hash((self._text, self._backend))

    def __reduce__(self) -> tuple[Callable[..., CompiledPattern], tuple[str, str | None]]:
        return _compile_text, (self._text, self._backend)


def _default_problem(backend: str | None, *, on_gpu: bool) -> Problem:
    """A usual problem: bfloat16 and D = 128 for Triton, float32 and 64 for torch.

    Triton is for this machine's GPU, or for sm_90 where it is asked for and there is none.
    """
    on_triton = backend == "triton" or (backend is None and on_gpu)
    target = target_of(torch.device("cuda", 0)) if on_gpu else "sm_90" if on_triton else "cpu"
    size = 128 if on_triton else 64
    return Problem(
        backend="triton" if on_triton else "torch",
        target=target,
        dtype="bfloat16" if on_triton else "float32",
        head_dim=size,
        value_dim=size,
        unit_heads=4,
    )
