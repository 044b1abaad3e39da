"""Parameters for the tensors that the modifiers of a pattern read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attncomp.frontend.ast import Expr
from attncomp.ir.modifiers import modifiers_by_group, standard_slopes


def learned_parameters(expr: Expr, heads: int) -> nn.ParameterDict:
    """A parameter for each tensor of a pattern's modifiers, by its name, as training starts.

    Slopes [Hq] of ALiBi are those of arXiv 2108.12409, tables of biases [Hq, 2 * size - 1] and
    logits [Hq] of sinks 0. ValueError for a name that no parameter of a module can have.
    """
    start: dict[str, Tensor] = {}
    for modifiers in modifiers_by_group(expr):
        if modifiers.slopes is not None and modifiers.learned_slopes:
            start[modifiers.slopes] = standard_slopes(
                heads, dtype=torch.get_default_dtype(), device=torch.get_default_device()
            )
        if modifiers.bias is not None:
            start[modifiers.bias.table] = torch.zeros(heads, modifiers.bias.width)
        if modifiers.sink is not None:
            start[modifiers.sink] = torch.zeros(heads)
    parameters = nn.ParameterDict()
    for name, tensor in start.items():
        if hasattr(parameters, name):
            raise ValueError(f"pattern: expected another name for tensor '{name}': modules have it")
        parameters[name] = nn.Parameter(tensor)
    return parameters
