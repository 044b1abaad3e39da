"""Random and damaged texts: the parser answers with a tree or a PatternError, and quickly.

Run many more by hand: `python tests/frontend/test_fuzz.py 1000000 [seed]`.
"""

from __future__ import annotations

import random
import statistics
import sys
import time

from attncomp.errors import PatternError
from attncomp.frontend.ast import to_text
from attncomp.frontend.parser import parse

SEED = 20240616
COUNT = 4000

GOOD = (
    "sparsek(k=512, lag=256) | window(256)",
    'sparsek(8, gate="straight_through") & causal - first(4)',
    "~(window(1_024) | first(count=64)) - full()",
    "causal\n  # the near past\n  & (window(size=7) | first(1))\n",
)
PIECES = (
    *"()|&-~,=#.:\"' \t\n\r_+!$[]{}\\0123456789",
    *("window", "full", "causal", "first", "sparsek", "k", "lag", "size", "gate", "hard", "windw"),
    *("True", "False", "and", "or", "not", "1e9", "2.5", "-3", "()", "(1)", "||", '"hard"'),
    *("\x00", "\x1b", "\u00e9", "\u65e5", "\u200b", "\u2029", "\ud800", "\U0001f600", "\u0661"),
)


def random_text(rng: random.Random) -> str:
    """Pieces in a row, or a good pattern with some of it deleted, doubled or replaced."""
    if rng.random() < 0.3:
        return "".join(rng.choices(PIECES, k=rng.randrange(30)))
    text = rng.choice(GOOD)
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(6))
        middle = rng.choice(("", text[start:end] * 2, rng.choice(PIECES)))
        text = text[:start] + middle + text[end:]
    return text


def try_text(text: str) -> bool:
    """Whether `text` is a pattern; fails on any exception but a well-formed PatternError."""
    try:
        tree = parse(text)
    except PatternError as error:
        assert type(error) is not PatternError
        assert error.__cause__ is None and error.__context__ is None
        assert error.span is not None and error.span.source.text == text
        head, place, line, carets = str(error).split("\n")
        assert head == f"error: {error.message}" and place.startswith(" --> <spec>:")
        assert line.startswith("  |") and "^" in carets
        assert all(part.isprintable() for part in (head, place, line, carets))
        return False
    assert parse(to_text(tree)) == tree
    return True


def fuzz(count: int, seed: int) -> tuple[int, list[float]]:
    """Tries `count` texts; how many were patterns, and the seconds that each took."""
    rng = random.Random(seed)
    parse("full")
    good = 0
    seconds = []
    for _ in range(count):
        text = random_text(rng)
        start = time.perf_counter()
        try:
            good += try_text(text)
        except BaseException:
            print(f"text: {text!r}")
            raise
        seconds.append(time.perf_counter() - start)
    return good, seconds


def test_fuzz() -> None:
    good, seconds = fuzz(COUNT, SEED)
    assert 0.02 * COUNT < good < 0.98 * COUNT  # both outcomes are tried
    assert statistics.median(seconds) < 0.010


def test_fuzz_with_a_fresh_seed(seed: int) -> None:
    fuzz(COUNT // 4, seed)


if __name__ == "__main__":
    good, seconds = fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else SEED)
    print(f"{len(seconds)} texts, {good} of them patterns, slowest {max(seconds) * 1e3:.1f} ms")
