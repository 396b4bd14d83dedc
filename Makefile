# `make train` and `make test` need python3, make and a package index; they create .venv themselves.
#
#   make train PYTHON=python3.12     another interpreter (3.10 to 3.13)
#   make test PYTEST_ARGS="-k vd"    more arguments for pytest
#   make train CUDA=                 no CUDA libraries although there is a GPU
#
# On Linux pip takes the CUDA build of torch for `make test-all`, several GB. The CPU build (about 200 MB):
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test-all

VENV ?= .venv
# Each worker takes a share of the files as they come, and then steals of the other's: what a file shares is made once.
WORKERS ?= 2
PYTEST_ARGS ?=
# How many edits `make mutants` makes of each module (0: every one), and of which modules (`MODULES="masks layers/l0"`).
CASES ?= 50
MODULES ?=
# What runs again on the JAX and torch backends.
BACKEND_TESTS ?= tests/layers tests/callbacks tests/models tests/decoding tests/inspection tests/checkpoints \
	tests/test_schedules.py tests/test_sparsify.py tests/test_to_dense.py tests/test_load_masks.py \
	tests/test_initializers.py tests/test_prune.py tests/one_shot tests/masks/test_ranking.py tests/ops/test_noise.py tests/ops/test_fused.py \
	tests/test_docstrings.py

SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))
# The first of these that TensorFlow has wheels for.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	"$$python" -c '$(SUPPORTED)' 2>/dev/null && echo "$$python" && break; done)
# TensorFlow sees a GPU only with the CUDA libraries of its own release.
CUDA ?= $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo ,cuda)

export TF_CPP_MIN_LOG_LEVEL ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq
HAS_VENV := $(VENV)/.has-venv
HAS_DEMO := $(VENV)/.has-demo
HAS_DEV := $(VENV)/.has-dev
HAS_JAX := $(VENV)/.has-jax
HAS_TORCH := $(VENV)/.has-torch
HAS_DOCS := $(VENV)/.has-docs
# Where the documentation site is built, and the port on which `make docs-serve` shows it.
DOCS_HTML ?= build/docs/html
DOCS_PORT ?= 8000

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help train test test-jax test-torch test-all install-tensorflow install-jax install-torch mutants lint bench docs docs-serve clean

help:
	@echo "make train      train the demo: LeNet-300-100 made sparse by variational dropout, into runs/demo"
	@echo "make test       the fast tests"
	@echo "make test-jax   the fast tests of what runs on JAX, there (make test-torch: on torch)"
	@echo "make test-all   every test, and what runs on JAX and torch again there"
	@echo "make mutants    one-token edits of the modules that compute: do the tests notice them? (hours)"
	@echo "make lint       ruff check and ruff format --check"
	@echo "make bench      every measured claim in benchmarks/"
	@echo "make docs       build the documentation site, guides run included, into $(DOCS_HTML)"
	@echo "make docs-serve the same, and show it on http://localhost:$(DOCS_PORT)"
	@echo "make clean      remove .venv, caches and build products (not runs/)"

train: $(HAS_DEMO)
	@$(BIN)/python -m sparsity_tf.train.classifier --config=demo --output_dir=runs/demo --overwrite

test: $(HAS_DEV)
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-jax test-torch: test-%: install-%
	@KERAS_BACKEND=$* $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(BACKEND_TESTS) $(PYTEST_ARGS)

test-all: $(HAS_DEV) $(HAS_JAX) $(HAS_TORCH)
	@$(BIN)/python -m pytest -q -n $(WORKERS) -m "" $(PYTEST_ARGS)
	@KERAS_BACKEND=jax $(BIN)/python -m pytest -q -n $(WORKERS) -m "" $(BACKEND_TESTS) $(PYTEST_ARGS)
	@KERAS_BACKEND=torch $(BIN)/python -m pytest -q -n $(WORKERS) -m "" $(BACKEND_TESTS) $(PYTEST_ARGS)

# What the tests on a backend need, for whoever changes an installed package before the tests.
install-tensorflow: $(HAS_DEV)
install-jax: $(HAS_DEV) $(HAS_JAX)
install-torch: $(HAS_DEV) $(HAS_TORCH)

mutants: $(HAS_DEV)
	@$(BIN)/python -m tests.campaigns.mutate --cases=$(CASES) $(or $(MODULES),--all)

lint: $(HAS_DEV)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

bench: $(HAS_DEV)
	@set -e; for file in benchmarks/[!_]*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

# Warnings are errors. A guide runs again only if its own code has changed; `rm -r build/docs` makes all of them run, for
# example after a change of the package.
docs: $(HAS_DOCS)
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs $(DOCS_HTML)
	@echo "The site is in $(DOCS_HTML)/index.html"

docs-serve: docs
	@$(BIN)/python -m http.server --directory $(DOCS_HTML) --bind localhost $(DOCS_PORT)

clean:
	rm -rf $(VENV) build dist *.egg-info bazel-* .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is brought up to date: the resolver of the one that comes with Python 3.10 needs minutes for
# what the present one resolves in half a minute.
$(HAS_VENV):
	@set -e; \
	if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(SUPPORTED)' 2>/dev/null; then \
		echo "sparsity_tf needs Python 3.10, 3.11, 3.12 or 3.13 (TensorFlow has no wheels for others)." >&2; \
		echo "Found: PYTHON=$(PYTHON) $$($(or $(PYTHON),python3) --version 2>&1). Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
		exit 1; \
	fi; \
	rm -rf $(VENV); \
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m virtualenv --version >/dev/null 2>&1; then $(PYTHON) -m virtualenv --quiet $(VENV); \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -m venv --without-pip $(VENV); \
		$(PYTHON) -m pip --quiet --python $(BIN)/python install pip; \
	else \
		echo "$(PYTHON) can make no virtual environment: it has neither ensurepip, virtualenv nor pip." >&2; \
		echo "On Debian and Ubuntu: apt-get install python3-venv. Or name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
		exit 1; \
	fi; \
	$(PIP) install --upgrade pip; \
	touch $@

$(HAS_DEMO): pyproject.toml setup.py | $(HAS_VENV)
	@echo "Installing TensorFlow, Keras and the demo data into $(VENV) (a few minutes the first time)"
	@$(PIP) install --editable ".[tensorflow,plot,demo$(CUDA)]"
	@touch $@

$(HAS_DEV): pyproject.toml setup.py | $(HAS_VENV)
	@echo "Installing TensorFlow, Keras and the development tools into $(VENV) (a few minutes the first time)"
	@$(PIP) install --editable ".[dev$(CUDA)]"
	@touch $@ $(HAS_DEMO)

$(HAS_JAX): pyproject.toml setup.py | $(HAS_VENV)
	@echo "Installing JAX into $(VENV)"
	@$(PIP) install --editable ".[jax]"
	@touch $@

$(HAS_TORCH): pyproject.toml setup.py | $(HAS_VENV)
	@echo "Installing torch into $(VENV)"
	@$(PIP) install --editable ".[torch]"
	@touch $@

$(HAS_DOCS): pyproject.toml setup.py | $(HAS_VENV)
	@echo "Installing TensorFlow, JAX, Sphinx and what the guides use into $(VENV)"
	@$(PIP) install --editable ".[demo,docs,export,jax,plot,tensorflow$(CUDA)]"
	@touch $@
