# One obvious command for each thing. `make demo` and `make test` install what they need, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Where administration tools live on Debian, whoever is asking.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help demo test search field lint types format bench prove site dist lock clean set-up

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: set-up  ## lose a client's address and keep it, with real packets, in a minute
	@$(BIN)/probe demo

test: set-up lint types  ## lint, strict types, and the whole suite
	@.ci/system-tools test
	$(BIN)/pytest -n auto

search: set-up  ## try the tests of properties with examples that nobody tried before
	$(BIN)/pytest -n auto --hypothesis-profile=searching -m "not lab" $$(grep -rl --include='test_*.py' 'hypothesis' tests)

field: set-up  ## only the captures that tcpdump makes in the lab, in every direction
	$(BIN)/pytest -n auto tests/field

lint: set-up  ## ruff, both as linter and for format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: set-up  ## mypy, strict
	$(BIN)/mypy

format: set-up  ## bring the code into the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: set-up  ## measure, each time beside a peer in the same run
	$(BIN)/python -m bench

ROWS ?=
prove: set-up  ## try what must never happen, many times; LONG=1 for hours of it, ROWS=soak for part of it
	$(BIN)/python -m prove $(ROWS) $(if $(LONG),--long)

site: set-up  ## docs/ as a site that needs no network, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open build/site/index.html; for its search: $(PYTHON) -m http.server -d build/site"

DIST ?= dist
dist: set-up  ## the wheel, bills of materials and their digests, in DIST, a new folder (dist)
	@$(BIN)/python packaging/release.py $(ARGUMENTS) $(DIST)

lock:  ## write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--python-version 3.11 --all-extras --group dev pyproject.toml -o requirements.lock

clean:  ## remove the environment and everything generated
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

set-up: $(INSTALLED)
	@.ci/system-tools run

$(INSTALLED): requirements.lock pyproject.toml
	@PYTHON="$(PYTHON)" .ci/system-tools python
	@echo "installing the Python environment into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: docs
docs: set-up  ## bring outputs and generated parts of the documentation up to date
	@$(BIN)/python docs/generate.py
