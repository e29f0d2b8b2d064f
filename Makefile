# Two commands do everything: `make demo` and `make test`. Each sets up what it needs first, in .venv.
#
#   make demo      pixels -> world model -> planning agent, and a report page (demo/report.html); about 10 minutes
#   make test      the test suite
#   make lint      style check
#   make results   rewrite the README's tables from results/
#   make docs      rewrite docs/environments.md from the code, with pictures where one is missing
#   make setup     the virtual environment only
#   make clean     remove what was built (not data, runs or results)
#
# Options:  VENV=folder       where the virtual environment goes
#           PYTHON=python3.12 which interpreter (3.11 or newer) to build it with
#           TORCH_INDEX=url   where pip gets torch from: on Linux the default is the CUDA build, several GB; a machine
#                             without an NVIDIA GPU is better off with the index of CPU builds that pytorch.org names
#           JOBS=2            test processes

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?=
TORCH_INDEX ?=
JOBS ?= 2
TORCH := torch==2.13.0
EXTRAS := dev,human,maze-gl,minari,rl
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet install -c constraints.txt $(TORCH)
READY := $(VENV)/.ready

.PHONY: help setup demo test lint results docs clean

help:
	@sed -n '2,/^$$/s/^# \{0,1\}//p' Makefile

setup: $(READY)

$(READY): pyproject.toml constraints.txt .ci/find-python
	@if ! "$(PY)" -c "" 2>/dev/null; then
	  python="$$(.ci/find-python $(PYTHON))"
	  echo "setup: virtual environment in $(VENV) ($$("$$python" -V))"
	  "$$python" -m venv --clear "$(VENV)"
	fi
	echo "setup: $(TORCH) (the largest download; once)"
	$(PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)")
	echo "setup: the other packages, as pinned in constraints.txt"
	$(PIP) -e ".[$(EXTRAS)]"
	touch $@
	echo "setup: done"

demo: $(READY)
	@echo "demo: collect, train, evaluate, plan; report in demo/report.html"
	$(PY) -m reverie.scripts.cli demo

test: $(READY)
	@echo "test: the suite, $(JOBS) processes"
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) $(PYTEST)

lint: $(READY)
	@echo "lint: ruff check, ruff format --check"
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

results: $(READY)
	@echo "results: README tables from results/*.json"
	$(PY) -m reverie.scripts.readme

docs: $(READY)
	@echo "docs: docs/environments.md from the code"
	$(PY) -m reverie.scripts.gallery

clean:
	@echo "clean: virtual environment, caches, demo"
	rm -rf "$(VENV)" build dist demo *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
