# SPDX-License-Identifier: Apache-2.0
# Every target works alone on a fresh machine: the stamp stands for "the virtual environment fits pyproject.toml".

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.pybcast-ready

.DEFAULT_GOAL := help
.PHONY: help setup test check lint types format bench long demo clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

$(STAMP): pyproject.toml setup.py .ci/setup
	@.ci/setup required venv
	@touch $@

setup: $(STAMP) ## the virtual environment in .venv, and missing system packages

test: $(STAMP) ## all tests; PYTEST_ARGS="-k name" for some
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint types test ## what a change must pass before it is shown to anyone

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict over package, tests and benchmarks
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## throughput; BENCH_ARGS="--benchmark-json=out.json" keeps the numbers
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=median,iqr,ops,rounds $(BENCH_ARGS)

long: $(STAMP) ## property tests with random seeds; PYBCAST_EXAMPLES=5000 for each by default
	PYBCAST_LONG=1 PYBCAST_EXAMPLES=$(or $(PYBCAST_EXAMPLES),5000) $(BIN)/python -m pytest $(PYTEST_ARGS)

demo: $(STAMP) ## one service, both profiles, from key to decrypted picture; DEMO_ARGS="--seconds 5"
	$(BIN)/pybcast demo $(DEMO_ARGS)

clean: ## what builds and tests leave behind (keeps .venv)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage htmlcov demo-out
	find pybcast tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
