"""`pattern with modifier, ...` from lark's tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from attncomp.errors import ModifiedOperandError, Source, Span
from attncomp.frontend.syntax import HeadsSyntax, ModifiedSyntax, Reference, Syntax, parts_of


def read_modified(
    node: Any,
    pattern: Syntax,
    reference: Callable[[Any, Source], Reference],
    source: Source,
    span: Span,
) -> ModifiedSyntax:
    """The syntax of a node whose first child is a pattern; `reference` reads a modifier."""
    return ModifiedSyntax(
        pattern, tuple(reference(part, source) for part in node.children[1:]), span
    )


def check_operands(operands: Iterable[Syntax]) -> None:
    """ModifiedOperandError: an operand of | & - or ~ that has modifiers, or groups with some."""
    for operand in operands:
        if isinstance(operand, ModifiedSyntax):
            raise ModifiedOperandError(operand.span)
        if isinstance(operand, HeadsSyntax):
            check_operands(parts_of(operand))
