# Everything a developer runs. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV   := .venv
PEERS  := .venv-peers
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q
# Two single-threaded test processes beat one process with two threads: the tests' tensors are tiny.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup demo test test-long check format bench bench-peers clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with everything (PYTHON=... chooses the interpreter)

# Again only when the requirements change.
$(READY): pyproject.toml constraints.txt
	@set -e; python=""; \
	for candidate in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	  if command -v $$candidate >/dev/null 2>&1 && \
	     $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "boda needs Python 3.11 or newer; none of '$(PYTHON) python3 python3.11 ... python3.14' is." >&2; \
	  echo "Install one (Debian, Ubuntu: sudo apt install python3.11 python3.11-venv) or name it: make setup PYTHON=/path/to/python" >&2; \
	  exit 1; \
	fi; \
	if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$python cannot create virtual environments. Debian, Ubuntu: sudo apt install $$(basename $$python)-venv" >&2; \
	  exit 1; \
	fi; \
	[ -x $(BIN)/python ] || $$python -m venv $(VENV); \
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[all,dev]'; \
	touch $(READY); \
	echo "ready: $$($(BIN)/python --version), $$($(BIN)/python -c 'import torch; print("torch", torch.__version__)'), in $(VENV)"

demo: $(READY) ## train the mini family, evaluate it, show it
	$(BIN)/boda demo

test: $(READY) ## the tests that finish in minutes (ARGS="tests/unit -k frame" narrows)
	@$(ONE_THREAD) $(PYTEST) $(ARGS)

test-long: $(READY) ## the slow tests; with BODA_ONLINE=1 those that need the network too
	@$(ONE_THREAD) $(PYTEST) -m $(if $(BODA_ONLINE),'long or online',long) $(ARGS)

check: $(READY) ## lint, formatting, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## put the code in the form that `check` wants
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY) ## run benchmarks/NAME.py: make bench NAME=train_vlm [ARGS="--seconds 60"]
	@$(BIN)/python benchmarks/run.py $(NAME) $(ARGS)

bench-peers: $(PEERS)/.ready ## create .venv-peers with the libraries that benchmarks compare with

$(PEERS)/.ready: $(READY) benchmarks/peers/requirements.txt constraints.txt
	@[ -x $(PEERS)/bin/python ] || $(BIN)/python -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet -r benchmarks/peers/requirements.txt
	@touch $@

clean: ## remove what make and the tools wrote, environments included
	rm -rf $(VENV) $(PEERS) build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
