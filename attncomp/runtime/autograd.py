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
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor

from attncomp.errors import BackendError
from attncomp.runtime.directly import (
    refuse_tangents,
    runs_directly,
    saves_plainly,
    wants_gradients,
)
from attncomp.runtime.guarded import guarded, unaliased
from attncomp.runtime.program import program
from attncomp.runtime.replay import Record, Records, Replayed, Result
from attncomp.runtime.results import (
    empty_gradients,
    empty_results,
    empty_state,
    gradient_fields,
)

Options: TypeAlias = tuple[float, str, str]
"""The scale of a call, its pattern and its problem."""

# Steps of a call that have records.
RESULTS: Final = "results"
WITH_STATE: Final = "results and state"
GRADIENTS: Final = "gradients"

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
            out, lse = _whole(q, k, v, scores, tensors, options, records, RESULTS).outputs
            return out, lse
        kept = records if saves_plainly() else None
        run = functools.partial(_run_directly, len(scores), kept)
        result: tuple[Tensor, Tensor] = _apply_directly(
            run, len(given), options, kept, q, k, v, *given, *tensors
        )
        return result
    state: list[Tensor] = []
    if scores:
        state = _select_op([score.detach() for score in scores], q.shape[2], pattern, problem)
    return _attend_op(q, k, v, given, [*state, *tensors], scale, pattern, problem)


@guarded
def _select(scores: Sequence[Tensor], n_queries: int, pattern: str, problem: str) -> list[Tensor]:
    if not scores[0].shape[0]:
        return empty_state(scores, n_queries, pattern, problem)
    state = program(pattern, problem, scores[0].device).select(tuple(scores), n_queries)
    return unaliased(state)


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
        return empty_results(q, k, v, scores, state, scale, pattern, problem)
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
    step: str,
) -> Replayed:
    """`_select` and `_attend`: out and lse, and what of the selections' state is kept."""
    # records know nothing of copies
    given = [q, k, v, *[score.contiguous() for score in scores], *tensors]
    again = None if records is None else records.again(given, step)
    return again or _run_whole(q, given, len(scores), options, records, step)


@guarded
def _run_whole(
    q: Tensor,
    given: Sequence[Tensor],
    count: int,
    options: Options,
    records: Records | None,
    step: str,
) -> Replayed:
    """`_whole` of q, k, v, scores, of which there are count, and the other tensors."""
    scale, pattern, problem = options

    def call(given: Sequence[Tensor]) -> Result:
        q, k, v, *others = given
        state = _select(others[:count], q.shape[2], pattern, problem) if count else []
        results = _attend(q, k, v, (), [*state, *others[count:]], scale, pattern, problem)
        return results, state if step == WITH_STATE else ()

    if records is None or not q.shape[0]:
        return Replayed(*call(given), None)
    return records.run(call, given, step)


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
        like = empty_gradients(dout, dlse, q, k, v, out, lse, state, scale, pattern, problem)
        return [torch.zeros_like(tensor) for tensor in like]
    served = program(pattern, problem, q.device)
    gradients = served.backward(dout, dlse, q, k, v, out, lse, tuple(state), scale)
    fields = gradient_fields(served.plan, state)
    casts = [g.to(field.dtype) for g, field in zip(gradients[3:], fields, strict=True)]
    return unaliased([*gradients[:3], *casts])


class _Attend(torch.autograd.Function):
    """`attend` with its gradients.

    run gives out, lse and what of the state is not there before, from q, k, v, the n_given tensors
    that may have gradients and the state that is there before. records: of gradients, too, if there
    may be some. Written out, because `torch.library.register_autograd` sends the lists of tensors
    through pytree, which takes several times as long as all the rest of a call.
    """

    @staticmethod
    def forward(
        ctx: Any,
        run: Callable[..., Replayed],
        n_given: int,
        options: Options,
        records: Records | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *lists: Tensor,
    ) -> tuple[Tensor, Tensor]:
        given, before = lists[:n_given], lists[n_given:]
        (out, lse), state, record = run(q, k, v, given, before, options)
        ctx.save_for_backward(q, k, v, out, lse, *before, *state)
        # With a record the state is one tensor, as in all calls to come.
        again = records if record is not None or not state else None
        ctx.call = _Called(options, len(before), record, again)
        ctx.score_dtypes = [tensor.dtype for tensor in given]
        # A gradient of None for lse spares its use, the usual case.
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        called: _Called = ctx.call
        q, _, _, out, *_ = saved = ctx.saved_tensors
        dout, dlse = grads
        if dout is None:
            dout = torch.zeros_like(out)
        # Second derivatives, which fail, are the op's to refuse.
        given_grads = [dout] if dlse is None else [dout, dlse]
        direct = not torch.is_grad_enabled() and runs_directly(q, *given_grads)
        run = _gradients if direct else functools.partial(_differentiate, _backward_op)
        given: list[Tensor | None] = [*run(called, given_grads, saved)]
        # Hard gates give the scores no gradient.
        given[3:3] = [None] * (3 + len(ctx.score_dtypes) - len(given))
        needed = ctx.needs_input_grad[4:]
        for index, dtype in enumerate(ctx.score_dtypes, start=3):
            gradient = given[index]
            if gradient is not None and needed[index]:
                given[index] = gradient.to(dtype)
        given += [None] * called.n_before
        wanted = [g if n else None for g, n in zip(given, needed, strict=True)]
        return None, None, None, None, *wanted


# As `_Attend.apply`, less what that does for the transforms of functorch.
_apply_directly: Final[Any] = super(torch.autograd.Function, _Attend).apply


class _Called(NamedTuple):
    """What a call leaves for its gradients, beside the tensors that it saves.

    n_before: of those, behind the first five, are state that was there before; then comes its own.
    record: by which it was made; records: of such calls, if those of gradients may be made.
    """

    options: Options
    n_before: int
    record: Record | None
    records: Records | None


def _differentiate(
    op: Callable[..., list[Tensor]],
    called: _Called,
    grads: Sequence[Tensor],
    saved: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients by `attend_backward` or its kernel. grads: dout and, where it is used, dlse."""
    dout, dlse = grads if len(grads) > 1 else (*grads, None)
    q, k, v, out, lse, *others = saved
    before, kept = others[: called.n_before], others[called.n_before :]
    state = kept if called.record is None else called.record.state(*kept)
    return op(dout, dlse, q, k, v, out, lse, [*state, *before], *called.options)


def _gradients(
    called: _Called, grads: Sequence[Tensor], saved: Sequence[Tensor]
) -> Sequence[Tensor]:
    """`_differentiate` past the dispatcher."""
    given = [*[grad.contiguous() for grad in grads], *saved]
    step = GRADIENTS, len(grads), torch._C._get_float32_matmul_precision()
    again = None if called.records is None else called.records.again(given, step)
    return again.outputs if again else _run_gradients(given, called, step)


@guarded
def _run_gradients(
    given: Sequence[Tensor], called: _Called, step: tuple[str, int, str]
) -> Sequence[Tensor]:
    """`_gradients` of those of the outputs, of which step has the number, and what was saved."""
    count = step[1]

    def call(given: Sequence[Tensor]) -> Result:
        return _differentiate(_attend_backward, called, given[:count], given[count:]), ()

    if called.records is None or not given[0].shape[0]:
        return call(given)[0]
    return called.records.run(call, given, step).outputs


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
    return _whole(q, k, v, given[:n_scores], before, options, records, WITH_STATE)


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
            functools.partial(_run_below, keyset), len(scores), options, None, *tensors, *state
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


for _name, _kernel, _fake in (
    ("select", _select, empty_state),
    ("attend", _attend, empty_results),
    ("attend_backward", _attend_backward, empty_gradients),
):
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"attncomp::{_name}", _fake, lib=_library)
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
