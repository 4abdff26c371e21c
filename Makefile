# Everything that a fresh clone needs. Each command sets itself up; a second call does no set-up again.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
PORT ?= 7860
HOST ?= 127.0.0.1
WORKSPACE ?= workspace
# Installed with the dependencies, for a device that pip's own choice does not suit: TORCH=torch==2.9.1+rocm6.4
TORCH ?=
RUN := $(VENV)/bin/python
# How many files of tests run at once: one a core, up to four; a file's own tests stay together, as they share models.
SPREAD ?= --numprocesses auto --maxprocesses 4 --max-worker-restart 1 --dist loadfile
# So that sets in the names of tests read the same in all of those processes.
test test-all: export PYTHONHASHSEED = 0
DEMO := SmolLM2-135M-Instruct

.PHONY: board test test-all test-shared demo bench check docs model setup setup-test clean help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

board: $(VENV)/.ready model  ## the board on http://127.0.0.1:7860 (PORT=, WORKSPACE=, HOST=, ALLOW=)
	@PORT=$(PORT) WORKSPACE=$(WORKSPACE) $(RUN) -m app --host $(HOST)

demo: $(VENV)/.ready model  ## the whole path without a browser: train, ask, merge, verify
	@$(RUN) -m engine demo --workspace $(WORKSPACE)

test: $(VENV)/.ready-test model  ## every test, the browser's included
	@$(RUN) -m tests.browser
	TUNEBOARD_DEMO_MODEL=$(abspath $(WORKSPACE))/models/$(DEMO) $(RUN) -m pytest $(SPREAD) -m "not slow and not shared"

test-all: $(VENV)/.ready-test model  ## the long ones too
	TUNEBOARD_DEMO_MODEL=$(abspath $(WORKSPACE))/models/$(DEMO) $(RUN) -m pytest $(SPREAD) -m "not shared"

test-shared: $(VENV)/.ready-test  ## tests over the real data beside a development checkout
	$(RUN) -m pytest -m shared

bench: $(VENV)/.ready-test model  ## speed and memory side by side, as JSON
	$(RUN) -m tests.bench --workspace $(WORKSPACE)

check: $(VENV)/.ready-test  ## style, and types of the contract
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.ready  ## engine/ARGUMENTS.md from the declarations
	$(RUN) -m engine docs

model: $(WORKSPACE)/models/$(DEMO)/config.json  ## the embedded demo model

$(WORKSPACE)/models/$(DEMO)/config.json: | $(VENV)/.ready
	@$(RUN) -m engine fetch $(DEMO) --workspace $(WORKSPACE)

setup: $(VENV)/.ready  ## the environment alone

setup-test: $(VENV)/.ready-test

# The stamp is written last, so that an interrupted set-up is done again. One pip call resolves torch with the rest.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tuneboard needs Python 3.11 or newer; say PYTHON=/path/to/python3.11"; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing Tuneboard into $(VENV) (some minutes, once) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e . $(TORCH)
	@touch $@

$(VENV)/.ready-test: pyproject.toml
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing Tuneboard and its test tools into $(VENV) (some minutes, once) ..."
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test]' $(TORCH)
	@touch $@ $(VENV)/.ready

clean:  ## remove the environment (runs and models stay)
	rm -rf $(VENV)
