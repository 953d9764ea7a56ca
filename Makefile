# make demo | test | check | bench | docs-tables. Each sets itself up: an active environment that already has torch, ray and the test
# tools is used as it is, otherwise .venv is made here from pyproject.toml and constraints.txt.
SHELL := /bin/bash
export RAY_USAGE_STATS_ENABLED := 0

HAVE := $(shell [ -n "$$VIRTUAL_ENV" ] && python -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("ray") and all(map(u.find_spec, "tyro safetensors sklearn pyarrow pytest hypothesis ruff mypy".split()))))' 2>/dev/null && echo yes)
ifeq ($(HAVE),yes)
PY := python
READY :=
else
PY := .venv/bin/python
READY := .venv/ready
endif

.PHONY: demo test check bench docs-tables clean

demo: $(READY)
	$(PY) -m cluster demo

test: check
	$(PY) -m pytest

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(READY)
	$(PY) benchmarks/team_vs_local.py

docs-tables: $(READY)
	$(PY) docs/tables.py

.venv/ready: pyproject.toml constraints.txt
	@echo "Installing into .venv: PyTorch and Ray are about 3 GB to download, 6 GB on disk (once)."
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv *.egg-info build
