"""`attncomp-inspect --catalogue`: every pattern with its meaning, its parameters and a drawing."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest
from cli_support import diagnostic, on_a_terminal, output, without_colours

from attncomp.frontend.ast import Call
from attncomp.frontend.catalog import Primitive
from attncomp.frontend.library import shipped
from attncomp.frontend.modifiers import MODIFIERS
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import PRIMITIVES

MINE = '''
"""Of the file."""

"""A window and a half.

Used nowhere."""
pattern mine(n: int, lag: int = 0, gate: str = "hard") = (
    sparsek(1, lag=lag, gate=gate) & first(1) | window(3 * n // 2)
)
pattern other = mine(4)
example mine(
    n=2
) = """
    #..
    ##.
    ###
    """
'''


FORMS = ("where(predicate)", "heads{slice -> pattern, ...}")


def signatures() -> list[str]:
    """Those of all that a text may name, in the order of the catalogue."""
    primitives, modifiers = ([r.signature for r in t.values()] for t in (PRIMITIVES, MODIFIERS))
    return [*primitives, *FORMS, *modifiers, *map(shipped().signature, shipped())]


def entry(shown: str, signature: str) -> str:
    """What stands below the title of a pattern."""
    return shown.split(f"=== {signature} ===\n", 1)[1].split("\n=== ", 1)[0]


def test_every_pattern_is_there() -> None:
    shown = output("--catalogue")
    assert re.findall("=== (.*) ===", shown) == signatures()
    for name in shipped():
        found = entry(shown, shipped().signature(name))
        assert found.startswith(shipped().doc(name) + "\n")
        assert f"\n(from {shipped().definition(name).span.source.name})\n" in found
    assert entry(shown, "softcap(cap)") == (
        "Logits x become cap * tanh(x / cap) (Gemma 2, arXiv 2408.00118).\n"
        "  cap: float, more than 0. The limit of the logits on both sides.\n(a modifier)\n"
    )
    for row in MODIFIERS.values():
        assert all(parameter.doc in entry(shown, row.signature) for parameter in row.parameters)
    for row in (*PRIMITIVES.values(), *map(shipped().definition, shipped())):
        found = entry(shown, row.signature)
        for parameter in (parameter for form in row.forms for parameter in form):
            assert f"\n  {parameter.name}: {parameter.type.__name__}" in found
            assert parameter.doc in found
        assert re.search(r"\ngate of .*: \d+ queries \(down\) by \d+ keys \(right\)", found)


def test_one_entry() -> None:
    signature = 'sparsek(k, lag=0, gate="key_value", scores="scores")'
    found = entry(output("--catalogue", "--mask", "6"), signature)
    head, drawing = found.split("\n\n")
    assert head == dedent("""\
        The k highest-scored keys of the prefix, gated by SparseK (arXiv 2406.16747).
          k: int, at least 1. Keys selected for a query.
          lag: int, at least 0, default 0. Positions by which selection trails the query.
          gate: str, one of "key_value", "value", "hard", "straight_through", "logit", \
default "key_value". How the gate enters attention.
          scores: str, default "scores". Name of the call's tensor [B, G, Nk] that ranks the keys.
        (a primitive)""")
    caption, *rows = drawing.splitlines()
    assert caption == (
        "gate of sparsek(k=4): 6 queries (down) by 6 keys (right); scores standard normal, seed 0"
    )
    assert rows == output("sparsek(k=4)", "--mask", "6").splitlines()[2:]


@pytest.mark.parametrize("row", PRIMITIVES.values(), ids=lambda row: row.name)
def test_primitives_have_examples(row: Primitive) -> None:
    """Calls of themselves, small enough for a drawing to leave something out."""
    text = row.example or row.name
    call = parse(text)
    assert isinstance(call, Call) and call.name == row.name
    found = entry(output("--catalogue"), PRIMITIVES[row.name].signature)
    assert f"\n\ngate of {text}: 16 queries" in found
    if row.name != "full":
        assert "." in found.split("\n\n")[1].split("\n", 1)[1]


def test_a_library_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.attn"
    file.write_text(MINE, encoding="utf-8")
    shown = output("--catalogue", "--library", str(file), "--mask", "5")
    mine = 'mine(n, lag=0, gate="hard")'
    assert re.findall("=== (.*) ===", shown) == [*signatures(), mine, "other"]
    gates = output("mine(2)", "--library", str(file), "--mask", "5").splitlines()[2:]
    assert entry(shown, mine).strip("\n") == (
        "A window and a half.\n\nUsed nowhere.\n"
        '  n: int\n  lag: int, default 0\n  gate: str, default "hard"\n'
        f"(from {file})\n\n"
        "gate of mine( n=2 ): 5 queries (down) by 5 keys (right); scores standard normal, seed 0\n"
        + "\n".join(gates)
    )
    assert entry(shown, "other") == f"(from {file})\n"
    file.write_text("pattern mine = windw(3)", encoding="utf-8")
    assert diagnostic("--catalogue", "--library", str(file)).startswith(
        "error: unknown pattern 'windw'\n"
    )


def test_a_seed_is_for_the_scores() -> None:
    signature = 'sparsek(k, lag=0, gate="key_value", scores="scores")'
    shown = [entry(output("--catalogue", "--seed", seed), signature) for seed in "01"]
    assert shown[0].splitlines()[-1] != shown[1].splitlines()[-1]


def test_files(tmp_path: Path) -> None:
    paths = output("--catalogue", "--output", str(tmp_path)).splitlines()
    assert paths == [
        str(tmp_path / f"{name}.txt")
        for name in (*PRIMITIVES, "where", "heads", *MODIFIERS, *shipped())
    ]
    window = (tmp_path / "window.txt").read_text(encoding="utf-8")
    assert window.rstrip("\n") == entry(
        output("--catalogue"), PRIMITIVES["window"].signature
    ).rstrip("\n")


def test_on_a_terminal() -> None:
    text = on_a_terminal("--catalogue")
    plain = without_colours(text)
    assert re.findall("=== (.*) ===", plain) == signatures()
    found = entry(plain, PRIMITIVES["window"].signature)
    assert found.count("\u2580" * 16 + "\n") == 8
    assert found.endswith("\u2588\u2588 window: 0 <= q - k < 5\n")
    assert "38;5;" in text  # colours of the palette
