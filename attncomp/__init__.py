"""attncomp: a compiler for attention patterns.

import attncomp

attend = attncomp.compile("sparsek(k=512) | window(256)")
out = attend(q, k, v, scores=u)
"""

from __future__ import annotations

from attncomp import errors
from attncomp.api import CompiledPattern, compile

__version__ = "0.1.0"

__all__ = ["CompiledPattern", "__version__", "compile", "errors"]
