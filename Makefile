# Two commands do everything on a fresh machine: `make family` and `make test`.
# TORCH_INDEX: PyTorch's own CPU package index, where pip would otherwise pull a CUDA build:
#   make family TORCH_INDEX=<address of the CPU index that pytorch.org names for your system>
PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin

.PHONY: setup family test test-slow check perf clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

family: setup
	$(BIN)/build-family --budgets examples/digits/budgets.yaml

example-%: setup
	$(BIN)/python examples/$*/prepare.py
	$(BIN)/build-family --budgets examples/$*/budgets.yaml

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/python -P -m pytest -n 2

# Needs a PostgreSQL server too: apt install postgresql (its tests start and stop one of their own)
test-slow: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,postgres,grpc,ray]'
	$(BIN)/python -P -m pytest -m slow --timeout=3600

perf: setup
	for script in tests/perf/*.py; do $(BIN)/python -P $$script || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info
