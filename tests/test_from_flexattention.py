"""Each pair of docs/from-flexattention.md is one mask, FlexAttention's function and our text.

A function is evaluated by `create_mask` for a batch of 2 and 4 heads, over fresh tensors where it
captures some. A block that sets N or Q_LEN has that many keys or queries; N is drawn otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
import torch
from page_support import blocks, read
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask

import attncomp

PAGE = "docs/from-flexattention.md"
PAIR = re.compile(
    r'<div class="grid" markdown>\n\n```python\n(.*?)```\n\n```attn\n(.*?)```\n\n</div>', re.DOTALL
)
BATCH, HEADS = 2, 4


def pairs() -> dict[str, tuple[str, str]]:
    """Both texts by the name of the function, which a block defines last."""
    return {re.findall(r"^def (\w+)", python, re.M)[-1]: (python, text) for python, text in found()}


def found() -> list[tuple[str, str]]:
    return PAIR.findall(read(PAGE))


def integers(*shape: int, below: int) -> Tensor:
    return torch.randint(below, shape)


# Tensors that functions capture, by name: of N keys.
DRAWS: dict[str, Callable[[int], Tensor]] = {
    "ancestors": lambda n: (integers(BATCH, 16, 16, below=2) | torch.eye(16, dtype=int)).tril() > 0,
    "chosen": lambda n: integers(BATCH, HEADS, -(-n // 32), -(-n // 32), below=2) > 0,
    "column": lambda n: torch.randperm(n) % 16,
    "committed": lambda n: integers(BATCH, below=n - 15),
    "document": lambda n: integers(BATCH, n, below=5),
    "ends": lambda n: n - integers(-(-n // 32), below=n // 4),
    "is_global": lambda n: integers(BATCH, n, below=10) == 0,
    "position": lambda n: integers(BATCH, n, below=40),
    "prefix_lengths": lambda n: integers(BATCH, below=n + 1),
    "prompt": lambda n: integers(BATCH, n, below=5),
    "row": lambda n: torch.randperm(n) // 16,
    "starts": lambda n: integers(-(-n // 32), below=n // 4),
}


@pytest.mark.parametrize("name", pairs())
def test_pair(name: str, seed: int) -> None:
    python, text = pairs()[name]
    pattern = attncomp.compile(text)
    scope: dict[str, Any] = {"torch": torch}
    exec(compile(python, name, "exec"), scope)
    function = scope[name]
    assert isinstance(function, FunctionType)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        n_keys = scope.setdefault("N", int(torch.randint(130, 260, ())))
        tensors = {tensor: DRAWS[tensor](n_keys) for tensor in pattern.tensors}
    scope |= tensors
    n_queries = scope.get("Q_LEN", n_keys)
    expected = create_mask(function, BATCH, HEADS, n_queries, n_keys, device="cpu")
    gates = pattern.mask(n_queries, n_keys, heads=HEADS, batch=BATCH, **tensors)
    assert torch.equal(gates.expand(expected.shape), expected.double())
    assert expected.any() and not expected.all()


def test_every_function_and_text_is_of_a_pair() -> None:
    assert len(pairs()) == len(found())
    assert [block.text for block in blocks(PAGE, "attn")] == [text for _, text in found()]
    defined = "".join(block.text for block in blocks(PAGE, "python")[1:])
    assert set(re.findall(r"^def (\w+)", defined, re.M)) == set(pairs())


def test_masks_of_the_collection_are_there() -> None:
    """A section each; a renamed one is looked for here."""
    headings = re.findall("^### (.*)$", read(PAGE), re.M)
    assert len(headings) == len(set(headings)) >= 20
    assert {"Causal", "Sliding window", "Prefix LM", "Documents in one row"} <= set(headings)
