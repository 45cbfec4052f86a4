# `make` lists the targets.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONHASHSEED := 0
export PYTHONNOUSERSITE := 1

.PHONY: help reproduce test lint

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

reproduce: .venv/.done ## every table, figure and report of the profile in params.yaml
	PYTHONPATH=src python pipeline/reproduce.py

test: .venv/.done ## the tests, two at a time
	PYTHONPATH=src OMP_NUM_THREADS=1 python -m pytest -n 2

lint: .venv/.done ## style of code and notebooks
	ruff check .
	ruff format --check .

.venv/.done: requirements.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "error: there is no python3 -> install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("error: $(PYTHON) is Python %d.%d -> make PYTHON=... with 3.11 or newer" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check --quiet --requirement requirements.txt --constraint constraints.txt
	@touch $@
