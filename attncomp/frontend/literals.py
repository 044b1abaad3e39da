"""Numbers, strings, truth values and tensors as they are written, from lark's tokens and trees."""

from __future__ import annotations

import math
import sys
from typing import Any, Final, cast

from attncomp.frontend import syntax
from attncomp.frontend.catalog import Value

_MAX_DIGITS: Final = 400  # a longer literal exceeds every integer parameter and every float


def integer(token: Any) -> int:
    """The value of a token INT."""
    digits = token.replace("_", "").lstrip("0") or "0"
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def literal(token: Any) -> Value:
    """The value of a token."""
    match token.type:
        case "INT":
            return integer(token)
        case "FLOAT":
            return float(token.replace("_", ""))
        case "STRING":
            return string(token)
        case _:
            return str(token.type) == "TRUE"


def string(token: Any) -> str:
    """What stands between the quotes."""
    quotes = 3 if token.type == "LONG_STRING" else 1
    return str(token[quotes:-quotes])


def signed(node: Any) -> int | float:
    """A number, perhaps with a sign."""
    *sign, number = node.children
    return (-1 if sign else 1) * cast("int | float", literal(number))


def tensor(node: Any) -> syntax.TensorLiteral:
    """Nested tuples of floats; brackets are at most MAX_NESTING deep."""
    if node.data == "tensor":
        return tuple(tensor(child) for child in node.children)
    value = signed(node)
    return float(value) if abs(value) <= sys.float_info.max else math.copysign(math.inf, value)
