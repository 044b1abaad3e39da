"""The shape of the package: who may import whom, how long files and functions may be.

Each rule is a function of module name and source text that yields complaints; the rules are first
shown to complain about bad texts, then applied to the tree.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import attncomp

PACKAGE = Path(attncomp.__file__).parent
ROOT = Path(__file__).parent.parent

# A part may import itself and what stands before it; `attncomp/__init__.py` stands after all.
LAYERS = (
    "source",
    "errors",
    "knobs",
    "frontend",
    "patterns",
    "ir",
    "codegen",
    "runtime",
    "pictures",
    "api",
    "nn",
    "integrations",
    "inspection",
    "cli",
)
SOLE_IMPORTER = {
    "networkx": "attncomp.ir.graph",
    "lark": "attncomp.frontend.reader",
    "jinja2": "attncomp.codegen.emit",
}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
# Put together from halves, so that this file does not hold what it looks for.
UNFINISHED = re.compile("|".join(("NotImplemented" + "Error", "TO" + "DO", "FIX" + "ME")))

Rule = Callable[[str, str], Iterator[str]]


def imported_modules(module: str, source: str) -> Iterator[str]:
    """Dotted names of all that `source`, the text of `module`, imports, wherever it does so.

    `from a import b` gives `a.b`, as b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def layer(module: str) -> int:
    """Where a module of the package stands; the package's own `__init__` after everything."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] == "__init__":
        return len(LAYERS)
    # `from attncomp import x`: a name that is no layer comes from the package's `__init__`.
    return LAYERS.index(parts[1]) if parts[1] in LAYERS else len(LAYERS)


def upward_imports(module: str, source: str) -> Iterator[str]:
    for imported in imported_modules(module, source):
        if imported.split(".")[0] == "attncomp" and layer(imported) > layer(module):
            yield f"{module} imports {imported}, which stands after it"


def misplaced_imports(module: str, source: str) -> Iterator[str]:
    for imported in imported_modules(module, source):
        library = imported.split(".")[0]
        if library in SOLE_IMPORTER and module != SOLE_IMPORTER[library]:
            yield f"{module} imports {library}; only {SOLE_IMPORTER[library]} may"


def unknown_parts(module: str, source: str) -> Iterator[str]:
    parts = module.split(".")
    if parts[1:] and parts[1] not in ("__init__", *LAYERS):
        yield f"{module} is in none of {', '.join(LAYERS)}"


def long_file(module: str, source: str) -> Iterator[str]:
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        yield f"{module} has {lines} lines; at most {MAX_FILE_LINES}"


def long_functions(module: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{module}.{node.name} has {lines} lines; at most {MAX_FUNCTION_LINES}"


def unfinished(module: str, source: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), start=1):
        if match := UNFINISHED.search(line):
            yield f"{module}:{number} says {match[0]}"


MODULE_RULES: tuple[Rule, ...] = (
    upward_imports,
    misplaced_imports,
    unknown_parts,
    long_file,
    long_functions,
    unfinished,
)
TEMPLATE_RULES: tuple[Rule, ...] = (long_file, unfinished)


def module_name(path: Path) -> str:
    """`attncomp/ir/graph.py` is `attncomp.ir.graph`; a package is named with its `__init__`,

    so that relative imports resolve alike in both.
    """
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def complaints(rules: tuple[Rule, ...], module: str, source: str) -> list[str]:
    return [complaint for rule in rules for complaint in rule(module, source)]


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_module(path: Path) -> None:
    assert complaints(MODULE_RULES, module_name(path), path.read_text()) == []


def test_templates() -> None:
    found = [
        complaint
        for path in sorted(PACKAGE.rglob("*.jinja"))
        for complaint in complaints(
            TEMPLATE_RULES, path.relative_to(PACKAGE).as_posix(), path.read_text()
        )
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks", "docs"])
def test_other_python_is_short_and_finished(folder: str) -> None:
    rules = (long_file, long_functions, unfinished)
    found = [
        complaint
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "golden" not in path.parts
        for complaint in complaints(rules, path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert found == []


def test_each_library_has_its_importer() -> None:
    """The names in SOLE_IMPORTER are those of real modules, which do import the library."""
    for library, module in SOLE_IMPORTER.items():
        path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
        tops = {name.split(".")[0] for name in imported_modules(module, path.read_text())}
        assert library in tops, f"{module} does not import {library}"


def function_of(lines: int) -> str:
    return "def f():\n" + "    x = 1\n" * (lines - 1)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        (
            "attncomp.ir.graph",
            "from attncomp.codegen.plan import KernelPlan\n",
            "attncomp.ir.graph imports attncomp.codegen.plan.KernelPlan, which stands after it",
        ),
        (
            "attncomp.errors",
            "from attncomp import knobs\n",
            "attncomp.errors imports attncomp.knobs, which stands after it",
        ),
        (
            "attncomp.api",
            "from attncomp import compile\n",
            "attncomp.api imports attncomp.compile, which stands after it",
        ),
        (
            "attncomp.runtime.cache",
            "def f():\n    import attncomp\n",
            "attncomp.runtime.cache imports attncomp, which stands after it",
        ),
        (
            "attncomp.frontend.parser",
            "from ..ir import ops\n",
            "attncomp.frontend.parser imports attncomp.ir.ops, which stands after it",
        ),
        (
            "attncomp.frontend.__init__",
            "from ..ir.ops import Box\n",
            "attncomp.frontend.__init__ imports attncomp.ir.ops.Box, which stands after it",
        ),
        (
            "attncomp.ir.oracle",
            "import networkx as nx\n",
            "attncomp.ir.oracle imports networkx; only attncomp.ir.graph may",
        ),
        (
            "attncomp.frontend.specfile",
            "from lark.exceptions import LarkError\n",
            "attncomp.frontend.specfile imports lark; only attncomp.frontend.reader may",
        ),
        (
            "attncomp.codegen.lower",
            "import jinja2.ext\n",
            "attncomp.codegen.lower imports jinja2; only attncomp.codegen.emit may",
        ),
        (
            "attncomp.misc",
            "",
            "attncomp.misc is in none of source, errors, knobs, frontend, patterns, ir, codegen, "
            "runtime, pictures, api, nn, integrations, inspection, cli",
        ),
        ("attncomp.api", "\n" * 401, "attncomp.api has 401 lines; at most 400"),
        ("attncomp.api", function_of(51), "attncomp.api.f has 51 lines; at most 50"),
        (
            "attncomp.api",
            "\nraise NotImplemented" + "Error\n",
            "attncomp.api:2 says NotImplemented" + "Error",
        ),
        ("attncomp.api", "# TO" + "DO: later\n", "attncomp.api:1 says TO" + "DO"),
    ],
)
def test_rules_complain(module: str, source: str, expected: str) -> None:
    assert complaints(MODULE_RULES, module, source) == [expected]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("attncomp.ir.graph", "import networkx\nfrom attncomp.frontend.ast import Call\n"),
        ("attncomp.ir.build", "from .ops import Box\nfrom ..errors import Span\n"),
        ("attncomp.knobs", "from attncomp.errors import OptionError\n"),
        ("attncomp.__init__", "from attncomp.cli import main\nfrom .api import compile\n"),
        ("attncomp.cli", "from attncomp import api, knobs\n" + function_of(50)),
        ("attncomp.api", "\n" * 400),
    ],
)
def test_rules_accept(module: str, source: str) -> None:
    assert complaints(MODULE_RULES, module, source) == []
