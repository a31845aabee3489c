# Needs Python 3.11 or newer with pip. Everything else is installed below this folder.
PYTHON ?= python3
AIRFLOW_PORT ?= 8080
SIMULATOR_PORT ?= 8765
UV = .tools/bin/uv
export UV_PYTHON_DOWNLOADS = never
export UV_LINK_MODE ?= copy

.PHONY: help demo test test-distributed lint bench python clean

help:
	@echo "make demo         push 25 calls through a real Airflow against the simulator"
	@echo "make demo KEEP=1  the same, and leave it running to look around"
	@echo "make test         unit, contract and system tests"
	@echo "make test-distributed  calls on Celery, PostgreSQL and Redis while processes are killed (needs both servers)"
	@echo "make lint         ruff, mypy --strict, import-linter"
	@echo "make bench        waiting, pace, DAG parse cost, recordings, paging, the lake and webhooks beside what one would use instead"

demo: .venv/.ready
	@.venv/bin/python -m demo --airflow-port $(AIRFLOW_PORT) --simulator-port $(SIMULATOR_PORT) $(if $(KEEP),--keep)

test: .venv/.ready
	.venv/bin/python -m pytest

test-distributed: .venv/.ready
	@$(UV) sync --quiet --frozen --inexact --group distributed
	.venv/bin/python -m pytest -s tests/distributed

lint: .venv/.ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

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
	rm -rf .venv .tools .demo
