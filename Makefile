# Two commands on a fresh machine: `make demo` and `make test`. Both need make and Python >= 3.11 with venv.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test check format soak conformance bench lock clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/$(if $(findstring --stack,$(ARGS)),stack,demo).stamp  ## a shop's changes, answered by an agent's tools  (ARGS="--port 8790 --for 20")
	@$(BIN)/headgate demo $(ARGS)

test: $(VENV)/dev.stamp  ## everything: checks, and tests on real services that it starts itself  (ARGS="-k redis")
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m tests.rings $(ARGS)

check: $(VENV)/dev.stamp  ## style, types and the house's walls
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/dev.stamp  ## lays the code out
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

soak: $(VENV)/dev.stamp  ## the long forms of tests, for hours  (ARGS="-k log_cut")
	@$(BIN)/python -m pytest -m soak $(ARGS)

conformance: $(VENV)/dev.stamp  ## the official MCP conformance suite, and what came of each of its parts
	@$(BIN)/python -m tests.conformance.suite

bench: $(VENV)/dev.stamp  ## the figures  (ARGS="--quick")
	@for script in $$(grep -l -e --quick bench/*.py); do echo "# $$script"; $(BIN)/python $$script $(ARGS) || exit 1; done

lock: $(VENV)/dev.stamp  ## new locks from pyproject.toml
	@requirements/lock

clean:  ## the environment and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# --- the environment ---

.PHONY: python
python:
	@command -v $(PYTHON) >/dev/null || { echo "Python is missing: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; this is $$($(PYTHON) -V): name another by  make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv"; exit 1; }

$(VENV)/bin/python: | python
	@echo "setting up $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/%.stamp: requirements/%.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing requirements/$*.txt …"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/$*.txt
	@$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --no-index -e .
	@$(BIN)/python -m compileall -q src/headgate  # as pip does of what it copies: with PYTHONDONTWRITEBYTECODE nobody else does
	@touch $@
