"""Options, fixtures and hypothesis profiles shared by the whole suite."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch.utils import deterministic

# No deadline: the first example of a test may compile or render. `make test` runs the profile ci.
settings.register_profile("dev", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=30, print_blob=True)
settings.load_profile("dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files instead of comparing"
    )
    parser.addoption(
        "--seed",
        type=int,
        default=None,
        help="seed of the random inputs; fresh in each test if absent",
    )
    parser.addoption(
        "--targets",
        choices=("drawn", "all"),
        default="drawn",
        help="compile each shipped pattern for one GPU, drawn anew in each run, or for all",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed; a failing test's report shows how to run it again with the same one."""
    chosen = request.config.getoption("--seed")
    value = random.SystemRandom().randrange(2**32) if chosen is None else chosen
    print(f"reproduce with --seed={value}")
    return value


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    """A CPU generator of fresh random inputs."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the suite out of the user's cache: one directory a test process."""
    directory = tmp_path_factory.mktemp("attncomp-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNCOMP_CACHE_DIR", str(directory))
        yield directory


@pytest.fixture
def poison() -> Iterator[None]:
    """Memory that nobody has written holds NaN, or the largest integer."""
    filled = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = True
    yield
    deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)
