"""attncomp: a compiler for attention patterns, from one line of text to specialised kernels.

A pattern is compiled once and called like any attention:

    attend = attncomp.compile("sparsek(k=512) | window(256)")
    out = attend(q, k, v, scores=u)

`CompiledPattern` says what the call takes, `attncomp.errors` what it raises.
"""

from __future__ import annotations

from attncomp import errors, patterns
from attncomp.api import CompiledPattern, Library, compile, load

__version__ = "0.1.0"

__all__ = [
    "CompiledPattern",
    "Library",
    "__version__",
    "compile",
    "errors",
    "load",
    "patterns",
]
