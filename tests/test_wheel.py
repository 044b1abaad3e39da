"""The wheel holds everything the package needs, and works where no checkout is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = """
import pathlib
import torch
import attncomp

assert pathlib.Path(attncomp.__file__).is_relative_to({site!r}), attncomp.__file__
query, key, value = (torch.randn(1, heads, 16, 16) for heads in (4, 2, 2))
scores = torch.randn(1, 2, 16)
out = attncomp.compile("sparsek(k=4) | window(4)")(query, key, value, scores=scores)
assert out.shape == (1, 4, 16, 16), out.shape
assert out.isfinite().all()
# The first query sees one key, ungated: its output is that key's value.
torch.testing.assert_close(out[:, :, 0], value[:, :, 0].repeat_interleave(2, dim=1))
shipped = attncomp.compile("longformer(w=4, g=1)")
assert str(shipped) == "window(4) | first(1)"
print("works")
"""


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the installed wheel and nothing else."""
    dist, site = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist)]
    run([*build, str(ROOT)])
    (wheel,) = dist.glob("attncomp-*-py3-none-any.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site)]
    run([*pip, str(wheel)])
    return site


def test_every_data_file_is_installed(site: Path) -> None:
    package = ROOT / "attncomp"
    suffixes = {".py", ".jinja", ".lark"}
    expected = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.suffix in suffixes or path.name == "py.typed"
    } | {path.relative_to(ROOT).as_posix() for path in (ROOT / "specs").rglob("*.attn")}
    installed = {
        path.relative_to(site / "attncomp").as_posix()
        for path in (site / "attncomp").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert installed == expected
    endings = {Path(name).suffix for name in installed}
    assert endings >= {".attn", ".jinja", ".lark", ".py", ".typed"}


def test_nothing_else_is_installed(site: Path) -> None:
    tops = {path.name for path in site.iterdir()}
    assert "attncomp" in tops
    assert {name for name in tops if not name.startswith("attncomp")} <= {"bin"}


def test_the_installed_package_computes(site: Path, tmp_path: Path) -> None:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(site),
        "ATTNCOMP_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    program = PROGRAM.format(site=str(site))
    out = run([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    assert out == "works\n"
    assert list((tmp_path / "cache").rglob("*.py")), "nothing was cached"
