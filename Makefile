# Every target sets up what it needs; after the first time that takes seconds.
VENV := .venv
PY := $(VENV)/bin/python
WORK_DIR := work_dirs/demo

.PHONY: setup demo test lint

setup:
	@.dev/setup_env.sh requirements/stacks/default.txt $(VENV)

demo: setup
	$(PY) tools/demo.py --work-dir $(WORK_DIR)

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	$(PY) -m pytest
