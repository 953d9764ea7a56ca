# make demo | test | check | golden | recipes-check | bench | docs-tables | site. Each sets itself up: an active environment that already has torch, ray and the test
# tools is used as it is, otherwise .venv is made here from pyproject.toml and constraints.txt.
SHELL := /bin/bash
export RAY_USAGE_STATS_ENABLED := 0

HAVE := $(shell [ -n "$$VIRTUAL_ENV" ] && python -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("ray") and all(map(u.find_spec, "tyro safetensors sklearn pyarrow pytest hypothesis xdist pyautoattack ruff mypy playwright httpx schemathesis".split()))))' 2>/dev/null && echo yes)
ifeq ($(HAVE),yes)
PY := python
READY :=
else
PY := .venv/bin/python
READY := .venv/ready
endif

.PHONY: demo test soak soak-long browser clients check wheel release-check golden recipes-check bench docs-tables docs-tools site clean

demo: $(READY)
	$(PY) -m sparring.cluster demo

# More at a time than there are cores: many tests wait for processes to start, to be lost, or for a timeout to pass. By file: what a file sets up is set up once.
test: check browser
	$(PY) -m pytest -m "not soak" -n 4 --dist loadfile --no-loadscope-reorder

# What takes longer; UNTIL (seconds since 1970) skips what would end later.
soak: $(READY) browser clients
	@$(MAKE) -s docs-tools || echo "What the site is built with could not be installed; its tests will be skipped"
	SPARRING_SOAK_UNTIL=$(UNTIL) $(PY) -m pytest -m soak -n 2 --dist loadfile --no-loadscope-reorder

# Hours under faults, one kind after the other: make soak-long MINUTES=60. Root, with iproute2 and iptables.
soak-long: $(READY)
	for kind in train evaluate serve; do $(PY) benchmarks/soak_long.py $$kind --minutes $(or $(MINUTES),60) --save || exit 1; done

# Page tests drive Debian's Chromium, one test its nginx; without them, and without the right to install them, they are skipped and say so.
browser:
	@{ command -v chromium && { command -v nginx || [ -x /usr/sbin/nginx ]; }; } >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium nginx-light; } >/dev/null 2>&1 || \
		echo "Chromium or nginx could not be installed; their tests will be skipped"

# What tests talk to, clients of the serving protocol and servers, each in a folder of its own, since their dependencies are not ours.
CLIENTS := $(wildcard tests/clients/*.txt tests/serve/clients/*.txt tests/cluster/*/clients/*.txt) tests/cluster/runs/s3/moto.txt
clients: .clients/ready
.clients/ready: $(CLIENTS) | $(READY)
	rm -rf .clients
	@{ for f in $(CLIENTS); do $(PY) -m pip install -q --no-deps --target .clients/$$(basename $$f .txt) -r $$f || exit 1; done; \
		touch .clients/ready; } || echo "The clients could not be installed; their tests will be skipped"

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Arrays recorded from the authors' code, as many as a folder holds: make golden DIR=FOLDER
golden: $(READY)
	$(PY) -m tests.reference $(or $(DIR),tests/golden)

# Every recipe in miniature, with random teachers: some minutes.
recipes-check: $(READY)
	$(PY) -m tests.recipes_check

# sdist and wheel in dist/, the same bytes from the same commit.
wheel: $(READY)
	rm -rf dist build
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 315532800) $(PY) -m build --no-isolation --outdir dist . >/dev/null
	$(PY) -m twine check --strict dist/*
	@ls -l dist

# What a release must be: one version everywhere, the same bytes from the same commit, metadata that an index takes, a page of licences that is true.
release-check: $(READY)
	$(PY) docs/licences.py --check
	$(PY) -m pytest -q tests/test_citation.py tests/test_wheel.py -m "soak or not soak" -k "version or bytes or what_is_in or readme"

bench: $(READY)
	$(PY) benchmarks/bench.py

docs-tables: $(READY)
	$(PY) docs/tables.py
	$(PY) docs/speed.py
	$(PY) docs/claimed.py

# The documentation as a site, in site/, that loads nothing from elsewhere: python -m http.server -d site
site: docs-tools
	PYTHONPATH=.docs-tools NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# What it is built with, in a folder of its own, since nothing else needs it.
docs-tools: .docs-tools/ready
.docs-tools/ready: pyproject.toml constraints.txt | $(READY)
	rm -rf .docs-tools
	$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' | \
		$(PY) -m pip install -q --disable-pip-version-check --target .docs-tools --requirement /dev/stdin --constraint constraints.txt
	touch $@

.venv/ready: pyproject.toml constraints.txt
	@echo "Installing into .venv: PyTorch and Ray are about 3 GB to download, 6 GB on disk (once)."
	python3 -m venv .venv
	[ -t 1 ] || quiet=--quiet; .venv/bin/python -m pip install $$quiet --disable-pip-version-check --editable '.[test]' --constraint constraints.txt
	touch $@

clean:
	rm -rf .venv .clients .docs-tools site *.egg-info build
