# In a fresh clone with Python 3.11 or newer, run `make demo`, `make test` or `make lint`. README.md has the rest.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# The last step of the installation creates this file, so make does not mistake an interrupted one for a finished one.
INSTALLED := $(VENV)/.installed

.PHONY: demo test integration slow lint docs

demo: $(INSTALLED)
	$(BIN)/python -m experiments.distill acc_dd digits --ipc 1 --workdir runs/demo --overwrite

test: $(INSTALLED)
	$(BIN)/python -m pytest --ignore tests/integration --numprocesses auto

# Whole commands and several processes. CI runs them too.
integration: $(INSTALLED)
	$(BIN)/python -m pytest tests/integration --numprocesses auto

# Only the slow tests need PyTorch, to compare with it.
slow: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,peer,formats]'
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright

# Build the documentation site in build/site. A broken link or reference is an error.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	$(BIN)/python -m mkdocs build --strict

$(INSTALLED): setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
