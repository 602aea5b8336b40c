# `make demo` and `make test` do all their set-up: a Python 3.11, make and a package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HF_HUB_OFFLINE := 1
# Tests start a thousand processes of the project; without their bytecode each would compile it again.
unexport PYTHONDONTWRITEBYTECODE
CHECKS := pyright mypy mypy-3.10 mypy-windows ruff format contracts pages

.PHONY: demo oldest newest test thorough coverage simulate fuzz lint docs bench wheel clean $(CHECKS:%=check-%)
.DEFAULT_GOAL := help

help:  ## Show this text
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# torch goes first and alone: a CPU build where one is on offer, whose exact pin keeps CUDA's gigabytes away afterwards.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpurent needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt $$($(PYTHON) tools/torch_index.py) torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[engine,sandbox,heic,tensorboard,dev]'
	@touch $@

OLDEST := .venv-oldest
oldest: $(OLDEST)/.ready  ## The oldest packages that the engine promises to run on, for its test of versions
$(OLDEST)/.ready: remote/gpurent_engine/doctor.py tools/oldest.py constraints.txt | $(READY)
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m tools.oldest > $(OLDEST)/pins.txt
	$(OLDEST)/bin/pip install --quiet --requirement $(OLDEST)/pins.txt
	@touch $@

demo: $(READY)  ## Train a LoRA on the embedded market: quote to receipt to picture
	@$(BIN)/gpurent demo

# Without torch, which package indexes have for a new Python with gigabytes of CUDA only: what runs on a user's computer.
NEWEST := .venv-newest
QUICK := budget/test_exposure.py budget/test_fold.py budget/test_money.py convert dataset deadman plan report settings untrusted
$(NEWEST)/.ready: pyproject.toml constraints.txt tools/newest.py
	test -x $(NEWEST)/bin/python || $$($(PYTHON) tools/newest.py) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --constraint constraints.txt --editable '.[sandbox,heic]' \
	  greenlet hypothesis packaging pytest pytest-timeout pytest-xdist safetensors numpy
	@touch $@

newest:  ## The quick tests on the newest Python that is found here, 3.12 or 3.13
	@if [ -n "$$($(PYTHON) tools/newest.py)" ]; then $(MAKE) --no-print-directory $(NEWEST)/.ready && \
	  OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -q -n 2 --dist worksteal -m "not thorough" $(QUICK:%=tests/%); \
	else echo "No Python 3.12 or 3.13 here, so nothing newer than $$($(PYTHON) -V) was tested."; fi

test: missing lint  ## Lint, type-check and test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal -m "not thorough" $(PYTEST)

thorough: missing $(READY)  ## What make test leaves out: the rest of each large matrix
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal -m thorough $(PYTEST)

.PHONY: missing
missing: $(READY)
	@$(BIN)/python -m tools.missing

# The tests of client and adapters that run in pytest's own process; the command line and the hosts are other processes.
IN_PROCESS := $(addprefix tests/,budget conformance dataset plan report runpod vast sandbox settings)
coverage: missing $(READY)  ## Lines of client and adapters that tests in one process reach
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -q $(IN_PROCESS) $(PYTEST)
	$(BIN)/python -m coverage report

simulate: $(READY)  ## Thirty thousand lives of the broker with everything failing, and the guarantees taken out one by one
	$(BIN)/python -m tests.simulation
	$(BIN)/python -m tests.simulation --lives 2000 --batch 3
	$(BIN)/python -m tests.simulation --mutants

fuzz: $(READY)  ## A million inputs, almost right, for every parser of text from outside
	GPURENT_FUZZ=1000000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 tests/fuzz

# Side by side: each prints as a whole, where this make can hold output back.
lint: $(READY)  ## ruff, mypy --strict, pyright, import contracts, generated docs
	@$(MAKE) --no-print-directory --jobs 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) $(CHECKS:%=check-%)
check-ruff:
	$(BIN)/ruff check .
check-format:
	$(BIN)/ruff format --check src providers remote tests tools bench
check-mypy:
	$(BIN)/mypy
check-mypy-windows:
	$(BIN)/mypy --cache-dir .mypy_cache/windows --platform win32 src/gpurent src/gpurent_sandbox/adapter providers remote/gpurent_remote
check-mypy-3.10:
	$(BIN)/mypy --python-version 3.10 remote/gpurent_deadman
check-pyright:
	$(BIN)/pyright --pythonpath $(BIN)/python
check-contracts:
	$(BIN)/lint-imports
check-pages:
	$(BIN)/python -m tools.docs --check

docs: $(READY)  ## Write the generated reference pages
	$(BIN)/python -m tools.docs

bench: $(READY)  ## Measure against a named baseline in the same run
	$(BIN)/python -m bench.transfer
	$(BIN)/python -m bench.engine
	$(BIN)/python -m bench.levels
	$(BIN)/python -m bench.start
	$(BIN)/python -m bench.load

wheel: $(READY)  ## Build and check the wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/check-wheel-contents dist/*.whl

clean:
	rm -rf $(VENV) $(OLDEST) dist demo-output
