# Every target works from a fresh clone with python3 (3.11 or newer) and make. The first one that
# needs it installs the pinned versions of requirements.lock into .venv, once.
SHELL := /bin/sh
PYTHON ?= python3
# Worker processes of the test suite. Each loads its own models on one thread.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.lock)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo demo-quick demo-full test test-slow check test-inspect test-hooked figures gallery bench peers lint docs train clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## install into .venv (every other target does so by itself)

demo: $(STAMP) ## the whole protocol on the bundled model, into runs/demo
	$(BIN)/interp-steer demo

demo-quick: $(STAMP) ## the same in under a minute, into runs/demo-quick
	$(BIN)/interp-steer demo --quick

demo-full: $(STAMP) ## the paper's whole grid on the bundled model
	$(BIN)/interp-steer demo-full

test: $(STAMP) ## the default test suite, under five minutes on two cores
	@$(PYTEST) -m "not slow"

test-slow: $(STAMP) ## the tests that are left to CI
	@$(PYTEST) -m slow

test-inspect: $(VENV)/inspect/.installed ## the tests of the extra inspect, with Inspect laid over .venv
	@PYTHONPATH=$(CURDIR)/$(VENV)/inspect OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_inspect.py

# Inspect wants older versions of two packages than requirements.lock has; they shadow those there.
$(VENV)/inspect/.installed: requirements-inspect.lock $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/inspect -r requirements-inspect.lock
	@touch $@

test-hooked: $(VENV)/hooked/.installed ## the tests of a HookedTransformer, with TransformerLens 3.9 in a venv of its own
	@OMP_NUM_THREADS=1 $(VENV)/hooked/bin/python -m pytest tests/test_hooked_transformer.py

$(VENV)/hooked/.installed: requirements-hooked.lock requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)/hooked
	$(VENV)/hooked/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(VENV)/hooked/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-hooked.lock
	$(VENV)/hooked/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(VENV)/hooked/bin/python -m pip check --disable-pip-version-check
	@touch $@

figures: runs/demo/summary.json ## every figure of the demo's honesty run, with its analyses
	$(BIN)/interp-steer figures runs/demo/honesty

gallery: runs/duration/.swept runs/demo/.evaluated ## the pictures of docs/gallery.md, from the demo's honesty run
	$(BIN)/python -m figures.gallery runs/demo/honesty runs/duration/honesty docs

# Figure 10 needs scopes and threats that the demo's grid lacks: a copy, so that the demo stays whole.
runs/duration/.swept: runs/demo/summary.json
	mkdir -p runs/duration && rm -rf runs/duration/honesty
	cp -r runs/demo/honesty runs/duration/honesty
	$(BIN)/interp-steer sweep runs/duration/honesty --layers 3 --methods sttp --alphas 6 \
	  --scopes all response first:1 first:2 first:4 first:8 first:16 first:32 \
	  --threats malicious_prompt prefill:2 prefill:4 prefill:8 prefill:16 \
	  --protocol split --reporting-scenarios 24 --control-draws 0 --extras
	touch $@

# Figure 11 is of suites and of the tournament, which the demo leaves to whoever wants them: a minute.
runs/demo/.evaluated: runs/demo/summary.json
	$(BIN)/interp-steer judge-tournament runs/demo/honesty
	$(BIN)/interp-steer evaluate runs/demo/honesty --suite multi-turn --limit 8
	$(BIN)/interp-steer evaluate runs/demo/honesty --suite choice
	$(BIN)/interp-steer evaluate runs/demo/honesty --suite cross-trait --other runs/demo/compassion --limit 20
	$(BIN)/interp-steer evaluate runs/demo/honesty --suite cost --limit 12 --batch-size 4 --max-new-tokens 96
	touch $@

runs/demo/summary.json: | $(STAMP)
	$(BIN)/interp-steer demo

bench: $(STAMP) peers ## the benchmarks, ratios measured on this machine, into benchmarks/results
	OMP_NUM_THREADS=$$(nproc) $(BIN)/python -m benchmarks

peers: $(VENV)/peers/.installed ## the steering packages that the benchmarks compare with

$(VENV)/peers/.installed: requirements-peers.lock $(STAMP)
	$(PYTHON) -m venv $(VENV)/peers
	$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.lock
	$(VENV)/peers/bin/python -m pip check --disable-pip-version-check
	@touch $@

lint: $(STAMP) ## ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

docs: $(STAMP) ## the documentation as a site, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

check: lint test ## ruff, basedpyright and the default tests

train: $(STAMP) ## train the bundled model again from its seed
	$(BIN)/python -m interp_steer.organism.train

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist site
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# torch goes first, with what it needs. The lock names everything else, so nothing is left to resolve
# (pip would try for many minutes); `pip check` says if it did not.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "interp-steer needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another interpreter: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check --disable-pip-version-check
	@touch $@
