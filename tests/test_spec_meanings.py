"""Shipped definitions mean what their papers say, and what FlexAttention makes of them.

Each is held against a matrix written down from the paper, row by row or block by block, and against
`create_mask` of FlexAttention for the same predicate, as one would write it there.
"""

from __future__ import annotations

import pytest
import torch
from spec_definitions import BATCH, DEFINITIONS, cases, dense_neighborhood
from structural_definitions import STRUCTURAL
from torch.nn.attention.flex_attention import create_mask
from torch.nn.functional import scaled_dot_product_attention

import attncomp
from attncomp import patterns as P
from attncomp.frontend.library import shipped
from attncomp.frontend.primitives import PRIMITIVES

LENGTHS = (5, 13, 33)
ALL = DEFINITIONS | STRUCTURAL
CASES = cases(ALL)


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("call", CASES)
def test_masks(call: str, n: int, generator: torch.Generator) -> None:
    name, values = CASES[call]
    definition = ALL[name]
    given = definition.draw(n, generator, values)
    expected = definition.dense(n, **given, **values)
    pattern = attncomp.compile(call)
    tensors = {key: given[key] for key in pattern.tensors}
    found = pattern.mask(n, **tensors)
    assert torch.equal(found, expected[:, None].double())
    mask = create_mask(definition.flex(n, **given, **values), len(expected), None, n, n, "cpu")
    assert torch.equal(found, mask.double())
    last = int(torch.randint(1, n, (), generator=generator))  # queries stand at the end
    assert torch.equal(pattern.mask(last, n, **tensors), found[:, :, n - last :])


@pytest.mark.parametrize("call", CASES)
def test_attention_and_gradients(call: str, generator: torch.Generator) -> None:
    """The torch backend, against dense attention with the mask of the paper."""
    n = int(torch.randint(6, 150, (), generator=generator))
    name, values = CASES[call]
    given = ALL[name].draw(n, generator, values)
    expected = ALL[name].dense(n, **given, **values)[:, None]
    attend = attncomp.compile(call, backend="torch")
    inputs = [
        torch.randn(BATCH, 2, n, 16, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    ]
    found = attend(*inputs, **{key: given[key] for key in attend.tensors})
    dense = scaled_dot_product_attention(*inputs, attn_mask=expected)
    dout = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for actual, wanted in zip(
        (found, *torch.autograd.grad(found, inputs, dout)),
        (dense, *torch.autograd.grad(dense, inputs, dout)),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("budget", "near"), [(1, 1), (3, 2), (4, 9), (50, 1)])
def test_locret(budget: int, near: int, generator: torch.Generator) -> None:
    """The budget's best keys behind the last ones, which are kept: by sorting each prefix."""
    scores = torch.randint(-4, 5, (BATCH, 2, 24), generator=generator).double()
    call = f"locret(budget={budget}, stabilizers={near})"
    expected = torch.zeros(BATCH, 2, 24, 24, dtype=torch.float64)
    for row, head, query in torch.cartesian_prod(*map(torch.arange, (BATCH, 2, 24))).tolist():
        prefix = scores[row, head, : max(0, query - near + 1)]
        best = prefix.sort(descending=True, stable=True).indices[:budget]
        expected[row, head, query, best] = 1
        expected[row, head, query, max(0, query - near + 1) : query + 1] = 1
    assert torch.equal(attncomp.compile(call).mask(24, scores=scores), expected)


# By name: where else a primitive or a shipped pattern is held against its definition.
ELSEWHERE = {
    "sparsek": "test_oracle.py",
    "sparsek_window": "test_oracle.py, as its text is one of sparsek and window",
    "locret": "above",
    "random_blocks": "test_oracle.py",
    "threshold": "test_oracle.py",
    "top_theta": "test_thresholds.py",
    **dict.fromkeys(("blocks", "topk_blocks", "bigbird"), "test_block_specs.py"),
    **dict.fromkeys(("block_sparse", "nsa_selection", "moba", "quest"), "test_block_specs.py"),
}


def test_every_pattern_has_a_definition_of_its_own() -> None:
    assert {*ALL, *ELSEWHERE} == {*PRIMITIVES, *shipped()}


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("n", range(1, 16))
def test_neighborhoods_are_whole(n: int, size: int) -> None:
    """Exactly `size` neighbours, consecutive ones, the query among them; all where n is less."""
    gates = attncomp.compile(P.neighborhood(size)).mask(n)[0, 0]
    assert gates.sum(1).tolist() == [min(size, n)] * n
    assert gates.diagonal().all()
    assert gates.diff(dim=1).abs().sum(1).max() <= 2
    assert torch.equal(gates, dense_neighborhood(n, size=min(size, n))[0].double())


KEYS = {
    "chunked(size=64)": "at most 64 a query, in one softmax",
    "neighborhood(size=64)": "at most 64 + 64 + 64 = 192 a query, in one softmax",
    "documents_causal": "those in ranges by documents",
    "documents_full": "those in ranges by documents",
    "prefix_language_model": "grow with the context length",
    "block_diffusion": "grow with the context length",
    "top_theta": "grow with the context length",
    "tree": "those in ranges by committed",
    "sparse_transformer_strided": "grow with the context length",
    "sparse_transformer_fixed": "grow with the context length",
}


@pytest.mark.parametrize("call", KEYS)
def test_cost(call: str) -> None:
    """What is visited: those that the docs call bounded are, the others visit the whole context."""
    lines, keys = attncomp.compile(call).explain().splitlines(), KEYS[call]
    assert f"keys         {keys}" in lines
    order = "O(N)" if "at most" in keys else "O(N^2)"
    if "ranges" in keys:
        order = f"{keys.replace('those', 'O(keys')}), O(N^2) at most"
    assert f"time         {order}, forward and backward" in lines


def test_drafted_keys_are_swept_alone() -> None:
    """The tensor of ancestors is read for the last keys only."""
    sweeps = [s for s in attncomp.compile("tree").explain().splitlines() if "ancestors[" in s]
    assert len(sweeps) == 2 and sweeps[1].endswith("; at most 64 keys a query")  # after the pattern


def test_tensors() -> None:
    """The names and shapes that the docs give."""
    found = {name: attncomp.compile(call).shapes for call, (name, _) in CASES.items()}
    assert {name: shapes for name, shapes in found.items() if shapes} == {
        "documents_causal": {"documents": "[B or 1, Nk]"},
        "documents_full": {"documents": "[B or 1, Nk]"},
        "documents": {"documents": "[B or 1, Nk]"},
        "lifetime": {"evict": "[B or 1, H dividing Hq, Nk]"},
        "nats": {"evict": "[B or 1, H dividing Hq, Nk]"},
        "apb": {"passed": "[B or 1, H dividing Hq, Nk]"},
        "prefix_lm": {"prefix_lengths": "[B or 1]"},
        "prefix_language_model": {"prefix_lengths": "[B or 1]"},
        "tree": {"committed": "[B or 1]", "ancestors": "[B or 1, ..., ...]"},
    }
