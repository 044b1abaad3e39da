"""The custom ops of attention: `attncomp::select`, `attncomp::attend`, `attncomp::attend_backward`.

Each takes the pattern's canonical text and a problem text (`attncomp.runtime.program`), from which
any process can generate the kernels again; a graph that holds these ops can thus be exported.

`select` gives the state of the selections (`attncomp.codegen.state`) and is not differentiable;
`attend` is, in q, k, v and scores. It does not read the scores, which the state holds: they are its
arguments for their gradients alone. The tensors that conditions read, the lists of blocks
that sweeps walk and the tensors of modifiers stand behind the selections in its `state`; of the
last the learned ones stand behind the scores as well.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attncomp.codegen.plan import KernelPlan
from attncomp.codegen.state import state_fields, state_layout
from attncomp.errors import BackendError
from attncomp.runtime.directly import (
    refuse_tangents,
    runs_directly,
    saves_plainly,
    wants_gradients,
)
from attncomp.runtime.guarded import guarded, unaliased
from attncomp.runtime.program import device_plan, program
from attncomp.runtime.replay import Records, Replayed, Result

Options: TypeAlias = tuple[float, str, str]
"""The scale of a call, its pattern and its problem."""

_library = torch.library.Library("attncomp", "DEF")
_library.define(
    "select(Tensor[] scores, SymInt n_queries, str pattern, str problem) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "attend(Tensor q, Tensor k, Tensor v, Tensor[] scores, Tensor[] state, float scale, "
    "str pattern, str problem) -> (Tensor out, Tensor lse)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "attend_backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, "
    "Tensor lse, Tensor[] state, float scale, str pattern, str problem) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Sequence[Tensor],
    learned: Sequence[Tensor],
    tensors: Sequence[Tensor],
    scale: float,
    pattern: str,
    problem: str,
    records: Records | None,
) -> tuple[Tensor, Tensor]:
    """out [B, Hq, Nq, Dv] and lse [B, Hq, Nq] of checked inputs.

    scores are in the plan's order, and so are the learned tensors of modifiers. tensors are what
    kernels read beside the selections: `attncomp.runtime.tables.block_state`, then the tensors of
    modifiers. records: of such calls, if there may be some.
    """
    refuse_tangents(q, k, v, *scores, *learned)
    given = [*scores, *learned]
    if runs_directly(q, k, v, *given, *tensors):
        options = scale, pattern, problem
        if not wants_gradients(q, k, v, *given):
            out, lse = _whole(q, k, v, scores, tensors, options, records, keep=False).outputs
            return out, lse
        run = functools.partial(_run_directly, len(scores), records if saves_plainly() else None)
        result: tuple[Tensor, Tensor] = _Attend.apply(
            run, len(given), options, q, k, v, *given, *tensors
        )
        return result
    state: list[Tensor] = []
    if scores:
        state = _select_op([score.detach() for score in scores], q.shape[2], pattern, problem)
    return _attend_op(q, k, v, given, [*state, *tensors], scale, pattern, problem)


@torch.library.register_fake("attncomp::select", lib=_library)
def _fake_select(
    scores: Sequence[Tensor], n_queries: int, pattern: str, problem: str
) -> list[Tensor]:
    plan = device_plan(pattern, problem, scores[0].device)
    batch, _, n_keys = scores[0].shape
    groups = [score.shape[1] for score in scores]
    layout = state_layout(plan, batch, groups, n_queries, n_keys)
    size = len(state_fields(plan))
    real = [_real(scores[plan.scores.index(selection.scores)]) for selection in plan.selections]
    return [
        scores[0].new_empty(
            field.shape, dtype=real[index // size] if field.kind == "float" else torch.int32
        )
        for index, field in enumerate(layout)
    ]


def _real(score: Tensor) -> torch.dtype:
    """The dtype of real fields of the state, and of the gradient of the scores within kernels."""
    return torch.float64 if score.dtype == torch.float64 else torch.float32


@guarded
def _select(scores: Sequence[Tensor], n_queries: int, pattern: str, problem: str) -> list[Tensor]:
    if not scores[0].shape[0]:
        return _fake_select(scores, n_queries, pattern, problem)
    state = program(pattern, problem, scores[0].device).select(tuple(scores), n_queries)
    return unaliased(state)


@torch.library.register_fake("attncomp::attend", lib=_library)
def _fake_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Sequence[Tensor],
    state: Sequence[Tensor],
    scale: float,
    pattern: str,
    problem: str,
) -> tuple[Tensor, Tensor]:
    batch, heads, n_queries, _ = q.shape
    real = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = q.new_empty((batch, heads, n_queries, v.shape[3]))
    return out, q.new_empty((batch, heads, n_queries), dtype=real)


@guarded
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Sequence[Tensor],
    state: Sequence[Tensor],
    scale: float,
    pattern: str,
    problem: str,
) -> tuple[Tensor, Tensor]:
    if not q.shape[0]:
        return _fake_attend(q, k, v, scores, state, scale, pattern, problem)
    out, lse = program(pattern, problem, q.device).forward(q, k, v, tuple(state), scale)
    return out.contiguous(), lse.contiguous()


def _whole(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Sequence[Tensor],
    tensors: Sequence[Tensor],
    options: Options,
    records: Records | None,
    *,
    keep: bool,
) -> Replayed:
    """`_select` and `_attend`: out and lse, and what of the selections' state is kept."""
    # records know nothing of copies
    given = [q, k, v, *[score.contiguous() for score in scores], *tensors]
    again = None if records is None else records.again(given, keep=keep)
    return again or _run_whole(q, given, len(scores), options, records, keep=keep)


@guarded
def _run_whole(
    q: Tensor,
    given: Sequence[Tensor],
    count: int,
    options: Options,
    records: Records | None,
    *,
    keep: bool,
) -> Replayed:
    """`_whole` of q, k, v, scores, of which there are count, and the other tensors."""
    scale, pattern, problem = options

    def call(given: Sequence[Tensor]) -> Result:
        q, k, v, *others = given
        state = _select(others[:count], q.shape[2], pattern, problem) if count else []
        results = _attend(q, k, v, (), [*state, *others[count:]], scale, pattern, problem)
        return results, state if keep else ()

    if records is None or not q.shape[0]:
        return Replayed(*call(given), None)
    return records.run(call, given, keep=keep)


@torch.library.register_fake("attncomp::attend_backward", lib=_library)
def _fake_attend_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    state: Sequence[Tensor],
    scale: float,
    pattern: str,
    problem: str,
) -> list[Tensor]:
    plan = device_plan(pattern, problem, q.device)
    like = [q, k, v, *_gradient_fields(plan, state)]
    return [tensor.new_empty(tensor.shape) for tensor in like]


def _gradient_fields(plan: KernelPlan, state: Sequence[Tensor]) -> list[Tensor]:
    """For each score tensor with a gradient, a field of the state with its shape and real dtype.

    Behind them, for each learned tensor of a modifier, its entry in the state.
    """
    learned = list(state[len(state) - len(plan.modifiers.learned) :])
    if not plan.differentiable_scores:
        return learned
    size, names = len(state_fields(plan)), [selection.scores for selection in plan.selections]
    return [*(state[size * names.index(name)] for name in plan.scores), *learned]


@guarded
def _attend_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    state: Sequence[Tensor],
    scale: float,
    pattern: str,
    problem: str,
) -> list[Tensor]:
    if not q.shape[0]:
        like = _fake_attend_backward(dout, dlse, q, k, v, out, lse, state, scale, pattern, problem)
        return [torch.zeros_like(tensor) for tensor in like]
    served = program(pattern, problem, q.device)
    gradients = served.backward(dout, dlse, q, k, v, out, lse, tuple(state), scale)
    fields = _gradient_fields(served.plan, state)
    casts = [g.to(field.dtype) for g, field in zip(gradients[3:], fields, strict=True)]
    return unaliased([*gradients[:3], *casts])


class _Attend(torch.autograd.Function):
    """`attend` with its gradients.

    run gives out, lse and what of the state is not there before, from q, k, v, the n_given tensors
    that may have gradients and the state that is there before. Written out, because
    `torch.library.register_autograd` sends the lists of tensors through pytree, which takes several
    times as long as all the rest of a call.
    """

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[..., Replayed],
        n_given: int,
        options: Options,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *lists: Tensor,
    ) -> tuple[Tensor, Tensor]:
        given, before = lists[:n_given], lists[n_given:]
        (out, lse), state, ctx.record = run(q, k, v, given, before, options)
        ctx.save_for_backward(q, k, v, out, lse, *before, *state)
        ctx.options = options
        ctx.n_before = len(before)
        ctx.score_dtypes = [tensor.dtype for tensor in given]
        # A gradient of None for lse spares its use, the usual case.
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, *saved = ctx.saved_tensors
        before, kept = saved[: ctx.n_before], saved[ctx.n_before :]
        state = [*(kept if ctx.record is None else ctx.record.state(*kept)), *before]
        dout, dlse = grads
        if dout is None:
            dout = torch.zeros_like(out)
        # Second derivatives, which fail, are the op's to refuse.
        given_grads = (dout,) if dlse is None else (dout, dlse)
        direct = not torch.is_grad_enabled() and runs_directly(q, *given_grads)
        run = _attend_backward if direct else _backward_op
        gradients = run(dout, dlse, q, k, v, out, lse, state, *ctx.options)
        given: list[Tensor | None] = list(gradients)
        # Hard gates give the scores no gradient.
        given[3:3] = [None] * (3 + len(ctx.score_dtypes) - len(given))
        for index, dtype in enumerate(ctx.score_dtypes, start=3):
            gradient = given[index]
            if gradient is not None and ctx.needs_input_grad[index + 3]:
                given[index] = gradient.to(dtype)
        needed = ctx.needs_input_grad[3:]
        given += [None] * len(before)
        return None, None, None, *(g if n else None for g, n in zip(given, needed, strict=True))


def _run_directly(
    n_scores: int,
    records: Records | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: Sequence[Tensor],
    before: Sequence[Tensor],
    options: Options,
) -> Replayed:
    """`select` and `attend` past the dispatcher."""
    return _whole(q, k, v, given[:n_scores], before, options, records, keep=True)


def _run_below(
    keyset: torch._C.DispatchKeySet,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: Sequence[Tensor],
    before: Sequence[Tensor],
    options: Options,
) -> Replayed:
    """`attend` on the dispatch keys below autograd."""
    args = (q, k, v, given, before, *options)
    with torch._C._AutoDispatchBelowAutograd():
        below = keyset & torch._C._after_autograd_keyset
        return Replayed(torch.ops.attncomp.attend.default.redispatch(below, *args), (), None)


def _attend_autograd(
    keyset: torch._C.DispatchKeySet,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scores: Sequence[Tensor],
    state: Sequence[Tensor],
    *options: Any,
) -> tuple[Tensor, Tensor]:
    tensors = (q, k, v, *scores)
    if wants_gradients(*tensors):
        result: tuple[Tensor, Tensor] = _Attend.apply(
            functools.partial(_run_below, keyset), len(scores), options, *tensors, *state
        )
        return result
    out, lse = _run_below(keyset, q, k, v, scores, state, options).outputs
    return out, lse


def _save_for_select(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.mark_non_differentiable(*output)
    ctx.n_scores = len(inputs[0])


def _differentiate_select(ctx: Any, *_: object) -> tuple[object, ...]:
    return [None] * ctx.n_scores, None, None, None


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    """`attend_backward` saves nothing: it can only fail."""


def _refuse_second_derivative(ctx: Any, *_: object) -> tuple[object, ...]:
    raise BackendError(
        "second derivatives of attention are not available on this backend: use backend 'reference'"
    )


for _name, _kernel in (
    ("select", _select),
    ("attend", _attend),
    ("attend_backward", _attend_backward),
):
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
torch.library.register_autograd(
    "attncomp::select", _differentiate_select, setup_context=_save_for_select, lib=_library
)
_library.impl("attend", _attend_autograd, "Autograd", with_keyset=True)
torch.library.register_autograd(
    "attncomp::attend_backward",
    _refuse_second_derivative,
    setup_context=_save_nothing,
    lib=_library,
)


# The overloads themselves are faster to call than their packets.
_select_op: Callable[..., list[Tensor]] = torch.ops.attncomp.select.default
_attend_op: Callable[..., tuple[Tensor, Tensor]] = torch.ops.attncomp.attend.default
_backward_op: Callable[..., list[Tensor]] = torch.ops.attncomp.attend_backward.default
