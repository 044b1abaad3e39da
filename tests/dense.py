"""Inputs, results and comparisons of tests that hold attention against its dense reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attncomp.codegen.plan import KernelPlan
from attncomp.frontend.ast import Expr
from attncomp.frontend.parser import parse
from attncomp.ir.build import build
from attncomp.ir.graph import Graph, NodeId
from attncomp.ir.modifiers import NO_MODIFIERS, Modifiers, modifiers_of
from attncomp.ir.ops import Op
from attncomp.ir.reference import reference_attention
from attncomp.runtime.extents import Call
from attncomp.runtime.inputs import as_thresholds
from attncomp.runtime.tables import BlockParts, block_state

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(q, k, v, scores) -> (out, lse)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of one call of attention; groups is the number of score groups."""

    batch: int = 1
    query_heads: int = 1
    kv_heads: int = 1
    groups: int = 1
    n_queries: int
    n_keys: int
    head_dim: int = 4
    value_dim: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """q, k, v and scores of a call, with the gradients that come back to out and lse.

    given: integer tensors by the names that predicates call them.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scores: Tensor
    dout: Tensor
    dlse: Tensor
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same numbers in another floating dtype."""
        names = ("q", "k", "v", "scores", "dout", "dlse")
        return replace(self, **{name: getattr(self, name).detach().to(dtype) for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Outputs of attention and the gradients of its inputs."""

    out: Tensor
    lse: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor
    dscores: Tensor


def make_graph(tree: Any) -> Graph:
    """The graph of nested tuples `(op, operand, ...)`; a bare op has none, equal trees are shared.

    Kept apart from the compiler's own way from text to graph, which this helps to test.
    """
    graph = Graph()
    nodes: dict[Any, NodeId] = {}

    def add(part: Any) -> NodeId:
        if part not in nodes:
            op: Op
            op, *operands = part if isinstance(part, tuple) else (part,)
            nodes[part] = graph.add(op, [add(operand) for operand in operands])
        return nodes[part]

    return graph.set_root(add(tree))


def random_inputs(
    shape: Shape,
    generator: torch.Generator,
    *,
    scores: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Inputs:
    """Normal inputs for a call; scores [B, G, Nk] normal too unless given.

    All are drawn in float64 on the CPU, so that one seed means the same in every dtype.
    """

    def normal(*size: int) -> Tensor:
        drawn = torch.randn(size, generator=generator, dtype=torch.float64)
        return drawn.to(device=device, dtype=dtype)

    s = shape
    return Inputs(
        q=normal(s.batch, s.query_heads, s.n_queries, s.head_dim),
        k=normal(s.batch, s.kv_heads, s.n_keys, s.head_dim),
        v=normal(s.batch, s.kv_heads, s.n_keys, s.value_dim),
        scores=normal(s.batch, s.groups, s.n_keys)
        if scores is None
        else scores.to(device=device, dtype=dtype),
        dout=normal(s.batch, s.query_heads, s.n_queries, s.value_dim),
        dlse=normal(s.batch, s.query_heads, s.n_queries),
        given={name: t.to(device) for name, t in integer_tensors(shape, generator).items()},
    )


def integer_tensors(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """Random tensors of all the shapes that tests ask for: integers, block_scores, thresholds."""
    s = shape

    def drawn(high: int, *size: int) -> Tensor:
        return torch.randint(0, max(high, 1), size, generator=generator, dtype=torch.int32)

    return {
        "segment": drawn(3, s.n_keys).long(),  # [Nk]
        "documents": drawn(3, s.batch, s.n_keys).sort(1).values,  # [B, Nk]
        "lengths": drawn(s.n_keys + 1, s.batch),  # [B]
        "prefix_lengths": drawn(s.n_keys + 2, s.batch),  # [B]
        "evict": drawn(s.n_keys + 2, s.batch, s.query_heads, s.n_keys),  # [B, Hq, Nk]
        "until": drawn(2 * s.n_keys, 1, s.query_heads, s.n_keys),  # [1, Hq, Nk]
        "tiles": drawn(2, 1, -(-s.n_keys // 5), -(-s.n_keys // 5)),  # [1, Nk / 5, Nk / 5]
        **block_tensors(shape, generator),
        "theta": torch.randn(s.query_heads, generator=generator, dtype=torch.float64),
    }


def mask_tensors(shape: Shape, generator: torch.Generator) -> dict[str, Tensor]:
    """The same, and logits [B, Hq, Nq, Nk] for masks to compare with thresholds."""
    s, given = shape, integer_tensors(shape, generator)
    size = s.batch, s.query_heads, s.n_queries, s.n_keys
    return given | {"logits": torch.randn(size, generator=generator, dtype=torch.float64)}


def apart(inputs: Inputs, scale: float) -> Inputs:
    """The same with thresholds that rounding in float32 keeps on their side of every logit.

    Each stands in the middle of one of the widest gaps between the logits of its head.
    """
    shared = inputs.q.shape[1] // inputs.k.shape[1]
    logits = scale * inputs.q.double() @ inputs.k.double().repeat_interleave(shared, 1).mT
    theta = []
    for row in logits.transpose(0, 1).flatten(1).cpu():
        ordered = torch.nn.functional.pad(row.sort().values, (1, 1))
        ordered[0], ordered[-1] = ordered[1] - 1, ordered[-2] + 1
        place = len(ordered) // 4  # the ends have the widest ones
        middle = ordered[place : len(ordered) - place]
        widest = middle.diff().argmax()
        theta.append(middle[widest : widest + 2].mean())
    given = {**inputs.given, "theta": torch.stack(theta).to(inputs.q.device)}
    return replace(inputs, given=given)


def block_tensors(
    shape: Shape, generator: torch.Generator, *, groups: int = 1
) -> dict[str, Tensor]:
    """A mask of blocks of 16 positions and scores of blocks of 5, with ties, -inf and NaN."""
    by_16, by_5 = -(-shape.n_keys // 16), -(-shape.n_keys // 5)
    mask = torch.rand(1, groups, by_16, by_16, generator=generator) < 0.4
    scores = torch.randint(-3, 4, (shape.batch, groups, by_5, by_5), generator=generator).float()
    scores = scores.masked_fill(scores == -2, -torch.inf).masked_fill(scores == -3, torch.nan)
    return {"block_mask": mask.int(), "block_scores": scores}


def blocks_of(plan: KernelPlan, inputs: Inputs) -> list[Tensor]:
    """What kernels read beside selections: integer tensors, and lists of blocks."""
    given = dict(inputs.given)
    if "theta" in given:
        given["theta"] = as_thresholds(given["theta"], inputs.q)
    return block_state(BlockParts.of(plan), Call.of(inputs.q, inputs.k, given))


def run_with_gradients(attend: Attend, inputs: Inputs, *, with_lse: bool = True) -> Result:
    """Outputs and gradients of `attend`; inputs that it does not depend on get gradients of 0.

    with_lse: whether `inputs.dlse` comes back to lse beside `inputs.dout` to out.
    """
    leaves = [
        tensor.detach().clone().requires_grad_()
        for tensor in (inputs.q, inputs.k, inputs.v, inputs.scores)
    ]
    out, lse = attend(*leaves)
    pairs = [(out, inputs.dout), (lse, inputs.dlse)] if with_lse else [(out, inputs.dout)]
    pairs = [(result, grad) for result, grad in pairs if result.requires_grad]
    gradients = torch.autograd.grad(
        [result for result, _ in pairs],
        leaves,
        [grad for _, grad in pairs],
        allow_unused=True,
        materialize_grads=True,
    )
    dq, dk, dv, dscores = gradients
    return Result(out=out.detach(), lse=lse.detach(), dq=dq, dk=dk, dv=dv, dscores=dscores)


def graph_of(pattern: str | Expr | Graph) -> Graph:
    """The graph of a pattern in any form."""
    if isinstance(pattern, Graph):
        return pattern
    return build(parse(pattern) if isinstance(pattern, str) else pattern)


def modifiers_in(pattern: str | Expr | Graph) -> Modifiers:
    """The modifiers of a pattern in any form; graphs have none."""
    if isinstance(pattern, Graph):
        return NO_MODIFIERS
    return modifiers_of(parse(pattern) if isinstance(pattern, str) else pattern)


def dense_result(
    pattern: str | Expr | Graph, inputs: Inputs, *, scale: float, with_lse: bool = True
) -> Result:
    """Dense attention and its gradients; every soft member ranks by `inputs.scores`."""
    graph = graph_of(pattern)

    def attend(q: Tensor, k: Tensor, v: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return reference_attention(graph, q, k, v, {**inputs.given, "scores": scores}, scale)

    return run_with_gradients(attend, inputs, with_lse=with_lse)


def assert_same_results(
    actual: Result, expected: Result, *, atol: float = 0.0, rtol: float = 0.0
) -> None:
    """`assert_close` on each tensor of two results, all failures in one message."""
    failures = []
    for name in Result.__dataclass_fields__:
        try:
            assert_close(
                getattr(actual, name), getattr(expected, name), name=name, atol=atol, rtol=rtol
            )
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)


def assert_close(
    actual: Tensor, expected: Tensor, *, name: str, atol: float = 0.0, rtol: float = 0.0
) -> None:
    """Fail unless |actual - expected| <= atol + rtol * |expected| everywhere.

    Shapes must be equal; infinities must be equal and NaN must stand at the same places. The
    message counts the wrong elements and shows the worst one: NaN and infinities before numbers.
    """
    assert actual.shape == expected.shape, (
        f"{name}: expected shape {list(expected.shape)}, found {list(actual.shape)}"
    )
    x, y = actual.detach().cpu().to(torch.float64), expected.detach().cpu().to(torch.float64)
    finite = x.isfinite() & y.isfinite()
    same = (x == y) | (x.isnan() & y.isnan())
    error = torch.where(finite, (x - y).abs(), torch.where(same, 0.0, torch.inf))
    # `not <=` rather than `>`: a NaN tolerance must fail too.
    wrong = ~same & ~(finite & (error <= atol + rtol * y.abs()))
    if not wrong.any():
        return
    worst = int(torch.where(wrong, error, -1.0).argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(worst), x.shape)]
    found, wanted = x.flatten()[worst].item(), y.flatten()[worst].item()
    raise AssertionError(
        f"{name}: {int(wrong.sum())} of {wrong.numel()} elements differ, {int(x.isnan().sum())} "
        f"are NaN; worst at {index}: expected {wanted:.9g}, found {found:.9g} "
        f"(atol {atol:g}, rtol {rtol:g})"
    )
