# demo: train and compare three models on generated videos     test: all tests     test-quick: those of seconds
# install: .venv with the packages and the tools of all targets
# lint: style, types, import arrows, spelling     format: format the code     hooks: have git check each commit
# bench: all benchmarks     bench-report: their page, docs/bench/index.html     gate: is anything slower than it was?
# mutants: which faults the tests do not see
# Each target sets up .venv first when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := corr-ops video-data corrnet-models corrnet-train
DEV_TOOLS := build codespell hatchling import-linter mypy pre-commit pytest-benchmark pytest-xdist ruff transformers types-PyYAML uv
SOURCES := packages bench tests tools conftest.py hubconf.py
SPELLED := packages bench docs examples tests tools README.md CONTRIBUTING.md

.PHONY: demo install test test-quick lint format hooks bench bench-report gate mutants

install: .venv/installed

# Threads that wait must not spin: on few cores the loader's process and other programs need them.
demo: .venv/installed
	OMP_WAIT_POLICY=passive $(BIN)/corrnet demo

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

test-quick: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(PACKAGES:%=packages/%/src)
	$(BIN)/lint-imports
	$(BIN)/codespell -D - -D .codespell.txt $(SPELLED)

format: .venv/installed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

hooks: .venv/installed
	$(BIN)/pre-commit install

bench: .venv/installed
	$(BIN)/python -m pytest --benchmark bench

gate: .venv/installed
	$(BIN)/python -m pytest --benchmark

bench-report: .venv/installed
	$(BIN)/python -m bench.report

mutants: .venv/installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt mutmut
	$(BIN)/python tools/mutants.py

.venv/installed: constraints.txt Makefile $(PACKAGES:%=packages/%/pyproject.toml)
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, found {sys.version.split()[0]}; choose one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt $(DEV_TOOLS) $(PACKAGES:%=-e 'packages/%[test]')
	touch $@
