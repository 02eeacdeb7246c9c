# demo: train and compare three models on generated videos     test: all tests     test-quick: those of seconds
# install: .venv with the packages and what they need, which is all that demo takes; the others add the developers' tools
# lint: style, types, import arrows, spelling     format: format the code     hooks: have git check each commit
# bench: all benchmarks     bench-report: their page, docs/bench/index.html     gate: is anything slower than it was?
# mutants: which faults the tests do not see
# Every target sets up .venv first when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
# Python compiles what it imports and keeps that; all that is installed would take a minute more.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt
PACKAGES := corr-ops video-data corrnet-models corrnet-train
DEV_TOOLS := build codespell hatchling import-linter mypy pre-commit pytest-benchmark pytest-xdist ruff transformers types-PyYAML uv
SOURCES := packages bench tests tools conftest.py hubconf.py
SPELLED := packages bench docs examples tests tools README.md CONTRIBUTING.md

.PHONY: demo install test test-quick lint format hooks bench bench-report gate mutants

install: .venv/installed

# Threads that wait must not spin: on few cores the loader's process and other programs need them.
demo: .venv/installed
	OMP_WAIT_POLICY=passive $(BIN)/corrnet demo

test: .venv/developer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test-quick: .venv/developer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

lint: .venv/developer
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(PACKAGES:%=packages/%/src)
	$(BIN)/lint-imports
	$(BIN)/codespell -D - -D .codespell.txt $(SPELLED)

format: .venv/developer
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

hooks: .venv/developer
	$(BIN)/pre-commit install

bench: .venv/developer
	$(BIN)/python -m pytest --benchmark bench

gate: .venv/developer
	$(BIN)/python -m pytest --benchmark

bench-report: .venv/developer
	$(BIN)/python -m bench.report

mutants: .venv/developer
	$(PIP_INSTALL) mutmut
	$(BIN)/python tools/mutants.py

.venv/installed: constraints.txt Makefile $(PACKAGES:%=packages/%/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, found {sys.version.split()[0]}; choose one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@echo 'Installing the packages and what they need, PyTorch above all, into .venv: minutes, once.'
	$(PIP_INSTALL) $(PACKAGES:%=-e packages/%)
	touch $@

# By their names: the packages are there, and their kernels need not be compiled again.
.venv/developer: .venv/installed
	@echo 'Installing the tools of tests, linters and benchmarks into .venv.'
	$(PIP_INSTALL) $(DEV_TOOLS) $(PACKAGES:%='%[test]')
	touch $@
