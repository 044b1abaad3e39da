"""Random and damaged texts and spec files: the answer is a tree or a PatternError, and quick.

Run many more by hand: `python tests/frontend/test_fuzz.py 1000000 [seed]`.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from attncomp.errors import PatternError, Source
from attncomp.frontend.ast import to_text
from attncomp.frontend.library import Library, shipped_folder
from attncomp.frontend.parser import parse
from attncomp.frontend.reader import tokens

SEED = 20240616
COUNT = 3000
LIMIT = 0.010  # seconds of CPU time a text
SLOWED = 5  # by how much a busy machine may stretch a text's time

# Other tests run nearly all of the same lines; traced, these here would take three times as long.
pytestmark = pytest.mark.no_cover

GOOD = (
    "sparsek(k=512, lag=256) | window(256)",
    'sparsek(8, gate="straight_through") & causal - first(4)',
    "~(window(1_024) | first(count=64)) - full()",
    "causal\n  # the near past\n  & (window(size=7) | first(1))\n",
    "where(0 <= q - k < 8 or not (seg[b, q // 4] == seg[b, k // 4] and h % 2 != 1)) & chunk(9)",
    'heads{0:8 -> window(1024), 8:-2 -> sparsek(k=512, scores="near") | full, -2: -> causal}',
    'window(before=2, after=3) with softcap(30), alibi(slopes="m"), bias(8), scale(0.5), sink',
    "heads{:4 -> (window(2) with sink), 4:-1 -> ~full, -1 -> first(1)} with scale(factor=2.5)",
    'window(9) | causal & ~threshold(theta="t") & threshold - random_blocks(1, 2)',
    "(blocks(64) | topk_blocks(k=2, size=16) - random_blocks(3, 8, seed=7)) & documents | lifetime",
    "heads{0 -> heads{: -> causal} & strided(4), 1: -> dilated(4, 3) | prefix_lm} - chunk(7)",
)
GOOD_FILES = (
    """\"\"\"Doc.\"\"\"
from sliding_window import sliding_window
"Doc of a."
pattern a(n: int, s: str = "hard") = sliding_window(n // 2) | sparsek(n, gate=s) - _b(-n)
pattern _b(m: int) = first(m * -1 % 7)
example a(n=4) given scores=[1, -2.5, 0] = \'\'\'
    #..
    ##.
\'\'\'
""",
    "pattern w(m: int) = where(q - k < m and t[q // m] != -m) & full\nexample w(2) = '#'",
    "pattern a = b(n=2) | b(3)\npattern b(n: int) = ~(window(n) | full) & longformer\n"
    "from longformer import longformer # why\nexample b(2 + 2) = '#.'",
    """pattern c(size: int >= 1 <= 4096 = 64, x: float >= 0.5 = 2) = (
    blocks(size) & causal with softcap(x + 1), sink(logits="s")
)
pattern d(n: int <= 8 = 4) = heads{0:n -> c(n), n: -> topk_blocks(n // 2, 16)}  # bounded
pattern e(t: str = "near") = heads{-1 -> d, :-1 -> sparsek(4, scores=t)}
example c(2) given block_mask=[[[[1, 0], [0, 1]]]], s=[0] = "#."
""",
)
PIECES = (
    *"()|&-~,=#.:\"' \t\n\r_+!$[]{}\\0123456789",
    *("window", "full", "causal", "first", "sparsek", "k", "lag", "size", "gate", "hard", "windw"),
    *("pattern", "example", "from", "import", "given", "with", "int", "str", "n", "a", "b", "_b"),
    *("where", "where(", "q", "h", "<", ">=", "==", "!=", "seg[q]", "[k]", " and ", " or "),
    *("heads{", "0:8 -> ", "-1: -> ", "->", " with ", "sink", "softcap(", "alibi", "bias(8)"),
    *("blocks(", "topk_blocks", "random_blocks", "documents", ">= 1", "<= 8", "scores=", "size=16"),
    *(
        "threshold",
        "threshold(",
        "theta=",
        "strided(4)",
        "prefix_lm",
        "lifetime",
        "chunk",
        "dilated(",
    ),
    *("//", "%", '"""', "'" * 3, "pattern a = ", "a(n=", ": int", "# "),
    *("True", "False", "and", "or", "not", "1e9", "2.5", "-3", "()", "(1)", "||", '"hard"'),
    *("\x00", "\x1b", "\u00e9", "\u65e5", "\u200b", "\u2029", "\ud800", "\U0001f600", "\u0661"),
)


def random_text(rng: random.Random, good: tuple[str, ...]) -> str:
    """Pieces in a row, or a good text with some of it deleted, doubled or replaced."""
    if rng.random() < 0.3:
        return "".join(rng.choices(PIECES, k=rng.randrange(30)))
    text = rng.choice(good)
    for _ in range(rng.randrange(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(6))
        middle = rng.choice(("", text[start:end] * 2, rng.choice(PIECES)))
        text = text[:start] + middle + text[end:]
    return text


def check_error(error: PatternError, text: str) -> None:
    """Fails for an error that is not well formed."""
    assert type(error) is not PatternError
    assert error.__cause__ is None and error.__context__ is None
    assert error.span is not None
    assert error.notes or error.span.source.text == text
    lines = str(error).split("\n")
    assert len(lines) == 4 * (1 + len(error.notes))
    assert lines[0] == f"error: {error.message}" and lines[1].startswith(" --> ")
    assert lines[2].startswith("  |") and "^" in lines[3]
    assert all(line.isprintable() for line in lines)


def try_text(text: str) -> bool:
    """Whether `text` is a pattern; fails on any exception but a well-formed PatternError."""
    try:
        tree = parse(text)
    except PatternError as error:
        check_error(error, text)
        return False
    assert parse(to_text(tree)) == tree
    return True


def try_file(text: str) -> bool:
    """Whether `text` is a spec file; then every definition with defaults expands, or complains."""
    try:
        library = Library.of(Source("my.attn", text))
    except PatternError as error:
        check_error(error, text)
        return False
    assert all(word.text for word in tokens(library.files[0].source))
    for name in library:
        try:
            tree = parse(name, library=library)
        except PatternError as error:
            check_error(error, name)
        else:
            assert parse(to_text(tree)) == tree
    return True


def read(text: str, *, is_file: bool) -> None:
    """What is timed: reading the text, and drawing the error if it has one."""
    try:
        Library.of(Source("my.attn", text)) if is_file else parse(text)
    except PatternError as error:
        str(error)


def seconds_of(text: str, *, is_file: bool) -> float:
    """CPU time; a slow text has two more tries, as the garbage of other tests is collected here."""
    taken = []
    while len(taken) < 3 and not (taken and min(taken) < LIMIT):
        start = time.process_time()
        read(text, is_file=is_file)
        taken.append(time.process_time() - start)
    return min(taken)


def fuzz(count: int, seed: int) -> tuple[int, int, tuple[float, str]]:
    """Tries `count` texts and files; how many were patterns and files, and the slowest one."""
    rng = random.Random(seed)
    parse("longformer")
    good = {try_text: 0, try_file: 0}
    slowest = (0.0, "")
    for number in range(count):
        attempt = (try_text, try_file)[number % 2]
        text = random_text(rng, (GOOD, GOOD_FILES)[number % 2])
        try:
            slowest = max(slowest, (seconds_of(text, is_file=attempt is try_file), text))
            good[attempt] += attempt(text)
        except BaseException:
            print(f"text: {text!r}")
            raise
    return good[try_text], good[try_file], slowest


@pytest.mark.parametrize("text", GOOD)
def test_good_texts(text: str) -> None:
    assert try_text(text)


@pytest.mark.parametrize("text", GOOD_FILES)
def test_good_files(text: str) -> None:
    assert try_file(text)


def test_fuzz() -> None:
    texts, files, (seconds, _) = fuzz(COUNT, SEED)
    for good in (texts, files):
        assert 0.02 * COUNT / 2 < good < 0.98 * COUNT / 2  # both outcomes are tried
    assert seconds < LIMIT * SLOWED


def test_fuzz_with_a_fresh_seed(seed: int) -> None:
    fuzz(COUNT // 4, seed)


def test_shipped_files_cut_short() -> None:
    """Wherever a shipped file ends, it is a file or a PatternError."""
    for path in sorted(Path(shipped_folder()).rglob("*.attn")):
        text = path.read_text(encoding="utf-8")
        for end in range(len(text) % 5, len(text), 5):
            try_file(text[:end])


if __name__ == "__main__":
    count = int(sys.argv[1])
    texts, files, slowest = fuzz(count, int(sys.argv[2]) if len(sys.argv) > 2 else SEED)
    print(f"{count} texts: {texts} patterns, {files} files", end="; ")
    print(f"slowest {slowest[0] * 1e3:.1f} ms: {slowest[1]!r}")
    sys.exit(slowest[0] >= LIMIT)
