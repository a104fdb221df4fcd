# Every target sets up what it needs; after the first time that takes seconds.
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: setup demo test lint

setup:
	@.dev/setup_env.sh requirements/stacks/default.txt $(VENV)

demo: setup
	$(PY) -W ignore tools/demo.py

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

test: lint
	$(PY) -m pytest
