# Two commands do everything on a fresh machine: `make family` and `make test`.
# TORCH_INDEX: PyTorch's own CPU package index, where pip would otherwise pull a CUDA build:
#   make family TORCH_INDEX=<address of the CPU index that pytorch.org names for your system>
PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin

.PHONY: setup family family-mobile example-smollm test test-slow check perf clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

family: setup
	$(BIN)/build-family --budgets examples/digits/budgets.yaml

# A family over this machine, a browser and two Arm cores; installs an emulator, compilers, Chromium and Node.
MOBILE_APT := qemu-user gcc gcc-aarch64-linux-gnu libc6-arm64-cross libstdc++6-arm64-cross libgcc-s1-arm64-cross \
	chromium $(shell { command -v node && command -v npm; } > /dev/null || echo nodejs npm)
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)

family-mobile: setup
	dpkg -s $(MOBILE_APT) > /dev/null 2>&1 || { $(SUDO) apt-get update && $(SUDO) apt-get install -y $(MOBILE_APT); }
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,browser]'
	$(BIN)/python -P -m benchmark.prepare emulated javascript
	$(BIN)/build-family --budgets examples/digits-mobile/budgets.yaml

# Token by token from SmolLM2-135M: what that would take, measured; a family of its own tokens takes too long here
example-smollm: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[text]'
	$(BIN)/python -P examples/smollm/measure.py

example-%: setup
	$(BIN)/python examples/$*/prepare.py
	for file in examples/$*/budgets*.yaml; do $(BIN)/build-family --budgets $$file || exit $$?; done

# Its teacher is an endpoint that gives only text, served on loopback while the family is built
example-glosses: setup
	$(BIN)/python examples/glosses/prepare.py
	$(BIN)/python examples/glosses/serve.py $(BIN)/build-family --budgets examples/glosses/budgets.yaml

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
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,perf]'
	for script in tests/perf/*.py; do $(BIN)/python -P $$script || exit $$?; done

clean:
	rm -rf .venv build dist *.egg-info
