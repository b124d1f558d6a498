# Two commands set up everything they need on a machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread unless a task asks for more: the same sums on every machine.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check ui clean
.DEFAULT_GOAL := help

help: ## Show what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: $(STAMP) ## Set up, run the study n12 on the embedded model, print its result
	@$(BIN)/persona-assets run n12

test: $(STAMP) ## Set up and run the whole test suite
	@$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(STAMP) ## Lint, types and the fast tests
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -n 2 -m "not slow"

ui: $(STAMP) ## Serve the Dagster UI on what the demo made, at http://localhost:3000
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) DAGSTER_HOME=$${DAGSTER_HOME:-$(CURDIR)/.dagster} PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/dg dev

clean: ## Delete the environment; the lake and the Dagster instance stay
	rm -rf $(VENV)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) (several hundred MB, a few minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
