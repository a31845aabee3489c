# Needs Python 3.11 or newer with pip. Everything else is installed below this folder.
PYTHON ?= python3
AIRFLOW_PORT ?= 8080
SIMULATOR_PORT ?= 8765
UV = .tools/bin/uv
export UV_PYTHON_DOWNLOADS = never
export UV_LINK_MODE ?= copy

.PHONY: help demo test test-distributed test-browser screenshots lint docs bench matrix release-check python clean

help:
	@echo "make demo         push 25 calls through a real Airflow against the simulator"
	@echo "make demo KEEP=1  the same, and leave it running to look around"
	@echo "make test         unit, contract and system tests"
	@echo "make test-distributed  calls on Celery, PostgreSQL and Redis while processes are killed (needs both servers)"
	@echo "make test-browser  connection forms, runs and links in a browser (needs Chromium)"
	@echo "make screenshots   the same, and saves what it sees in docs/images"
	@echo "make lint         ruff, mypy --strict, import-linter"
	@echo "make docs         the documentation site, into site/"
	@echo "make bench        waiting, pace, DAG parse cost, recordings, paging, the lake and webhooks beside what one would use instead"
	@echo "make matrix       the wheel on Airflow 3.0 to 3.4 and Python 3.11 to 3.13 (hours; ARGS=--help)"
	@echo "make release-check  builds the wheel and the sdist, and looks whether they are fit to be released"
	@echo "make clean        removes what the others have made"

demo: .venv/.ready
	@.venv/bin/python -m demo --airflow-port $(AIRFLOW_PORT) --simulator-port $(SIMULATOR_PORT) $(if $(KEEP),--keep)

test: .venv/.ready
	.venv/bin/python -m pytest -n 2 tests/unit tests/contract
	# One Airflow at a time.
	.venv/bin/python -m pytest tests/system

test-distributed: .venv/.ready
	@$(UV) sync --quiet --frozen --inexact --group distributed
	.venv/bin/python -m pytest -s tests/distributed

test-browser: .venv/.ready
	@$(UV) sync --quiet --frozen --inexact --group browser
	.venv/bin/python -m pytest tests/browser

screenshots: .venv/.ready
	@$(UV) sync --quiet --frozen --inexact --group browser
	.venv/bin/python -m pytest tests/browser --screenshots docs/images

lint: .venv/.ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: .venv/.ready
	@$(UV) sync --quiet --frozen --inexact --group docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

bench: .venv/.ready
	@$(UV) sync --quiet --frozen --inexact --group bench
	.venv/bin/python benchmarks/parse_cost.py
	@echo
	.venv/bin/python benchmarks/waiting.py
	@echo
	.venv/bin/python benchmarks/pace.py
	@echo
	.venv/bin/python benchmarks/recording_stream.py
	@echo
	.venv/bin/python benchmarks/paging.py
	@echo
	.venv/bin/python benchmarks/lake.py
	@echo
	.venv/bin/python benchmarks/webhooks.py

matrix: .venv/.ready
	.venv/bin/python -m tests.matrix --uv $(abspath $(UV)) $(ARGS)

release-check: .venv/.ready
	@$(UV) sync --quiet --frozen --inexact --group release
	.venv/bin/python -m tests.release_check --uv $(abspath $(UV))

.venv/.ready: pyproject.toml uv.lock | python
	@test -x $(UV) || $(PYTHON) -m pip install --quiet --root-user-action=ignore --target .tools "uv>=0.8,<1"
	@echo "Installing what is locked …"
	@$(UV) sync --quiet --frozen --compile-bytecode --python $(PYTHON)
	@touch $@

python:
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "Python is missing: install Python 3.11 or newer, or say PYTHON=/path/to/python."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1): 3.11 or newer is needed, say PYTHON=/path/to/python."; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || \
	  { echo "$(PYTHON) has no pip: install it (Debian: apt-get install python3-pip)."; exit 1; }

clean:
	rm -rf .venv .tools .demo .matrix site
