# `make` lists the targets. Everything runs in .venv, which needs Python alone.
PYTHON ?= python3
BIN := .venv/bin
DATA ?=
OUT ?= runs/demo
RUN ?=
NAME ?=

.DEFAULT_GOAL := help
.PHONY: help install demo docs docs-site weights test test-slow web test-web lint format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch comes first and by its exact version: the pinned number is what selects a CPU build.
.venv/installed: pyproject.toml constraints.txt hatch_build.py $(wildcard src/egeunet/engine/*.[chi]*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: .venv/installed ## create .venv with pinned versions

demo: .venv/installed ## train, evaluate and segment in minutes (DATA=folder for a real dataset)
	$(BIN)/egeunet demo --output $(OUT) $(if $(DATA),--data $(DATA))

docs: .venv/installed ## regenerate tables, figures and reference pages
	$(BIN)/python -m research docs
	$(BIN)/python docs/reference.py

docs-site: .venv/installed ## build the docs site in build/site and check its links
	@test -x $(BIN)/zensical || echo "SKIPPED: the docs site needs Python 3.11 or newer."
	test ! -x $(BIN)/zensical || $(BIN)/zensical build --clean --strict

weights: .venv/installed ## turn a run into shipped weights with a card (RUN=folder NAME=isic2018)
	$(BIN)/python -m research card $(RUN) $(NAME)

# One process per core, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

test: .venv/installed ## run the tests
	$(PYTEST)

test-slow: .venv/installed ## run the slow tests too
	$(PYTEST) -m "slow or not slow"

# Node comes from a wheel, so that the page is built with a pinned version too.
.venv/web: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[web]'
	touch $@

NPM := PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix web

web: .venv/web ## build the browser page into the package
	$(BIN)/python web/assets.py
	$(NPM) ci --no-audit --no-fund
	$(NPM) run build

test-web: web ## build and test the browser page (needs chromium)
	$(BIN)/pytest web/tests

lint: .venv/installed ## check style, types, Dockerfile and compose.yaml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	test ! -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile # no wheel on some platforms
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml

format: .venv/installed ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, build output and caches; keep runs
	rm -rf web/node_modules web/generated src/egeunet/serve/page build .cache .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
