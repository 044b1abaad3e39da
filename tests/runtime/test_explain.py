"""What explain() says of visited and attended keys, at two lengths or at the one asked for."""

from __future__ import annotations

import re

import pytest

import attncomp
from attncomp.errors import OptionError


def counted(pattern: str, n_keys: int | None = None, backend: str | None = "torch") -> list[str]:
    """The lines of explain() that count keys."""
    lines = attncomp.compile(pattern, backend=backend).explain(n_keys=n_keys).splitlines()
    return [line.strip() for line in lines if line.startswith("  N = ")]


@pytest.mark.parametrize(
    ("pattern", "lines"),
    [
        # 255 keys of the 128 queries of a tile, in whole cache lines; 128 of each query but for the
        # first ones
        (
            "window(128)",
            ["N = 65536  visits 256 keys a query, attends 128 (50 %): O(1) a query"],
        ),
        (
            "causal",
            [
                "N = 8192   visits 4160 keys a query, attends 4096 (98.5 %): O(N) a query",
                "N = 65536  visits 32832 keys a query, attends 32768 (99.8 %): O(N) a query",
            ],
        ),
        (
            "strided(128)",
            [
                "N = 8192   visits 64 keys a query, attends 32.5 (50.8 %): O(N / 128) a query",
                "N = 65536  visits 320 keys a query, attends 256 (80.2 %): O(N / 128) a query",
            ],
        ),
        (
            "sparsek(k=512, lag=256) | window(256)",
            [
                "N = 65536  visits 383 keys a query, attends 256 (66.7 %): O(1) a query",
                "N = 65536  visits at most 635 keys a query, attends 508 (at least 80 %): "
                "O(1) a query",
            ],
        ),
        (
            "sparsek(k=512) - window(256)",
            [
                "N = 65536  visits at most 638 keys a query, attends at most 508, depending on "
                "scores: O(1) a query"
            ],
        ),
        (
            "documents & causal & where(h < 4)",
            [
                "N = 8192   visits at most 4160 keys a query, attends at most 4096, depending on "
                "documents, the head: at most O(N) a query",
                "N = 65536  visits at most 32832 keys a query, attends at most 32768, depending on "
                "documents, the head: at most O(N) a query",
            ],
        ),
        (
            "where(k % 128 >= 120 and k % 5 < 4) & causal",
            [
                "N = 8192   visits 4160 keys a query, attends about 202 (4.86 %): O(N) a query",
                "N = 65536  visits 32832 keys a query, attends about 1641 (5 %): O(N) a query",
            ],
        ),
        (
            "where(k >= n - 2) & where(q >= n - 1)",
            ["N = 65536  visits 2 keys a query, attends < 0.01 (< 0.01 %): O(1) a query"],
        ),
        (
            "topk_blocks(2, 64) & causal",
            [
                "N = 65536  visits at most 128 keys a query, attends at most 128, depending on "
                "block_scores: O(1) a query"
            ],
        ),
        ("window(4) - full", []),
    ],
)
def test_counts(pattern: str, lines: list[str]) -> None:
    assert counted(pattern) == lines


@pytest.mark.parametrize(
    ("pattern", "others"),
    [
        ("dilated(600, 4) | strided(4) - window(5000)", "sweep 0"),
        ("strided(4) & where(k >= 4000 or 3000 <= q - k < 5400)", "sweep 0 and 1"),
    ],
)
def test_strided_sweeps_of_one_step_are_counted_together(pattern: str, others: str) -> None:
    lines = attncomp.compile(pattern, backend="torch").explain(n_keys=6000).splitlines()
    (place,) = [place for place, line in enumerate(lines) if line.startswith("  N = ")]
    assert lines[place - 1].startswith(f"sweep {1 + int(others[-1])} ")
    assert re.fullmatch(
        rf"  N = 6000   with {others}: visits \d+ keys a query, attends \d+ \(\d\d\.\d %\): "
        r"O\(N / 4\) a query",
        lines[place],
    )


def test_the_length_can_be_chosen() -> None:
    expected = "N = 4  visits 4 keys a query, attends 2.5 (62.5 %): O(N) a query"
    assert [re.sub(" +", " ", line) for line in counted("causal", 4)] == [
        expected.replace("  ", " ")
    ]
    (line,) = counted("window(256)", 1 << 20)
    assert line == "N = 1048576  visits 384 keys a query, attends 256 (66.7 %): O(1) a query"
    grouped = "heads{0:1 -> causal, 1: -> window(3)}"
    assert len(counted(grouped, 100)) == 2


@pytest.mark.parametrize(("n_keys", "found"), [(0, "0"), (-5, "-5"), (2.0, "2.0"), (True, "True")])
@pytest.mark.parametrize("pattern", ["window(4)", "heads{0:1 -> causal, 1: -> window(3)}"])
def test_lengths_that_there_are_not(pattern: str, n_keys: object, found: str) -> None:
    with pytest.raises(OptionError) as error:
        attncomp.compile(pattern).explain(n_keys=n_keys)  # type: ignore[arg-type]
    assert str(error.value) == f"n_keys: expected a length of 1 or more, found {found}"


def test_tiles_are_those_of_the_target() -> None:
    """On Triton keys come in whole tiles, here 32 queries by 64 keys."""
    pattern = attncomp.compile("window(128)", backend="triton")
    text = pattern.explain()
    queries, keys = pattern.plan.schedule.forward.queries, pattern.plan.forward_keys
    assert f"\ntiles        {queries} queries by {keys} keys\n" in text
    steps = -(-(127 + queries) // keys)
    assert f"  N = 65536  visits {keys * steps} keys a query, attends 128 (" in text


def test_the_reference_visits_no_tiles() -> None:
    """It runs by the definition, so that what sweeps attend is all there is to say of them."""
    assert counted("window(4)", 8, backend="reference") == ["N = 8      attends 3.25"]
    assert "\ntiles " not in attncomp.compile("window(4)", backend="reference").explain()
