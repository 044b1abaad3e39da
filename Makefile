# `make demo`, `make test` and `make docs` work on a fresh checkout: each first sets up .venv, once.
# PYTHON picks the interpreter; TORCH and TRITON are what is installed of these: the Triton that builds
# of that torch for GPUs require (`make test TORCH=torch==2.11.0 TRITON=triton==3.6.0`).

PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo test test-gpu docs lint format wheel clean

help:
	@echo "make demo     train a tiny language model with sparse attention on the CPU"
	@echo "make test     the whole CPU suite, coverage at least 90 per cent"
	@echo "make test-gpu the tests that need a GPU"
	@echo "make docs     build the site of docs/ into site/"
	@echo "make lint     ruff check, ruff format --check, mypy"
	@echo "make format   ruff format and import order"
	@echo "make wheel    build dist/*.whl"
	@echo "make clean    remove build products and caches; .venv stays"

# torch first, by itself: pip then takes the build this machine is set up for and keeps it.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -m pip install "$(TRITON); sys_platform == 'linux'" -e ".[dev,plots]"
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/train_lm.py

# One thread a worker: the workers already fill the cores. A worker that is done takes from the other.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile=ci \
		--cov=attncomp --cov-report=term --cov-fail-under=90

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu

# The variable silences a notice of the theme that is not about these pages.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

wheel: $(STAMP)
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf build dist site *.egg-info .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +
