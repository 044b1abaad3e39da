"""Hypothesis strategies: patterns, shapes and scores, small enough that everything overlaps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from dense import Shape
from hypothesis import strategies as st
from torch import Tensor
from typing_extensions import assert_never

from attncomp.errors import PredicateRangeError
from attncomp.frontend.ast import (
    Call,
    Complement,
    Difference,
    Expr,
    HeadGroups,
    Intersection,
    Modified,
    Union,
    Where,
)
from attncomp.frontend.modifiers import MODIFIERS, Modifier
from attncomp.frontend.predicate import (
    OPERATORS,
    RELATIONS,
    And,
    Arithmetic,
    Compare,
    Condition,
    Entry,
    Integer,
    Negative,
    Not,
    Number,
    Operator,
    Or,
    Variable,
    VariableName,
)
from attncomp.frontend.slices import HeadSlice
from attncomp.ir.conditions import affine
from attncomp.ir.ops import GATE_MODES, GateMode

Drawn = st.SearchStrategy

# By kind, from normal numbers and dice of 13 sides, -6 to 6.
_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "normal": lambda normal, dice: normal,
    "spread": lambda normal, dice: 8 * normal,
    "near": lambda normal, dice: 0.01 * normal,  # every gate is fractional
    "ties": lambda normal, dice: (dice / 3).trunc(),
    "dyadic": lambda normal, dice: dice / 4,
    "constant": lambda normal, dice: torch.full_like(dice, 0.5),
    "ascending": lambda normal, dice: normal.sort(-1).values,
    "descending": lambda normal, dice: normal.sort(-1, descending=True).values,
    "huge": lambda normal, dice: 1e4 * normal,
    "enormous": lambda normal, dice: 1e30 * normal,
    "one huge": lambda normal, dice: normal.masked_fill(dice == 0, 1e30),
    "masked": lambda normal, dice: normal.masked_fill(dice < -2, -torch.inf),
}
SCORE_KINDS = tuple(_SCORES)


def patterns(
    max_leaves: int = 5,
    *,
    modes: tuple[GateMode, ...] = GATE_MODES,
    soft: bool | None = None,
    names: tuple[str, ...] = ("scores",),
) -> Drawn[Expr]:
    """Valid patterns of up to `max_leaves` primitives whose soft members share one mode of `modes`.

    Complements and right sides of differences are crisp, or anything if the mode is hard. soft:
    True for patterns with a sparsek, False for patterns without, None for both. names: tensors of
    scores.
    """
    if soft is False:
        return _trees(_crisp_leaves(), max_leaves, complements=True)

    def drawn(mode: GateMode) -> Drawn[Expr]:
        trees = _soft_trees(mode, max_leaves, names)
        return st.builds(_with_sparsek, trees, sparse_ks((mode,), names)) if soft else trees

    return st.sampled_from(modes).flatmap(drawn)


def _with_sparsek(tree: Expr, leaf: Call) -> Expr:
    return tree if _has_sparsek(tree) else Union((tree, leaf))


def sparse_ks(
    modes: tuple[GateMode, ...] = GATE_MODES, names: tuple[str, ...] = ("scores",)
) -> Drawn[Call]:
    """A sparsek with k and lag below, at and beyond the lengths of `shapes`."""
    return st.builds(
        lambda k, lag, gate, scores: Call(
            "sparsek", (("k", k), ("lag", lag), ("gate", gate), ("scores", scores))
        ),
        _sizes(1),
        _sizes(0),
        st.sampled_from(modes),
        st.sampled_from(names),
    )


def modified(trees: Drawn[Expr]) -> Drawn[Modified]:
    """Whole patterns with one modifier or more; their tensors are those of `learned_tensors`."""
    names = st.sets(st.sampled_from(tuple(MODIFIERS)), min_size=1)
    by_name = modifiers()
    drawn = names.flatmap(lambda chosen: st.tuples(*(by_name[name] for name in sorted(chosen))))
    return st.builds(Modified, trees, drawn)


def modifiers() -> dict[str, Drawn[Modifier]]:
    """Each modifier by its name, with small numbers."""
    # In quarters, which the canonical text holds exactly.
    factors = st.integers(1, 40).map(lambda quarters: quarters / 4)
    by_name = {
        "scale": st.tuples(st.tuples(st.just("factor"), factors)),
        "softcap": st.tuples(st.tuples(st.just("cap"), factors)),
        "alibi": st.sampled_from(["standard", "slopes"]).map(lambda name: (("slopes", name),)),
        "bias": st.integers(1, 12).map(lambda size: (("size", size), ("table", "bias"))),
        "sink": st.just((("logits", "sink"),)),
    }
    return {name: st.builds(Modifier, st.just(name), by_name[name]) for name in MODIFIERS}


@st.composite
def programs(draw: st.DrawFn) -> Expr:
    """Whole programs: groups of heads in groups and below operators, modifiers of the whole and of
    groups, selections by two tensors. The tensors are those of the names that a call asks for."""
    mode = draw(st.sampled_from(GATE_MODES))
    trees = patterns(3, modes=(mode,), names=("scores", "near"))
    # One draw of each, as groups that share a tensor have the same modifier.
    shared = [draw(drawn) for drawn in modifiers().values()]
    around = draw(st.sets(st.sampled_from(shared)))
    own = [modifier for modifier in shared if modifier not in around]

    def part(depth: int) -> Expr:
        tree = draw(trees)
        if depth and draw(st.booleans()):
            one, rest = HeadSlice(0, 1), HeadSlice(1, None)
            tree = HeadGroups(((one, part(depth - 1)), (rest, part(depth - 1))))
            return tree
        chosen = draw(st.sets(st.sampled_from(own))) if own else set()
        return Modified(tree, tuple(chosen)) if chosen else tree

    whole = part(2)
    return Modified(whole, tuple(around)) if around else whole


def _sizes(minimum: int) -> Drawn[int]:
    return st.one_of(st.integers(minimum, 9), st.integers(10, 45))


def _crisp_leaves() -> Drawn[Expr]:
    return st.one_of(
        st.just(Call("causal", ())),
        st.just(Call("full", ())),
        _sizes(1).map(lambda size: Call("window", (("size", size),))),
        st.tuples(_sizes(0), _sizes(0)).map(
            lambda sides: Call("window", (("before", sides[0]), ("after", sides[1])))
        ),
        st.tuples(_sizes(1), _sizes(1)).map(
            lambda sizes: Call("dilated", (("size", sizes[0]), ("step", sizes[1])))
        ),
        _sizes(1).map(lambda step: Call("strided", (("step", step),))),
        _sizes(1).map(lambda count: Call("first", (("count", count),))),
        _sizes(1).map(lambda size: Call("chunk", (("size", size),))),
        st.sampled_from(_PREDICATES).map(Where),
        st.sampled_from(("documents", "prefix_lm", "lifetime")).map(lambda name: Call(name, ())),
        st.just(Call("threshold", (("theta", "theta"),))),
        _block_lists(),
    )


def _block_lists() -> Drawn[Call]:
    """Blocks by mask, by score and at random, of the sizes that `dense.integer_tensors` has."""
    few, seeds = st.integers(1, 3), st.integers(0, 2)
    return st.one_of(
        st.just(Call("blocks", (("size", 16),))),
        few.map(lambda k: Call("topk_blocks", (("k", k), ("size", 5)))),
        st.builds(
            lambda count, size, seed: Call(
                "random_blocks", (("count", count), ("size", size), ("seed", seed))
            ),
            few,
            st.sampled_from((3, 16)),
            seeds,
        ),
    )


def integers(names: tuple[VariableName, ...] = ("q", "k", "h", "b", "n")) -> Drawn[Integer]:
    """Integer expressions over some indices; divisors are constants other than 0."""
    leaves = st.one_of(st.integers(0, 9).map(Number), st.sampled_from(names).map(Variable))
    divisors = st.integers(1, 7).flatmap(
        lambda value: st.sampled_from([Number(value), Negative(Number(value))])
    )

    def grow(parts: Drawn[Integer]) -> Drawn[Integer]:
        return st.one_of(
            st.builds(Arithmetic, st.sampled_from(OPERATORS[:3]), parts, parts),
            st.builds(Arithmetic, st.sampled_from(OPERATORS[3:]), parts, divisors),
            parts.map(Negative),
        )

    return st.recursive(leaves, grow, max_leaves=4).filter(_fits)


def _fits(integer: Integer) -> bool:
    try:
        affine(integer)
    except PredicateRangeError:
        return False
    return True


def conditions(names: tuple[VariableName, ...] = ("q", "k", "h", "b", "n")) -> Drawn[Condition]:
    """Predicates over some indices."""
    parts = integers(names)
    leaves = st.builds(Compare, st.sampled_from(RELATIONS), parts, parts)

    def grow(inner: Drawn[Condition]) -> Drawn[Condition]:
        several = st.lists(inner, min_size=2, max_size=3).map(tuple)
        return st.one_of(several.map(And), several.map(Or), inner.map(Not))

    return st.recursive(leaves, grow, max_leaves=3)


_Q, _K, _H, _B, _N = (Variable(name) for name in ("q", "k", "h", "b", "n"))


def _minus(left: Integer, right: Integer) -> Integer:
    return Arithmetic("-", left, right)


def _of(operator: Operator, value: Integer, divisor: int) -> Integer:
    return Arithmetic(operator, value, Number(divisor))


# Few, as each distinct test doubles the cases of a pattern.
_PREDICATES: tuple[Condition, ...] = (
    Compare("==", _of("%", _minus(_Q, _K), 3), Number(1)),
    Compare(">=", _of("//", _Q, 5), _of("//", _K, 5)),
    Compare("<=", _of("*", _K, 2), _Q),
    Compare("<", _minus(_Q, _K), Arithmetic("*", Number(4), Arithmetic("+", _H, Number(1)))),
    Compare("!=", _of("%", _K, 4), _of("%", _H, 4)),
    Compare("==", Entry("segment", (_Q,)), Entry("segment", (_K,))),
    Compare("==", Entry("documents", (_B, _Q)), Entry("documents", (_B, _K))),
    Compare("<", _K, Entry("lengths", (_B,))),
    Compare("<", _Q, Entry("until", (_B, _H, _K))),
    Compare("!=", Entry("tiles", (_B, _of("//", _Q, 5), _of("//", _K, 5))), Number(0)),
    And((Compare("<=", Number(2), _K), Compare("<", _K, Arithmetic("//", _N, Number(2))))),
    Or((Compare("==", _B, Number(1)), Compare("<", _minus(_Q, _K), Number(6)))),
)


def _soft_trees(mode: GateMode, max_leaves: int, names: tuple[str, ...]) -> Drawn[Expr]:
    # Twice in the alternatives, so that about half of the leaves are soft.
    soft = sparse_ks((mode,), names)
    leaves = st.one_of(_crisp_leaves(), soft, soft)
    return _trees(leaves, max_leaves, complements=mode == "hard")


def _trees(leaves: Drawn[Expr], max_leaves: int, *, complements: bool) -> Drawn[Expr]:
    """Trees over `leaves`, at most `max_leaves` of them; complements: of any subtree."""

    def grow(trees: Drawn[Expr]) -> Drawn[Expr]:
        members = st.lists(trees, min_size=2, max_size=3).map(tuple)
        crisp = trees if complements else _trees(_crisp_leaves(), 2, complements=True)
        return st.one_of(
            members.map(Union),
            members.map(Intersection),
            head_groups(trees),
            st.builds(Difference, trees, crisp),
            crisp.map(Complement),
        )

    return st.recursive(leaves, grow, max_leaves=max_leaves)


def head_groups(trees: Drawn[Expr]) -> Drawn[HeadGroups]:
    """Groups that fit any number of heads: all heads alike, or the first one apart."""
    rest = trees.map(lambda tree: ((HeadSlice(1, None), tree),))
    first = trees.map(lambda tree: ((HeadSlice(0, 1), tree),))
    apart = st.builds(lambda one, others: HeadGroups(one + others), first, rest)
    return st.one_of(apart, trees.map(lambda tree: HeadGroups(((HeadSlice(0, None), tree),))))


def _has_sparsek(expr: Expr) -> bool:
    match expr:
        case Call(name=name):
            return name == "sparsek"
        case Where():
            return False
        case Complement(operand=operand):
            return _has_sparsek(operand)
        case Difference(left=left, right=right):
            return _has_sparsek(left) or _has_sparsek(right)
        case Union(members=members) | Intersection(members=members):
            return any(map(_has_sparsek, members))
        case Modified(pattern=pattern):
            return _has_sparsek(pattern)
        case HeadGroups(groups=groups):
            return any(_has_sparsek(member) for _, member in groups)
        case _:
            assert_never(expr)


@st.composite
def shapes(
    draw: st.DrawFn,
    *,
    max_length: int = 40,
    head_dims: tuple[int, ...] = (16, 24),
    max_batch: int = 2,
) -> Shape:
    """Shapes with grouped heads and score groups; Nq equal to, below and above Nk."""
    kv_heads = draw(st.sampled_from((1, 2)))
    query_heads = kv_heads * draw(st.sampled_from((1, 2, 3)))
    divisors = [groups for groups in range(1, query_heads + 1) if query_heads % groups == 0]
    n_keys = draw(st.integers(1, max_length))
    return Shape(
        batch=draw(st.integers(1, max_batch)),
        query_heads=query_heads,
        kv_heads=kv_heads,
        groups=draw(st.sampled_from(divisors)),
        n_queries=draw(st.one_of(st.just(n_keys), st.integers(1, max_length))),
        n_keys=n_keys,
        head_dim=draw(st.sampled_from(head_dims)),
        value_dim=draw(st.sampled_from(head_dims)),
    )


@st.composite
def scores(draw: st.DrawFn, shape: Shape, *, kinds: tuple[str, ...] = SCORE_KINDS) -> Tensor:
    """Scores [B, G, Nk] float64 of one of `kinds`; all are representable in float32.

    Ties, constants and fractions of 2 put thresholds exactly on their breakpoints without
    rounding; `masked` holds -inf, `enormous` goes up to 1e30.
    """
    size = (shape.batch, shape.groups, shape.n_keys)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    return score_tensor(draw(st.sampled_from(kinds)), size, generator)


def score_tensor(kind: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random scores of one of `SCORE_KINDS`, float64 but representable in float32."""
    normal = torch.randn(size, generator=generator)
    dice = torch.randint(-6, 7, size, generator=generator).float()
    return _SCORES[kind](normal, dice).double()


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    max_length: int = 40,
    head_dims: tuple[int, ...] = (16, 24),
    kinds: tuple[str, ...] = SCORE_KINDS,
) -> tuple[Shape, Tensor, int]:
    """A shape, scores for it and a seed for `dense.random_inputs`."""
    shape = draw(shapes(max_length=max_length, head_dims=head_dims))
    return shape, draw(scores(shape, kinds=kinds)), draw(st.integers(0, 2**32 - 1))
