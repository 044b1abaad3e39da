"""What is shown by itself: a pattern, or each group of its heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attncomp.frontend.ast import Expr
from attncomp.frontend.heads import has_groups, least_heads
from attncomp.inspection.section import Section
from attncomp.pictures.picture import Picture
from attncomp.pictures.request import pictured
from attncomp.runtime.head_groups import Run, members_of


@dataclass(frozen=True, slots=True)
class Part:
    """Heads with one pattern, `expr`, which counts them from 0; `heads` is None for all of them."""

    whole: Expr
    expr: Expr
    heads: Run | None = None
    n_heads: int | None = None

    def pictured(self, length: int, seed: int) -> Picture:
        """The mask of the first of these heads."""
        head = 0 if self.heads is None else self.heads[0]
        return pictured(self.whole, length, seed=seed, head=head, heads=self.n_heads)

    def titled(self, section: Section) -> Section:
        """A section on this part, under its heads."""
        if self.heads is None:
            return section
        start, stop = self.heads
        title = f"heads {start}:{stop}, {section.title}"
        return replace(section, title=title, file=f"heads_{start}_{stop}_{section.file}")


def parts_of(expr: Expr, n_heads: int | None) -> list[Part]:
    """The parts of a pattern of so many heads, by default the fewest that its groups allow.

    Raises HeadGroupError for groups that do not fit.
    """
    if not has_groups(expr):
        return [Part(expr, expr)]
    n_heads = least_heads(expr) if n_heads is None else n_heads
    return [Part(expr, member, run, n_heads) for run, member in members_of(expr, n_heads)]
