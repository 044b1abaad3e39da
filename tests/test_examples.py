"""The training script, run as users run it, for a few steps; and what decides its tasks."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

import attncomp

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "train_lm.py"


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "PYTHONUTF8": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part
    )
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A module of examples/, imported as the script imports it."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module(request.param)


def test_language_model(tmp_path: Path) -> None:
    small = ("--steps", 3, "--context", 64, "--batch", 2, "--pattern", "sparsek(8, 8) | window(8)")
    done = run_script(*small, "--dense", "--seed", 7, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for expected in ("Held-out files", "window: window(16)", "dense: causal", "nats/byte"):
        assert expected in done.stdout
    for name in ("loss.png", "selection.png"):
        assert (tmp_path / "out" / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert f"wrote {tmp_path / 'out' / name}" in done.stdout
    report = json.loads((tmp_path / "out" / "losses.json").read_text(encoding="utf-8"))
    assert report["settings"]["command"] == (
        "python examples/train_lm.py --pattern 'sparsek(8, 8) | window(8)' "
        "--context 64 --batch 2 --steps 3 --dense --seed 7"
    )
    assert [(run["name"], run["pattern"]) for run in report["runs"]] == [
        ("pattern", "sparsek(8, 8) | window(8)"),
        ("window", "window(16)"),
        ("dense", "causal"),
    ]
    for run in report["runs"]:
        assert f"{run['nats_per_byte']:.4f}" in done.stdout
        tokens = run["tokens_per_second"] * run["seconds"]
        assert tokens == pytest.approx(3 * 2 * 64)
    text = (tmp_path / "out" / "sample.txt").read_text(encoding="utf-8")
    assert text.startswith("def main(")
    assert len(text) == len("def main(") + 240


def test_recall(tmp_path: Path) -> None:
    small = ("--steps", 2, "--context", 128, "--batch", 1, "--pattern", "sparsek(8, 8) | window(8)")
    done = run_script("--task", "recall", *small, "--pairs", 2, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Recall of 2 facts from 128 tokens" in done.stdout
    assert 'frozen scorer: sparsek(k=8, lag=8, gate="hard") | window(8)' in done.stdout
    assert (tmp_path / "recall_loss.png").exists()
    assert f"wrote {tmp_path / 'recall.json'}" in done.stdout
    report = json.loads((tmp_path / "recall.json").read_text(encoding="utf-8"))
    assert report["environment"] == {
        "device": f"{platform.machine()} CPU, 1 thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "attncomp": attncomp.__version__,
    }
    settings = report["settings"]
    assert (settings["task"], settings["seed"], settings["pairs"]) == ("recall", 0, 2)
    assert (settings["steps"], settings["batch"], settings["context"]) == (2, 1, 128)
    assert [run["name"] for run in report["runs"]] == ["pattern", "window", "frozen scorer"]
    for run in report["runs"]:
        assert f"{run['recalled']:.1%}" in done.stdout


@pytest.mark.parametrize("module", ["train_lm"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "2"], "--pairs is for --task recall"),
        (["--pattern", "windw(8)"], "unknown pattern 'windw'"),
        (
            ["--pattern", "window(4) - window(4)"],
            "--pattern: expected keys to attend to, found none for the last of 512 queries under "
            "'window(4) - window(4)'",
        ),
        (
            ["--task", "recall", "--context", "64", "--pattern", "first(4) & window(8)"],
            "--pattern: expected keys to attend to, found none for the last of 64 queries under "
            "'first(4) & window(8)'",
        ),
        (["--task", "recall", "--context", "201"], "context: expected a multiple of 4, found 201"),
        (
            ["--task", "recall", "--context", "64", "--pairs", "20"],
            "context: 64 tokens leave 0 slots that are more than 66 tokens before the questions, ",
        ),
    ],
)
def test_mistakes(module: ModuleType, arguments: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(module.main, [*arguments, "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert message in done.output
    assert isinstance(done.exception, SystemExit)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["train_lm"], indirect=True)
@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("sparsek(8, lag=8) | window(8)", 16),
        ('sparsek(8, gate="logit") | window(4)', 8),
        ("first(4) | window(64)", 68),
        ("causal", 100),
    ],
)
def test_attended(module: ModuleType, pattern: str, keys: int) -> None:
    assert module.attended(pattern, 100) == keys


@pytest.mark.parametrize("module", ["lm_training"], indirect=True)
def test_same_seed_same_losses(module: ModuleType, seed: int) -> None:
    import lm_data
    import lm_model
    from rich.console import Console

    size = lm_model.ModelSize(vocabulary=64, dim=32, layers=1, heads=2, kv_heads=1)
    task = lm_data.Recall(context=128, pairs=1, reach=32)

    def losses(of_seed: int) -> list[float]:
        torch.manual_seed(of_seed)
        model = lm_model.LanguageModel(size, "sparsek(8, lag=8) | window(8)")
        run = module.Run(name="run", pattern="", model=model)
        batches = task.batches(2, of_seed, "cpu")
        module.train(run, lambda _: next(batches), 3, 1e-3, Console(quiet=True))
        assert run.tokens == 3 * 2 * 128
        return run.losses

    assert losses(seed) == losses(seed)
    assert losses(seed) != losses(seed + 1)


@pytest.mark.parametrize("module", ["lm_data"], indirect=True)
@pytest.mark.parametrize("pairs", [1, 5])
def test_recall_sequences(module: ModuleType, pairs: int, seed: int) -> None:
    """Every target is the value of the fact that was asked for, and stands behind that fact."""
    task = module.Recall(context=256, pairs=pairs, reach=64)
    tokens, targets = next(task.batches(8, seed, "cpu"))
    assert tokens.shape == targets.shape == (8, 256)
    for row, wanted in zip(tokens.tolist(), targets.tolist(), strict=True):
        facts = [i for i, token in enumerate(row) if token == task.marker]
        values = {row[i + 1]: (i + 2, row[i + 2]) for i in facts}
        assert len(facts) == len(values) == pairs
        asked = [i for i, target in enumerate(wanted) if target != module.IGNORED]
        assert asked == [i + 1 for i, token in enumerate(row) if token == task.ask]
        for i in asked:
            place, value = values[row[i]]
            assert place < i
            assert wanted[i] == value
        judged = [i for i in asked if i >= 256 - task.judged]
        assert {row[i] for i in judged} == set(values)
        assert all(i - values[row[i]][0] > task.reach for i in judged)


@pytest.mark.parametrize("module", ["lm_recall"], indirect=True)
def test_recall_stages(module: ModuleType) -> None:
    task = module.Recall(context=512, pairs=1, reach=160)
    stages = module.stages(task, 100)
    assert [(stage.context, stage.reach) for _, stage in stages] == [
        (64, 16), (128, 32), (256, 64), (512, 160),
    ]  # fmt: skip
    assert stages[0][0] == 0
    assert stages[-1][1] == task
    starts = [start for start, _ in stages]
    assert starts == sorted(set(starts))


@pytest.mark.parametrize("module", ["lm_recall"], indirect=True)
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("sparsek(8) | window(8)", 'sparsek(k=8, gate="hard") | window(8)'),
        ('sparsek(k=8, gate="value", lag=2)', 'sparsek(k=8, lag=2, gate="hard")'),
        ('window(8) | sparsek(8, 4, "logit")', 'window(8) | sparsek(k=8, lag=4, gate="hard")'),
    ],
)
def test_hard(module: ModuleType, pattern: str, expected: str) -> None:
    assert module.hard(pattern) == expected


@pytest.mark.parametrize("module", ["lm_data"], indirect=True)
def test_corpus_is_split_by_file(module: ModuleType) -> None:
    corpus = module.Corpus.standard_library()
    training, held_out = corpus.files
    assert 0.02 < held_out / (training + held_out) < 0.1
    assert int((corpus.training == 0).sum()) >= training
    (first, target), *_ = corpus.held_out(2, 32, 1, "cpu")
    assert torch.equal(first[0, 1:], target[0, :-1])
    assert torch.equal(first[0], corpus.validation[:32].long())
    one, other = (next(corpus.batches(3, 16, seed=5, device="cpu")) for _ in range(2))
    assert torch.equal(one[0], other[0])
