# `make` lists what can be made. Everything runs in .venv, made from Python alone.
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
OUT ?= runs/demo
RUN ?=
NAME ?=

.DEFAULT_GOAL := help
.PHONY: help install demo docs weights test test-slow web test-web lint format clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch comes first and by its exact version: the pinned number is what selects a CPU build.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: .venv/installed ## make .venv with pinned versions

demo: .venv/installed ## train, evaluate and segment in minutes (DATA=folder: on a real dataset)
	$(BIN)/egeunet demo --out $(OUT) $(if $(DATA),--data $(DATA))

docs: .venv/installed ## write the generated tables and figures of README and docs anew
	$(BIN)/python docs/generate.py

weights: .venv/installed ## make shipped weights of a run, with their card (RUN=folder NAME=isic2018)
	$(BIN)/python docs/weights.py $(RUN) $(NAME)

# One process per core, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

test: .venv/installed ## run the tests that take minutes at most
	$(PYTEST)

test-slow: .venv/installed ## run the long checks too
	$(PYTEST) -m "slow or not slow"

# Node comes from a wheel, so that the page too is built in .venv with a pinned version.
.venv/web: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[web]'
	touch $@

NPM := PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix web

web: .venv/web ## build the page into the package, for `egeunet serve` and wheels
	$(BIN)/python web/assets.py
	$(NPM) ci --no-audit --no-fund
	$(NPM) run build

test-web: web ## build the page and test it in Chromium (apt-get install chromium)
	$(BIN)/pytest web/tests

lint: .venv/installed ## check style and types, Dockerfile and compose.yaml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	test ! -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile # there is none for some machines
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

format: .venv/installed ## rewrite the files in the common style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; runs stay
	rm -rf web/node_modules web/generated src/egeunet/serve/page .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
