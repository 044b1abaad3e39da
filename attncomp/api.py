"""The entry point: `compile` turns a pattern into a callable."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor

from attncomp.codegen.emit import render_all
from attncomp.codegen.lower import lower
from attncomp.codegen.plan import KernelPlan
from attncomp.errors import OptionError
from attncomp.frontend import library as definitions
from attncomp.frontend.ast import Expr, to_text
from attncomp.frontend.heads import has_groups, of_every_head, with_heads
from attncomp.frontend.parser import parse
from attncomp.ir.build import build, build_all_heads
from attncomp.ir.modifiers import modifiers_by_group
from attncomp.ir.oracle import gate_matrix, tensor_entries, tensor_names
from attncomp.ir.schedule import Problem
from attncomp.pictures.figure import figure_of, has_matplotlib, svg
from attncomp.pictures.request import pictured, pictured_groups
from attncomp.runtime import head_groups
from attncomp.runtime.calls import Checked, Checks
from attncomp.runtime.checks import check_options, check_tunable, checked_length
from attncomp.runtime.dense import dense_attention
from attncomp.runtime.explain import explain, explain_groups
from attncomp.runtime.inputs import (
    integer_names,
    learned_text,
    mask_inputs,
    mask_sizes,
    shape_text,
)
from attncomp.runtime.program import local_problem, plan_of_call, usual_problem
from attncomp.runtime.tables import BlockParts
from attncomp.runtime.whole import Whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def compile(
    spec: str | Expr,
    *,
    library: Library | None = None,
    backend: str | None = None,
    autotune: bool = False,
    **options: object,
) -> CompiledPattern:
    """The attention of a pattern, given as text (`"sparsek(k=512) | window(256)"`) or as its tree.

    library: definitions of your own, from `attncomp.load`; the shipped ones (`"longformer(w=256)"`)
    need none.
    backend: "triton", "torch", "reference" (dense, by the definition), or None: what the variable
    ATTNCOMP_BACKEND says, else Triton for tensors on a GPU and blocked torch for all others.
    autotune: whether the first call of a problem searches for the fastest schedule near that of
    the device table, with progress on stderr; it takes minutes on a GPU, and is kept on disk.
    Kernels are generated at the first call and kept on disk; equal texts give one object. The
    object is what torch.compile can trace: make it outside of the function to be traced.

    Raises PatternError, with its place, for a pattern that has no meaning, OptionError for an
    unknown option or backend, and TypeError for what is neither text nor tree.
    """
    check_options(backend, options, autotune)
    if autotune:
        check_tunable(backend)
    if library is not None and not isinstance(library, Library):
        raise OptionError(
            subject="library", expected="what attncomp.load returns", found=repr(library)
        )
    if isinstance(spec, Expr):
        return CompiledPattern(spec, backend, autotune=autotune)
    if not isinstance(spec, str):
        raise TypeError(f"expected the pattern as text or tree, found {type(spec).__name__}")
    return _compile_text(spec, backend, library, autotune)


def load(path: str | os.PathLike[str]) -> Library:
    """The definitions of a spec file (`*.attn`), with its imports resolved.

    Raises PatternError, with its place, for a mistake in the file or in one that it imports,
    UnreadableFileError (one of them) if it cannot be read, and TypeError for what is no path.
    """
    return Library.read(path)


class Library(definitions.Library):
    """The patterns that a spec file defines: `attncomp.load("my.attn").compile("mine(w=7)")`."""

    def compile(
        self, spec: str | Expr, *, backend: str | None = None, autotune: bool = False
    ) -> CompiledPattern:
        """As `attncomp.compile(spec, library=self)`: the file's patterns, primitives and shipped
        patterns under their names."""
        return compile(spec, library=self, backend=backend, autotune=autotune)


@functools.lru_cache(maxsize=1024)
def _compile_text(
    text: str, backend: str | None, library: Library | None = None, autotune: bool = False
) -> CompiledPattern:
    return CompiledPattern(parse(text, library=library), backend, autotune=autotune)


class CompiledPattern:
    """Attention under one pattern: call it with q, k, v and the tensors that the pattern needs.

    Two of them are equal if their canonical texts, backends and autotune are.
    """

    def __init__(self, expr: Expr, backend: str | None = None, *, autotune: bool = False) -> None:
        self._expr = expr
        self._backend = backend
        self._autotune = autotune
        self._text = to_text(expr)
        self._grouped = has_groups(expr)
        # Of the same tensors, whatever the number of heads.
        self._all_heads = build_all_heads(expr)
        self._entries = tensor_entries(self._all_heads)
        modifiers = modifiers_by_group(expr)
        self._learned = tuple(dict.fromkeys(u for part in modifiers for u in part.learned))
        has_scale = any(part.scale is not None for part in modifiers)
        self._gating = tensor_names(self._all_heads)
        self._ranked = tuple(name for name in self._gating if name not in self._entries)
        self._needed = (*self._gating, *(name for name, _ in self._learned))
        needs = (self._needed, self._entries, self._learned, has_scale)
        self._checks = Checks(self._text, backend, *needs, autotune)
        # What cannot matter is no part of any plan: such selections' scores, such tests' tensors.
        plan = lower(of_every_head(expr), usual_problem("torch", on_gpu=False))
        self._whole = Whole.of(plan.scores, BlockParts.of(plan), modifiers[0])
        self._recent: tuple[str, torch.device] | None = None
        self._recent_pieces: tuple[tuple[head_groups.Piece, str], ...] = ()

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
        Scores are [B, G, Nk], G dividing Hq, of any floating dtype.
        Tensors that `where` reads are keyword arguments by the names they have there: integers or
        bool, with a size of B or 1 for a subscript b, one that divides Hq for h, Nk for q and k.
        Masks and scores of blocks (`blocks`, `topk_blocks`) have T = ceil(Nk / size) for q and k.
        Thresholds [Hq] and modifiers' tensors, [Hq] or as wide as a table, are of any floating
        dtype. scale defaults to 1 / sqrt(D); a pattern with a scale of its own takes none.

        Returns out [B, Hq, Nq, Dv] in q's dtype; with return_lse also lse [B, Hq, Nq], natural,
        in float32 (float64 for float64). A query that attends to no key has out 0 and lse -inf.
        Differentiable once in q, k, v, scores and modifiers' tensors. Raises a CallError that names
        the argument that does not fit, and BackendError where the backend cannot run.
        """
        if scores is not None:
            tensors["scores"] = scores
        out, lse = self._attend(self._checks(q, k, v, tensors, scale))
        return (out, lse) if return_lse else out

    def _attend(self, call: Checked) -> tuple[Tensor, Tensor]:
        inputs, scale, backend, known, records, _ = call
        device, heads = inputs[0].device, inputs[0].shape[1]
        if known is not None and records is not None:
            again = self._whole.again(*inputs, records)
            if again is not None:
                self._recent = known, device
                return again
        if backend == "reference":
            out, lse = dense_attention(self._bound(heads), *inputs, self._entries, scale)
        elif self._grouped:
            out, lse, cut = head_groups.attention_of_groups(
                *inputs, self._ranked, scale, self._text, backend, tuned=self._autotune
            )
            if not torch.compiler.is_compiling():
                self._recent, self._recent_pieces = (backend, device), cut
        else:
            out, lse, problem = self._whole.attention(
                *inputs, scale, self._text, backend, known, self._autotune, records
            )
            if not torch.compiler.is_compiling():
                self._recent = problem, device
                if known is None:
                    self._checks.remember(call, problem)
        return out, lse

    def _bound(self, n_heads: int) -> Expr:
        """The pattern for a number of heads; HeadGroupError where it has none."""
        return with_heads(self._expr, n_heads, self._text) if self._grouped else self._expr

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
        return integer_names(self._entries)

    @property
    def backend(self) -> str | None:
        """The backend asked for; None for that of the tensors' device."""
        return self._backend

    def plan_for(self, problem: Problem) -> KernelPlan:
        """The kernel plan for a problem; its labels and spans are those of the text compiled.

        Raises OptionError for a pattern with groups of heads, which has several.
        """
        if self._grouped:
            raise head_groups.several_plans(self._text)
        return lower(self._expr, problem)

    @property
    def plan(self) -> KernelPlan:
        """The kernel plan of the latest call; before any, that of a usual problem on this machine.

        The backend reference has no plans: calls of it leave this one as it is. Raises OptionError
        for a pattern with groups of heads, which has several.
        """
        if self._recent is not None and not self._grouped:
            return plan_of_call(self._expr, *self._recent)
        return self.plan_for(local_problem(self._backend))

    @property
    def plans(self) -> dict[str, KernelPlan]:
        """The plans of the latest call by the query heads that they serve, as in `{"0:8": ...}`.

        Before any call those of a usual problem, with the fewest heads that the groups allow. A
        pattern without groups of heads has one, for ":".
        """
        if not self._grouped:
            return {":": self.plan}
        if self._recent is None:
            return head_groups.usual_plans(self._expr, local_problem(self._backend))
        return head_groups.plans_of(self._recent_pieces, self._recent[1])

    @property
    def source(self) -> str:
        """The generated modules for `plan`, as text; those for `plans`, each below its heads."""
        if not self._grouped:
            return render_all(self.plan)
        return "\n\n".join(
            f"# heads {heads}: {plan.pattern}\n{render_all(plan)}"
            for heads, plan in self.plans.items()
        )

    def explain(self, *, n_keys: int | None = None) -> str:
        """What each sweep visits, what a query costs, how cost grows, and what generation keeps.

        Of a pattern with groups of heads, for each of them. n_keys: the context length at which
        visited and attended keys are counted, as means over the queries of all positions, in place
        of two usual ones; takes time and memory of it. Raises OptionError for one below 1.
        """
        dense = self._backend == "reference"
        if not self._grouped:
            return explain(self.plan, self._text, self.shapes, n_keys, dense=dense)
        plans = head_groups.usual_plans(self._expr, local_problem(self._backend))
        return explain_groups(plans, self._text, self.shapes, n_keys, dense=dense)

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
        the head h or the row b itself, or has groups of heads, needs them. Tensors are those of a
        call, of which modifiers' may lack; thresholds need `logits` [B or 1, Hq, Nq, Nk]. The dtype
        is that of scores, else float64. Takes time and memory of Nq * Nk. Raises CallError.
        """
        n_queries = checked_length("n_queries", n_queries)
        n_keys = n_queries if n_keys is None else checked_length("n_keys", n_keys)
        if self._grouped and heads is None:
            raise head_groups.no_number(self._text)
        every = self._all_heads
        known = every, self._entries, tensors, heads, batch
        sizes = mask_sizes(*known, (n_keys, n_queries), self._text)
        given = mask_inputs(tensors, sizes, every, self._entries, self._learned, self._text)
        graph = build(self._bound(sizes.heads)) if self._grouped else every
        return gate_matrix(graph, n_queries, n_keys, given, sizes.heads, sizes.batch)

    def plot(
        self,
        n_queries: int,
        n_keys: int | None = None,
        /,
        *,
        tile: int | tuple[int, int] | None = None,
        head: int = 0,
        heads: int | None = None,
        batch: int = 0,
        ax: Axes | None = None,
        **tensors: Tensor,
    ) -> Figure:
        """A matplotlib figure of `mask`, one head of one batch row: which pairs are attended, by
        which sweep, and which tiles the kernels visit for it.

        Scores that are not given are standard normal from seed 0, as the caption says. tile:
        queries by keys, a number for both; the kernels' own tiles are in `plan.schedule`. heads:
        how many a pattern with groups of heads has, by default the fewest that fit. ax: axes to
        draw on, whose figure is returned. Raises the errors of `mask`, CallError for a head or a
        batch row that there is not, and BackendError without matplotlib.
        """
        sides = n_queries, n_keys, tensors
        picture = pictured(self._expr, *sides, tile=tile, head=head, heads=heads, batch=batch)
        return figure_of(picture, axes=ax)

    def _repr_svg_(self) -> str | None:
        """What a notebook shows: the pattern, or each group of heads, at a length that suits it.

        Integer tensors that the pattern reads are made up, which the caption says.
        """
        return svg(*pictured_groups(self._expr)) if has_matplotlib() else None

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        backend = "" if self._backend is None else f", backend={self._backend!r}"
        autotune = ", autotune=True" if self._autotune else ""
        return f"attncomp.compile({self._text!r}{backend}{autotune})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CompiledPattern):
            return NotImplemented
        return self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__())

    def __reduce__(self) -> tuple[Callable[..., CompiledPattern], tuple[object, ...]]:
        return _compile_text, (self._text, self._backend, None, self._autotune)
