"""The site that `make docs` builds: complete, without dead links, and fetching nothing."""

from __future__ import annotations

import html.parser
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.exceptions import PluginError
from page_support import ROOT, blocks, read

from attncomp import load
from attncomp.errors import UnknownPatternError
from attncomp.frontend.formatter import format_text
from attncomp.frontend.library import shipped
from attncomp.frontend.modifiers import MODIFIERS
from attncomp.frontend.parser import parse
from attncomp.frontend.primitives import PRIMITIVES
from attncomp.inspection.catalogue import catalogue_sections
from attncomp.inspection.section import Section
from attncomp.inspection.specs import check_examples
from attncomp.pictures.request import pictured

PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
FETCHING = {("img", "src"), ("script", "src"), ("source", "src"), ("iframe", "src")}


class Page(html.parser.HTMLParser):
    """Ids, links and everything that a browser fetches of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(values["href"])
        self.fetched += [values[name] for name in values if (tag, name) in FETCHING]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in site.glob("*.html")}


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_built_and_linked(site: Path, pages: dict[str, Page]) -> None:
    assert set(pages) == {*(f"{page}.html" for page in PAGES), "404.html"}
    home = {unquote(urlsplit(link).path) for link in pages["index.html"].links}
    assert {f"{page}.html" for page in PAGES if page != "index"} <= home
    assert not [path for path in site.rglob("*") if path.suffix in (".py", ".md")]


def test_links_and_anchors_resolve(site: Path, pages: dict[str, Page]) -> None:
    dead = []
    for name, page in pages.items():
        # Links of the page for what is not found start at the root of the server.
        for link in [] if name == "404.html" else [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = unquote(parts.path) or name
            target = site / path / "index.html" if path in (".", "./") else site / path
            known = pages[target.name].ids if target.name in pages else set()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in known):
                dead.append(f"{name}: {link}")
    assert dead == []


def test_readers_fetch_nothing_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    fetched = [link for page in pages.values() for link in page.fetched]
    assert fetched and not [link for link in fetched if urlsplit(link).netloc]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\(\W?(?:https?:)?//", styles)


def test_the_reference_has_everything(site: Path, pages: dict[str, Page]) -> None:
    """Every primitive and shipped pattern with its parameters, costs and a picture."""
    text = (site / "language.html").read_text(encoding="utf-8")
    drawn = {s.file.removesuffix(".txt") for s in catalogue_sections(None) if s.picture is not None}
    assert {"window", "sparsek", "longformer"} <= drawn
    for name in (*PRIMITIVES, *shipped()):
        row = PRIMITIVES.get(name) or shipped().definition(name)
        anchor = name.replace("_", "-")
        assert anchor in pages["language.html"].ids
        section = text.split(f'<h3 id="{anchor}">', 1)[1].split("<h3 ", 1)[0]
        assert f"<code>{escaped(row.signature)}</code>" in section
        for parameter in row.parameters:
            assert f"<td><code>{parameter.name}</code></td>" in section
            assert escaped(parameter.doc) in section
        assert "<td>keys visited</td>" in section and "<td>tensors of the call</td>" in section
        assert (f'src="pictures/{name}.svg"' in section) is (name in drawn)
        assert name not in drawn or (site / "pictures" / f"{name}.svg").stat().st_size


def test_the_reference_explains_modifiers_and_forms(site: Path) -> None:
    text = (site / "language.html").read_text(encoding="utf-8")
    for name, row in MODIFIERS.items():
        section = text.split(f'<h3 id="{name}">', 1)[1].split("<h3 ", 1)[0]
        assert escaped(row.doc.split("(arXiv")[0].split(", arXiv")[0]) in section
        assert all(escaped(parameter.doc) in section for parameter in row.parameters)
    for form in ("where(predicate)", "heads{slice -&gt; pattern, ...}"):
        section = text.rsplit(f"<code>{form}</code>", 1)[1].split("<h3 ", 1)[0]
        assert "half-open slices" in section or "comparisons of integers" in section


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_no_marker_is_left(site: Path) -> None:
    for path in site.glob("*.html"):
        assert not re.findall(r"<!-- (?:catalogue|picture|output|begin|when)", path.read_text())


def test_figures_are_those_of_the_results_files(site: Path) -> None:
    text = (site / "performance.html").read_text(encoding="utf-8")
    for row in json.loads(read("benchmarks/results/h200.json"))["rows"]:
        assert f"<code>{escaped(row['case'])}</code>" in text
    for name in ("cpu_language", "cpu_recall", "h200_recall"):
        command = json.loads(read(f"benchmarks/results/{name}.json"))["settings"]["command"]
        assert f"<code>{escaped(command)}</code>" in text
    assert not re.findall(r"\d+(?:\.\d+)? ?(?:ms|x)\b", read("docs/performance.md"))


@pytest.mark.parametrize("page", PAGES)
def test_attn_blocks_hold(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are formatted and load, with examples that are right unless they are to be wrong;
    what has no title is one pattern."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(f"docs/{page}.md", "attn"):
        if not block.title:
            parse(block.text)
            continue
        path = Path(block.title)
        path.write_text(block.text, encoding="utf-8")
        assert format_text(block.text, block.title) == block.text
        assert check_examples(load(path))[1] is (block.title != "wrong.attn")


class TestMarkers:
    """What the comments on a page become."""

    def filled(self, hooks: ModuleType, text: str) -> str:
        return str(hooks.filled(text, lambda name, picture: f"[{picture.caption}]"))

    def test_a_picture(self, hooks: ModuleType) -> None:
        text = "a\n\n<!-- picture window(9) | first(2) -->\n\nb <!-- picture x -->\n"
        assert self.filled(hooks, text) == (
            "a\n\n[gate of window(9) | first(2): 18 queries (down) by 18 keys (right)]\n\n"
            "b <!-- picture x -->\n"
        )
        with pytest.raises(UnknownPatternError):
            self.filled(hooks, "<!-- picture windw(9) -->")

    def test_output(self, hooks: ModuleType) -> None:
        command = "attncomp-inspect 'first(4) | window(64)' --emit ast"
        shown = "Union\n  Call first count=4\n  Call window size=64\n"
        assert self.filled(hooks, f'<!-- output "{command}" -->') == (
            f"```console\n$ {command}\n{shown}```\n"
        )
        assert self.filled(hooks, f'<!-- output "{command}" "first" "first" -->') == (
            "```python\nCall first count=4\n```\n"
        )

    @pytest.mark.parametrize(
        ("marker", "message"),
        [
            ("pictur x", "expected one of catalogue, picture, output or begin, found '<!-- pictur"),
            ('output "attncomp-inspect windw"', "failed: error: unknown pattern 'windw'"),
            ('output "rm x"', "'rm x' is no command of attncomp-inspect"),
            (
                'output "attncomp-inspect causal --emit ast" "causal" "window"',
                "no lines from 'causal' to 'window' in the output of",
            ),
            ('output "attncomp-inspect causal" "window" "causal"', "no lines from 'window'"),
        ],
    )
    def test_mistakes(self, hooks: ModuleType, marker: str, message: str) -> None:
        with pytest.raises(PluginError, match=re.escape(message)):
            self.filled(hooks, f"<!-- {marker} -->")

    def test_what_waits_for_a_file(self, hooks: ModuleType) -> None:
        text = "a\n<!-- when {} -->\nb <!-- end when -->\n\nc\n<!-- end when -->\nd\n"
        assert self.filled(hooks, text.format("benchmarks/results/none.json")) == "a\nd\n"
        there = "benchmarks/results/h200.json"
        assert self.filled(hooks, text.format(there)) == "a\nb <!-- end when -->\n\nc\nd\n"

    def test_what_is_no_pattern_is_shown_as_the_catalogue_has_it(self, hooks: ModuleType) -> None:
        picture = pictured(parse("window(2)"), 4)
        section = Section(
            title="softly(x)", lead="Doc.\n  x: int\n", text="#", file="softly.txt", picture=picture
        )
        assert hooks._other(section, lambda name, picture: f"[{name}]") == (
            "### `softly(x)`\n\n```text\nDoc.\n  x: int\n```\n\n[softly]"
        )
