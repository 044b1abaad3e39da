"""Pictures of patterns in notebooks, whose integer tensors are made up."""

from __future__ import annotations

import pytest
import torch

import attncomp
from attncomp.frontend.library import shipped
from attncomp.frontend.parser import parse
from attncomp.ir.build import build, build_all_heads
from attncomp.pictures.examples import made_up
from attncomp.pictures.request import pictured_groups

READING = {
    "documents & causal": ["documents"],
    "prefix_lm": ["prefix_lengths"],
    "lifetime | window(4)": ["evict"],
    "blocks(16) & causal": ["block_mask"],
    "where(segment[q // 4] == segment[k // 4] and flag[b, h, k]) & causal": ["flag", "segment"],
    "where(mask[q, k]) | where(k < kept[b])": ["kept", "mask"],
    "tree(drafts=8)": ["ancestors", "committed"],
    "nats(8)": ["evict"],
}


@pytest.mark.parametrize("pattern", READING)
def test_some_pairs_are_attended_and_some_are_not(pattern: str) -> None:
    given = made_up(build(parse(pattern)), 48)
    assert sorted(given) == READING[pattern]
    gates = attncomp.compile(pattern).mask(48, heads=1, batch=1, **given)
    assert 0.02 < gates.mean() < 0.98
    again = made_up(build(parse(pattern)), 48)
    assert all(torch.equal(tensor, again[name]) for name, tensor in given.items())


def test_every_shipped_pattern_is_drawn() -> None:
    for name in shipped():
        (picture,) = pictured_groups(parse(name))
        assert (picture.gate > 0).any() and (picture.gate < 1).any()


def test_groups_share_what_is_made_up() -> None:
    first, second = pictured_groups(parse("heads{0 -> documents, 1: -> documents & causal}"))
    assert "with documents made up" in first.caption
    assert torch.equal(first.gate.tril(), second.gate)
    text = "heads{0 -> where(t[h, k]), 1: -> first(3)}"
    assert list(made_up(build_all_heads(parse(text)), 48)) == ["t"]
    assert len(pictured_groups(parse(text))) == 2
