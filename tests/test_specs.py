"""The shipped spec files: their examples hold, their patterns compile, their docs are complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import attncomp
from attncomp.frontend.catalog import REQUIRED
from attncomp.frontend.library import shipped
from attncomp.frontend.specfile import Example, SpecFile
from attncomp.inspection.specs import check_examples, draw_example

ROOT = Path(__file__).parent.parent
FILES = {file.source.name: file for file in shipped().files}
HEADS = """pattern a = heads{{0 -> causal, 1: -> window(1)}}
example a = '''
#..
##.
###

#..
.#.
{third}

'''
example a = '#'
example where(h == 1 and b == 0) = '''
..

##
'''
"""
EXAMPLES = {f"{e.span.source.name}:{e.span.line}": e for e in shipped().examples}


def test_every_file_is_read() -> None:
    paths = (path.relative_to(ROOT).as_posix() for path in ROOT.glob("specs/**/*.attn"))
    assert sorted(FILES) == sorted(paths)
    assert {"specs/longformer.attn", "specs/sliding_window.attn"} <= set(FILES)


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_docs(file: SpecFile) -> None:
    """A file's docstring names a paper and a bound on the keys; public patterns are documented."""
    assert re.search(r"\barXiv \d{4}\.\d{4,5}\b", file.doc)
    assert re.search(r"\bkeys a query\b", " ".join(file.doc.split()))
    assert file.exported and all(definition.doc for definition in file.exported.values())


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_every_public_pattern_has_an_example(file: SpecFile) -> None:
    shown = {re.findall(r"\w+", example.text)[0] for example in file.examples}
    assert shown >= set(file.exported)


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_examples(example: Example) -> None:
    assert draw_example(example) == example.picture


@pytest.mark.parametrize("name", shipped())
def test_defaults_compile_and_compute(name: str) -> None:
    parameters = shipped().definition(name).parameters
    assert all(parameter.default is not REQUIRED for parameter in parameters)
    attend = attncomp.compile(name, backend="torch")
    query, key, value = torch.randn(3, 1, 2, 24, 16).round()  # so that all sums are exact
    tensors: dict[str, Any] = {
        name: torch.randn(1, 1, 24) if shape == "[B, G, Nk]" else torch.randn(sizes(shape, 24))
        for name, shape in attend.shapes.items()
    }
    for tensor in attend.integer_tensors:
        tensors[tensor] = torch.randint(0, 3, sizes(attend.shapes[tensor], 24))
    out = attend(query, key, value, **tensors)
    if name == "top_theta":
        tensors["logits"] = query @ key.mT / 4
    # Selections of default size take all of 24 keys: every gate is 0 or 1.
    attended = attend.mask(24, **tensors).bool()
    dense = torch.nn.functional.scaled_dot_product_attention(query, key, value, attended)
    torch.testing.assert_close(out, dense.masked_fill(~attended.any(-1, keepdim=True), 0))


def sizes(shape: str, length: int) -> tuple[int, ...]:
    """Sizes that a shape in symbols allows: `[B or 1, Nk / 4, ...]` of 24 keys is (1, 6, 24)."""
    known = {"B or 1": 1, "H dividing Hq": 1, "Hq": 2, "Nk": length, "...": length}
    names = shape.strip("[]").split(", ")
    return tuple(
        known[name] if name in known else -(-length // int(name.rpartition(" ")[2]))
        for name in names
    )


def test_mistakes_after_expansion_show_the_calls_too() -> None:
    with pytest.raises(attncomp.errors.SoftComplementError) as caught:
        attncomp.compile("full - sparsek_window(k=3)")
    assert str(caught.value).splitlines()[4:] == [
        "in sparsek_window(k=3), called here:",
        " --> <spec>:1:8",
        "  | full - sparsek_window(k=3)",
        "  |        ^^^^^^^^^^^^^^^^^^^",
    ]


def test_mistakes_in_predicates_show_the_calls_too(tmp_path: Path) -> None:
    path = tmp_path / "my.attn"
    path.write_text("pattern tiers(size: int) = where(q // size >= k // size)", encoding="utf-8")
    with pytest.raises(attncomp.errors.DivisorError) as caught:
        attncomp.load(path).compile("full | tiers(size=0)")
    assert str(caught.value).splitlines()[4:] == [
        "in tiers(size=0), called here:",
        " --> <spec>:1:8",
        "  | full | tiers(size=0)",
        "  |        ^^^^^^^^^^^^^",
    ]


class TestCheck:
    """`check_examples`, on files of one's own."""

    def write(self, tmp_path: Path, text: str) -> attncomp.Library:
        path = tmp_path / "my.attn"
        path.write_text(text, encoding="utf-8")
        return attncomp.load(path)

    def test_report(self, tmp_path: Path) -> None:
        library = self.write(
            tmp_path,
            "pattern a(n: int) = window(n)\n"
            "example a(n=2) = '''\n #..\n ##.\n .## '''\n"
            "example a(\n  n=1) = '''\n #..\n ##.\n ..# '''\n"
            "example a(n=9) = '.##'\n",
        )
        where = tmp_path / "my.attn"
        assert check_examples(library) == (
            f"ok     {where}:2  a(n=2)\n"
            f"wrong  {where}:6  a( n=1)\n"
            "       expected  found\n"
            "       #..       #..\n"
            "       ##.       .#.  <\n"
            "       ..#       ..#\n"
            f"wrong  {where}:11  a(n=9)\n"
            "       expected  found\n"
            "       .##       ###  <\n",
            False,
        )

    def test_none(self, tmp_path: Path) -> None:
        library = self.write(tmp_path, "pattern a = full")
        assert check_examples(library) == (f"{library.path} has no examples\n", True)

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("", "scores: expected tensor [B, G, 3], found none"),
            (
                " given scores=[1, 2]",
                "scores: expected shape [B, G, 3] with G >= 1, found [1, 1, 2]",
            ),
            (" given scores=3", "scores: expected shape [B, G, 3] with G >= 1, found [1, 1, 1]"),
            (
                " given scores=[1, 2, 3], s=[1, 2, 3]",
                "s: expected a tensor named 'scores', found 's'",
            ),
        ],
    )
    def test_tensors_that_do_not_fit(self, tmp_path: Path, given: str, reason: str) -> None:
        library = self.write(tmp_path, f"pattern a = sparsek(1)\nexample a{given} = '#..'")
        with pytest.raises(attncomp.errors.ExampleError) as caught:
            check_examples(library)
        assert caught.value.message == (
            f"the example cannot be drawn: {reason} (pattern 'sparsek(k=1)')"
        )
        assert caught.value.span is not None and caught.value.span.line == 2

    def test_tensors_of_several_heads(self, tmp_path: Path) -> None:
        text = "pattern a = sparsek(1)\nexample a given scores=[[1, 2, 3], [1, 2, 3]] = '#..'"
        with pytest.raises(attncomp.errors.ExampleError) as caught:
            check_examples(self.write(tmp_path, text))
        assert caught.value.message == (
            "the example cannot be drawn: scores: expected shape [B, G, 3] with G dividing "
            "1 heads, found [1, 2, 3]"
        )

    def test_pictures_of_several_heads(self, tmp_path: Path) -> None:
        """An empty line stands between heads; groups of heads and tests of h have examples too."""
        text = HEADS.format(third="..#")
        library = self.write(tmp_path, text)
        assert [example.n_heads for example in library.examples] == [2, 1, 2]
        report, holds = check_examples(library)
        assert holds, report
        report, holds = check_examples(self.write(tmp_path, HEADS.format(third=".##")))
        assert not holds
        assert report.splitlines()[:9] == [
            f"wrong  {tmp_path / 'my.attn'}:2  a",
            "       expected  found",
            "       #..       #..",
            "       ##.       ##.",
            "       ###       ###",
            "",
            "       #..       #..",
            "       .#.       .#.",
            "       .##       ..#  <",
        ]

    def test_heads_of_different_sizes(self, tmp_path: Path) -> None:
        with pytest.raises(attncomp.errors.PictureError) as caught:
            self.write(tmp_path, "pattern a = full\nexample a = '''\n##\n##\n\n##\n'''")
        assert caught.value.message == (
            "wrong picture: expected 2 rows, as the first head has, found 1"
        )
        assert caught.value.span is not None and caught.value.span.line == 6
