# Every target sets up what it needs; after the first time that takes seconds.
# "make help" lists the targets by their "## " comments.
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
VENV_UPSTREAM := .venv-upstream
STACKS := requirements/stacks
# One process for each core. Each computes on one thread: processes with several
# slow each other down many times.
PYTEST := -m pytest -n auto --dist loadfile
test test-long test-upstream: export OMP_NUM_THREADS := 1
# What most often breaks, without compiling, long trainings and every config.
FAST := $(addprefix tests/,layers backbones heads necks deploy converters datasets \
	test_architecture.py test_builder.py test_recipes.py)

.PHONY: help setup demo test test-fast test-long lint test-upstream wheel-check \
	wheel-check-upstream kernels-check kernels-check-aarch64 kernels-fuzz kernels-profile \
	onnxruntime-check onnxruntime-check-sanitizers runtime-wheels runtime-check-aarch64 \
	trainings-check mutations

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.* ## /\1 /p' $(MAKEFILE_LIST) | \
		while read -r name text; do printf '%-28s %s\n' "$$name" "$$text"; done

setup: ## create or update .venv
	@.dev/setup_env.sh $(STACKS)/default.txt $(VENV)

demo: setup ## train, sparsify, condense and test a small detector
	$(PY) -W ignore tools/demo.py

lint: setup ## linter, formatter and type checker
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: lint ## lint and all tests
	$(PY) $(PYTEST)

test-fast: setup ## the tests that catch most, in under a minute
	$(PY) -m pytest $(FAST)

# By the test, not by the file: one file may hold all the work.
test-long: setup ## the tests that make test leaves out, for many minutes
	$(PY) -m pytest -n auto --dist load -m long

# The same tests on the upstream OpenMMLab packages.
test-upstream: ## all tests on mmdet 3.3 and torch 2.1
	@.dev/setup_env.sh $(STACKS)/upstream.txt $(VENV_UPSTREAM)
	$(VENV_UPSTREAM)/bin/python $(PYTEST)

# The built wheel in an environment of its own, by mim's commands.
wheel-check: ## the built wheel, by mim's commands
	@.dev/check_wheel.sh $(STACKS)/default.txt .venv-wheel

wheel-check-upstream: ## the same on mmdet 3.3 and torch 2.1
	@.dev/check_wheel.sh $(STACKS)/upstream.txt .venv-wheel-upstream

# What is killed and resumed must end as what nobody killed.
trainings-check: setup ## trainings killed and resumed, and on several processes
	$(PY) -W ignore .dev/check_trainings.py kill
	$(PY) -W ignore .dev/check_trainings.py ranks

mutations: setup ## break the code in many ways and see whether tests notice
	$(PY) .dev/mutations.py

# The kernels' core under three sanitizers, and on an emulated ARM.
kernels-check: setup ## the kernels under sanitizers
	$(PY) .dev/check_kernels.py
	$(PY) .dev/check_kernels.py threads

# Wrong arguments; MINUTES is for each host.
kernels-fuzz: MINUTES := 5
kernels-fuzz: setup ## both hosts' operators, called wrongly, under sanitizers
	$(PY) -W ignore .dev/fuzz_operators.py --minutes $(MINUTES)
	$(PY) -W ignore .dev/fuzz_operators.py --minutes $(MINUTES) --host onnxruntime

kernels-check-aarch64: setup ## the kernels on an emulated ARM
	$(PY) .dev/check_kernels.py aarch64

# Where their time goes; OPTIONS="--arch a --size 640 640", say, for another network.
kernels-profile: setup ## the kernels' time by block and kind of work
	$(PY) -W ignore .dev/profile_kernels.py $(OPTIONS)

# The package that runs exported files without PyTorch (docs/runtime.md).
runtime-wheels: setup ## the runtime's wheels for x86-64 and ARM, into dist/
	$(PY) .dev/build_runtime_wheels.py

runtime-check-aarch64: setup ## the runtime's wheel on an emulated ARM
	$(PY) -W ignore .dev/check_runtime_aarch64.py

# The kernels as operators of ONNX Runtime. Old versions do not know NumPy 2.
onnxruntime-check: setup ## the operators in several versions of ONNX Runtime
	$(PY) .dev/check_onnxruntime.py

onnxruntime-check-sanitizers: setup ## the same under sanitizers
	$(PY) .dev/check_onnxruntime.py sanitizers
