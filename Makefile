# SPDX-License-Identifier: Apache-2.0
# Every target works alone on a fresh machine: the stamp stands for "the virtual environment fits pyproject.toml".

SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.pybcast-ready

.DEFAULT_GOAL := help
.PHONY: help setup test quick portability check lint types format coverage core sanitize bench wheel random starved long demo clean

# What says soon whether another Python or another system will do.
QUICK := tests/wire tests/keys tests/codec tests/flows tests/native tests/broadcast

# Floors 0-3: all that has no socket, clock or process. Totality and real video add no line, only time.
ELSEWHERE := backend broadcast captures demo https interaction interop outlets sdp servers store terminals
COVERED := errors secret messages jsontext wire keys _native codec flows
COVERAGE := $(COVERED:%=--cov=pybcast.%) --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

$(STAMP): pyproject.toml setup.py .ci/setup pybcast/_native/build.py pybcast/_native/helpers.h $(wildcard csrc/include/*.h csrc/src/*.[ch])
	@.ci/setup required venv media
	@touch $@

setup: $(STAMP) ## the virtual environment in .venv, and missing system packages

test: $(STAMP) ## all tests; PYTEST_ARGS="-k name" for some
	$(BIN)/python -m pytest $(PYTEST_ARGS)

quick: $(STAMP) ## the tests that need no server, no video and no other program
	$(BIN)/python -m pytest -m "not media" $(QUICK) $(PYTEST_ARGS)

portability: ## `make demo` and `make quick` in clean roots of Debian 12 and 13 (as root); SUITES="trixie"
	.ci/portability $(SUITES)

check: lint types core test ## what a change must pass before it is shown to anyone

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## mypy --strict over package, tests and benchmarks
	$(BIN)/mypy

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(STAMP) ## every line and branch of floors 0-3 is run by the tests, or says why not
	PYBCAST_CASES=2000 $(BIN)/python -m pytest -n auto -m "not media" --ignore tests/properties/test_totality.py $(ELSEWHERE:%=--ignore tests/%) $(COVERAGE) $(PYTEST_ARGS)

core: ## the C core by itself and its tests; CORE_TARGETS="asan"
	@.ci/setup core
	$(MAKE) -C csrc $(or $(CORE_TARGETS),check) $(CORE_ARGS)

# The extension is built aside, for a copy of the package; leaks are not looked for, the interpreter has its own.
sanitize: $(STAMP) ## the Python tests of the C core under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r pybcast csrc setup.py pyproject.toml README.md LICENSE tests build/sanitize && rm -f build/sanitize/pybcast/_native/*.so
	cd build/sanitize && PYBCAST_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd build/sanitize && LD_PRELOAD="$$($(or $(CC),cc) -print-file-name=libasan.so) $$($(or $(CC),cc) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=. PYTHONMALLOC=malloc \
	  $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider $(or $(SANITIZE_TESTS),tests/native tests/properties/test_differential.py tests/codec) $(PYTEST_ARGS)

bench: $(STAMP) ## throughput; BENCH_ARGS="--benchmark-json=out.json" keeps the numbers
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=median,iqr,ops,rounds $(BENCH_ARGS)

wheel: $(STAMP) ## sdist and manylinux wheel in build/wheel, tested where no header is to be seen; WHEEL_TESTS="tests/codec"
	.ci/wheel $(WHEEL_TESTS)

random: $(STAMP) ## property tests with random seeds; PYBCAST_EXAMPLES=5000 for each by default
	PYBCAST_LONG=1 PYBCAST_EXAMPLES=$(or $(PYBCAST_EXAMPLES),5000) $(BIN)/python -m pytest $(PYTEST_ARGS)

starved: $(STAMP) ## both servers beside busy processes, stopped for seconds, on a slow disk; two minutes of each
	PYBCAST_LONG=1 $(BIN)/python -m pytest -m starved $(PYTEST_ARGS)

long: random starved ## everything that takes hours: random seeds, 200 deaths of the servers, the core's two million messages, other processors, fuzzing, the wheel
	@.ci/setup portability
	$(MAKE) core CORE_TARGETS="long valgrind portability"
	$(MAKE) core CORE_TARGETS="fuzz" CORE_ARGS="SECONDS=$(or $(SECONDS_EACH),600)"
	$(MAKE) wheel WHEEL_TESTS="tests/native tests/wire tests/keys tests/codec"

demo: $(STAMP) ## two servers, two services, both profiles, from key messages to decoded pictures; DEMO_ARGS="--in-process"
	$(BIN)/pybcast demo $(DEMO_ARGS)

clean: ## what builds and tests leave behind (keeps .venv)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage htmlcov demo-out
	find pybcast tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
