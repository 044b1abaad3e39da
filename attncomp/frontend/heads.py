"""Groups of query heads: which pattern a head has, once the number of heads is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

from typing_extensions import assert_never

from attncomp.errors import HeadGroupError
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
from attncomp.frontend.modifiers import Modifier
from attncomp.frontend.predicate import (
    And,
    Arithmetic,
    Compare,
    Condition,
    Entry,
    Integer,
    Number,
    Variable,
    with_parts,
)
from attncomp.frontend.slices import HeadSlice


def groups_of(expr: Expr) -> Iterator[HeadGroups]:
    """All groups in a pattern, outer ones first."""
    if isinstance(expr, HeadGroups):
        yield expr
    for part in _parts(expr):
        yield from groups_of(part)


def has_groups(expr: Expr) -> bool:
    """Whether the pattern depends on the number of heads, or has a kernel for each group."""
    return next(groups_of(expr), None) is not None


def modifiers_of_groups(
    expr: Expr, around: tuple[Modifier, ...] = ()
) -> Iterator[tuple[Modifier, ...]]:
    """The modifiers of each group, behind those around it; of a pattern without groups its own."""
    match expr:
        case Modified():
            yield from modifiers_of_groups(expr.pattern, (*around, *expr.modifiers))
        case HeadGroups():
            for _, member in expr.groups:
                yield from modifiers_of_groups(member, around)
        case _:  # groups below operators have no modifiers
            yield around


def of_every_head(expr: Expr) -> Expr:
    """The union of what all heads attend: of the same names, whatever the number of heads.

    It has no modifiers, which may differ from group to group.
    """
    if isinstance(expr, Modified):
        return of_every_head(expr.pattern)

    def union(groups: HeadGroups) -> Expr:
        members = tuple(of_every_head(member) for _, member in groups.groups)
        return members[0] if len(members) == 1 else Union(members, groups.span)

    return _mapped(expr, union)


def with_heads(expr: Expr, n_heads: int, pattern: str | None = None) -> Expr:
    """The pattern for a number of heads, with all ends of slices in 0..n_heads.

    A slice without a head of these, as `8:` of 8 heads, leaves its group out. Raises HeadGroupError
    for an end beyond the heads, and for a head in two groups or in none.
    """

    def bound(groups: HeadGroups) -> Expr:
        owner: dict[int, HeadSlice] = {}
        kept = []
        for heads, member in groups.groups:
            found = _bound(heads, n_heads, pattern)
            for head in range(found[0], found[1]):
                if head in owner:
                    text = f"head {head} in {owner[head]} and {heads}"
                    raise _wrong(f"each of {n_heads} heads in one group", text, pattern)
                owner[head] = heads
            if found[0] < found[1]:
                inner = with_heads(member, n_heads, pattern)
                kept.append((HeadSlice(*found, heads.span), inner))
        for head in range(n_heads):
            if head not in owner:
                text = f"head {head} in none of {', '.join(str(s) for s, _ in groups.groups)}"
                raise _wrong(f"each of {n_heads} heads in one group", text, pattern)
        return HeadGroups(tuple(kept), groups.span)

    return _mapped(expr, bound)


def _bound(heads: HeadSlice, n_heads: int, pattern: str | None) -> tuple[int, int]:
    start = heads.start + (n_heads if heads.start < 0 else 0)
    stop = n_heads if heads.stop is None else heads.stop + (n_heads if heads.stop < 0 else 0)
    if not 0 <= start <= n_heads or not 0 <= stop <= n_heads:
        raise _wrong(f"slices of {n_heads} heads", str(heads), pattern)
    return start, stop


def _wrong(expected: str, found: str, pattern: str | None) -> HeadGroupError:
    return HeadGroupError(subject="heads", expected=expected, found=found, pattern=pattern)


def least_heads(expr: Expr, multiple: int = 1, above: int = 0) -> int:
    """The fewest heads, a multiple of a number and more than another, that give each group some.

    If no number does, the fewest that suit what is asked for besides.
    """
    ends = [
        abs(end) for g in groups_of(expr) for s, _ in g.groups for end in (s.start, s.stop or 0)
    ]
    first = multiple * (above // multiple + 1)
    for heads in range(first, first + (2 * max(ends, default=0) + 2) * multiple, multiple):
        try:
            bound = with_heads(expr, heads)
        except HeadGroupError:
            continue
        pairs = zip(groups_of(expr), groups_of(bound), strict=False)
        if all(len(all_.groups) == len(some.groups) for all_, some in pairs):
            return heads
    return first


def spans_of_heads(expr: Expr, n_heads: int) -> list[tuple[int, int, Expr]]:
    """Runs of heads with one pattern each, from `with_heads`: first, end, and the pattern."""
    slices = [s for groups in groups_of(expr) for s, _ in groups.groups]
    borders = sorted({0, n_heads, *(s.start for s in slices), *(s.stop or 0 for s in slices)})
    runs: list[tuple[int, int, Expr]] = []
    for start, stop in pairwise(borders):
        member = at_head(expr, start)
        if runs and runs[-1][2] == member:
            runs[-1] = (runs[-1][0], stop, member)
        else:
            runs.append((start, stop, member))
    return runs


def at_head(expr: Expr, head: int) -> Expr:
    """The pattern of one head, from `with_heads`; its predicates still ask for h."""

    def member(groups: HeadGroups) -> Expr:
        (found,) = [part for s, part in groups.groups if s.start <= head < (s.stop or 0)]
        return at_head(found, head)

    return _mapped(expr, member)


def from_head(expr: Expr, first: int, sliced: Collection[tuple[str, int]]) -> Expr:
    """The pattern of heads from `first` on, counted from 0: h becomes h + first.

    sliced: tensors with the place of a subscript h, which stays, since their entries start there.
    """

    def shift(node: Condition | Integer) -> Any:
        if isinstance(node, Variable):
            return node if node.name != "h" else _sum(node, first)
        if isinstance(node, Entry):
            places = enumerate(node.indices)
            indices = tuple(i if (node.tensor, p) in sliced else shift(i) for p, i in places)
            return replace(node, indices=indices)
        return with_parts(node, shift)

    if isinstance(expr, Where):
        return Where(shift(expr.condition), expr.span) if first else expr
    return _mapped(expr, None, lambda part: from_head(part, first, sliced))


def _sum(h: Variable, first: int) -> Integer:
    return Arithmetic("+", h, Number(first, h.span), h.span)


def heads_condition(heads: HeadSlice) -> Condition | None:
    """Where the head is in a slice whose ends are counted from 0; None if that is everywhere."""
    if not heads.is_counted:
        raise ValueError(f"expected ends from 0 on, found {heads}")
    h = Variable("h", heads.span)
    parts: list[Condition] = []
    if heads.start:
        parts.append(Compare(">=", h, Number(heads.start), heads.span))
    if heads.stop is not None:
        parts.append(Compare("<", h, Number(heads.stop), heads.span))
    return And(tuple(parts), heads.span) if len(parts) == 2 else next(iter(parts), None)


def _parts(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Call() | Where():
            return ()
        case Complement():
            return (expr.operand,)
        case Difference():
            return expr.left, expr.right
        case Union() | Intersection():
            return expr.members
        case HeadGroups():
            return tuple(member for _, member in expr.groups)
        case Modified():
            return (expr.pattern,)
        case _:
            assert_never(expr)


def _mapped(
    expr: Expr,
    at_groups: Callable[[HeadGroups], Expr] | None,
    below: Callable[[Expr], Expr] | None = None,
) -> Expr:
    """The pattern with its groups replaced, or with every part of it; the rest stays."""
    if isinstance(expr, HeadGroups) and at_groups is not None:
        return at_groups(expr)
    step = below if below is not None else lambda part: _mapped(part, at_groups)
    match expr:
        case Call() | Where():
            return expr
        case Complement():
            return Complement(step(expr.operand), expr.span)
        case Difference():
            return Difference(step(expr.left), step(expr.right), expr.span)
        case Union():
            return Union(tuple(map(step, expr.members)), expr.span)
        case Intersection():
            return Intersection(tuple(map(step, expr.members)), expr.span)
        case HeadGroups():
            return HeadGroups(tuple((s, step(part)) for s, part in expr.groups), expr.span)
        case Modified():
            return Modified(step(expr.pattern), expr.modifiers, expr.span)
        case _:
            assert_never(expr)
