"""How large a pattern may be, as text and as tree, so that no later stage runs out of stack."""

from __future__ import annotations

from typing import Final

MAX_NODES: Final = 4096  # operators and primitives of a tree
MAX_NESTING: Final = 64  # of parentheses in a text, and of operators in a tree
# Of a text. The canonical text of the largest tree fits: it is what a call of a kernel starts from.
MAX_CHARACTERS: Final = 400_000
MAX_HEADS: Final = 1 << 16
