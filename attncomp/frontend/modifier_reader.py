"""`pattern with modifier, ...` from lark's tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attncomp.errors import ModifiedOperandError, Span
from attncomp.frontend.syntax import ModifiedSyntax, Reference, Syntax


def read_modified(
    node: Any, pattern: Syntax, reference: Callable[[Any], Reference], span: Span
) -> ModifiedSyntax:
    """The syntax of a node whose first child is a pattern; `reference` reads a modifier."""
    return ModifiedSyntax(pattern, tuple(map(reference, node.children[1:])), span)


def check_operands(operands: list[Syntax]) -> None:
    """ModifiedOperandError for an operand of | & - or ~ that has modifiers."""
    for operand in operands:
        if isinstance(operand, ModifiedSyntax):
            raise ModifiedOperandError(operand.span)
