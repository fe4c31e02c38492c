# Each target sets up everything it needs: a virtual environment in .venv, the package, its dependencies.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# As many test processes as cores, but each imports TensorFlow: about 1.5 GB.
WORKERS ?= 2
# Tests start many processes, each of which would compile tfopt again.
unexport PYTHONDONTWRITEBYTECODE
# worksteal gives each process whole runs of files, so what a file's tests share is made once and not in every process.

.PHONY: run test test-slow test-all lint docs clean

run: $(VENV)/dev
	$(BIN)/tfopt run recipes/deep_compression.py --overwrite

test: $(VENV)/dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow'

# Whole runs and tables, of which the other tests cover the parts: the first case of each.
test-slow: $(VENV)/dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow

# All cases of them as well: before a release, and after a change that they are about.
test-all: $(VENV)/dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --all-cases

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/site: open index.html. A warning is an error.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The name of the file is that of the extra to install.
$(VENV)/dev $(VENV)/docs: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tfopt needs Python 3.11 or later; try: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(@F)]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
