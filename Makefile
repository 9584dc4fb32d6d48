# The README's two commands are `make demo` and `make test`; everything runs in .venv, made here.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg
JOBS ?= 2

.PHONY: help install dev demo lint types test test-all tables docs bench clean

help:
	@echo "make install   the environment alone (.venv)"
	@echo "make demo      learn, certify, attack, report: about four minutes"
	@echo "make test      lint, types, imports, tests, docs, tables"
	@echo "make test-all  the same with the slow tests"
	@echo "make bench     speed against other libraries, each in its own environment"
	@echo "make docs      the documentation, into site/"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "surefoot needs Python 3.11 or newer: set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,onnx]"
	@touch $@

install: .venv/installed

dev: .venv/installed-dev

demo: install
	$(BIN)/surefoot demo $(ARGS)

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: dev
	$(BIN)/mypy

test: lint types
	$(BIN)/pytest -n $(JOBS)
	$(MAKE) docs

test-all: lint types
	$(BIN)/pytest -n $(JOBS) -m "slow or not slow"
	$(MAKE) docs

tables: dev
	$(BIN)/python -m surefoot.claims.tables --write

docs: dev
	$(BIN)/python -m surefoot.claims.tables --check
	$(BIN)/mkdocs build --strict --quiet

.venv-peers/installed: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	@touch $@

CLEANRL := https://raw.githubusercontent.com/vwxyzjn/cleanrl/fe8d8a03c41a7ef5b523e2e354bd01c363e786bb/cleanrl
.venv-peers/cleanrl/installed: .venv-peers/installed
	mkdir -p $(@D) && cd $(@D) && curl -fsSLO $(CLEANRL)/ppo.py && curl -fsSLO $(CLEANRL)/ppo_continuous_action.py
	@touch $@

bench: dev .venv-peers/installed .venv-peers/cleanrl/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks --peer-python .venv-peers/bin/python

clean:
	rm -rf .venv .venv-peers site .pytest_cache .mypy_cache .ruff_cache
