# Every target makes .venv on first use. All that must be on the machine: Python 3.11 or later (PYTHON=python3.12 names another one) and make.
# Chromium and chromedriver are wanted by the browser tests only; without them those are skipped, and say so.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-requirements
JOBS ?= 2
HTML := _build/html
PYTEST := $(BIN)/python -m pytest

# one thread a process: small matrix products lose more to waiting than they gain from a second core
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
# a run of the tools must not ask the network anything
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export JUPYTER_PLATFORM_DIRS := 1

.DEFAULT_GOAL := help
.PHONY: help venv book html notebooks normalise coverage test lint check-files test-unit test-outputs test-parameters test-book results bench clean

help:  ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

venv: $(STAMP)  ## the environment (.venv) with everything pinned in requirements.txt

book: html  ## the book, from the committed notebooks with their outputs, into _build/html; any warning is an error
	@echo "open $(HTML)/index.html"

html: $(STAMP)
	rm -rf $(HTML)
	$(BIN)/python tools/phase_data.py
	$(BIN)/jupyter-book build . --path-output . --all -W -n --keep-going -q
	$(BIN)/python tools/check_book.py $(HTML)

notebooks: $(STAMP)  ## run every notebook again in place at the quick preset, then put it in normal form
	@set -e; for notebook in notebooks/*.ipynb; do \
	    echo "$$notebook"; \
	    $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace --ExecutePreprocessor.timeout=600 "$$notebook"; \
	done
	$(BIN)/python tools/normalise_notebooks.py notebooks/*.ipynb

normalise: $(STAMP)  ## put the notebooks in normal form (no times, no machine metadata) without running them
	$(BIN)/python tools/normalise_notebooks.py notebooks/*.ipynb

coverage: $(STAMP)  ## write book/coverage.md from the tags in the notebooks
	$(BIN)/python tools/coverage.py

test: lint check-files test-unit test-parameters test-outputs html test-book  ## everything, the quick things first: lint, units, notebooks, book, browser

lint: $(STAMP)  ## ruff on the package, the tests, the tools and the notebooks
	$(BIN)/ruff check .

check-files: $(STAMP)
	$(BIN)/python tools/normalise_notebooks.py --check notebooks/*.ipynb
	@if test -f tools/coverage.py; then echo "$(BIN)/python tools/coverage.py --check"; $(BIN)/python tools/coverage.py --check; fi
	@if test -f results/benchmarks.json; then echo "$(BIN)/python tools/benchmark_page.py --check"; $(BIN)/python tools/benchmark_page.py --check; fi

test-unit: $(STAMP)
	$(PYTEST) tests --ignore=tests/notebooks --ignore=tests/book -n $(JOBS)

test-parameters: $(STAMP)  ## the notebooks' form, and a few of them run by papermill with other parameters
	$(PYTEST) tests/notebooks -n $(JOBS)

test-outputs: $(STAMP)  ## every notebook run by nbval: do the committed outputs come out again?
	$(PYTEST) --nbval --nbval-current-env --nbval-sanitize-with tests/notebooks/sanitise.cfg --nbval-cell-timeout 600 \
	    --nbval-kernel-startup-timeout 180 -n $(JOBS) --dist loadfile notebooks

test-book: $(STAMP)
	GROK_BOOK_HTML=$(HTML) $(PYTEST) tests/book

results: $(STAMP)  ## the stored ensembles in results/ (long; may be stopped, and then goes on where it was)
	$(BIN)/python -m grokutils.experiments run all

bench: $(STAMP)  ## measure the speed comparisons (about a quarter of an hour on an idle machine) and write their page
	$(BIN)/python -m benchmarks
	$(BIN)/python tools/benchmark_page.py

clean:  ## remove what was built (the book, caches), not the environment and not results/
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
