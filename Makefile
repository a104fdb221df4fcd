# Every target sets up what it needs; after the first time that takes seconds.
VENV := .venv
PY := $(VENV)/bin/python
VENV_UPSTREAM := .venv-upstream
STACKS := requirements/stacks

.PHONY: setup demo test lint test-upstream wheel-check wheel-check-upstream \
	kernels-check kernels-check-aarch64

setup:
	@.dev/setup_env.sh $(STACKS)/default.txt $(VENV)

demo: setup
	$(PY) -W ignore tools/demo.py

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: lint
	$(PY) -m pytest

# The same tests on the upstream OpenMMLab packages.
test-upstream:
	@.dev/setup_env.sh $(STACKS)/upstream.txt $(VENV_UPSTREAM)
	$(VENV_UPSTREAM)/bin/python -m pytest

# The built wheel in an environment of its own, by mim's commands.
wheel-check:
	@.dev/check_wheel.sh $(STACKS)/default.txt .venv-wheel

wheel-check-upstream:
	@.dev/check_wheel.sh $(STACKS)/upstream.txt .venv-wheel-upstream

# The kernels' core under AddressSanitizer and UBSan, and on an emulated ARM.
kernels-check: setup
	$(PY) .dev/check_kernels.py

kernels-check-aarch64: setup
	$(PY) .dev/check_kernels.py aarch64
