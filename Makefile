# Everything here sets itself up in .venv, from Python 3.11 or later, make and git alone.

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := torch,tensorflow,onnx,transformers,worker,postgres,local,frames,test,check

ZOO := torchvision timm keras-hub pillow

.PHONY: help demo docs test chaos check bench bench-queue bench-profiles bench-intermediates bench-fidelity format clean

help:
	@echo "make demo    profile a small network on PyTorch and on TensorFlow, through a local queue"
	@echo "make test    the whole test suite, with a real Redis, PostgreSQL and workers"
	@echo "make check   formatting, lint and types"
	@echo "make chaos   every fault that Dnnamo promises to survive, with its bar and what was measured"
	@echo "make bench   start-up times, and how much of a step the operation tables account for"
	@echo "make bench-queue  what a job costs beside the work itself, against bare Celery"
	@echo "make bench-profiles  what a profile costs to build, store and ask, against other tools' own ways"
	@echo "make bench-fidelity  whether dnnamo run measures what a bare loop measures; wants a quiet machine"
	@echo "make docs    write the tables of docs/models.md that the code decides"
	@echo "make bench-intermediates  what statistics of all intermediates take in memory, against a plain pass"
	@echo "make format  mend formatting and what lint can mend"
	@echo "make clean   remove .venv and caches"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Dnnamo needs Python 3.11 or later; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: .venv/installed
	$(BIN)/python examples/demo.py

# Apart from .venv, where torchvision would be imported by transformers: its operators want a CUDA build of PyTorch.
# Without what they depend on, as that is there; the tests put this folder on the path of processes of their own.
.venv-zoo/installed: Makefile constraints.txt .venv/installed
	rm -rf .venv-zoo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target .venv-zoo $(ZOO)
	touch $@

# What runs a whole cluster or a worker, and what kills parts of one, has the machine to itself.
ALONE := tests/acceptance tests/chaos tests/workers

test: .venv/installed .venv-zoo/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(addprefix --ignore ,$(ALONE))
	$(BIN)/python -m pytest $(ALONE)

chaos: .venv/installed
	$(BIN)/python -m pytest tests/chaos -m chaos

check: .venv/installed
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.self_time

bench-queue: .venv/installed
	$(BIN)/python -m benchmarks.queue

bench-fidelity: .venv/installed
	$(BIN)/python -m benchmarks.fidelity

# The peers' own packages, apart from ours. TraceLens comes from its repository alone; the benchmark says so without it.
.venv-peers/installed: benchmarks/peers/requirements.txt benchmarks/peers/tracelens.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --requirement benchmarks/peers/requirements.txt
	.venv-peers/bin/python -m pip install --quiet --requirement benchmarks/peers/tracelens.txt || echo "going on without TraceLens"
	touch $@

bench-profiles: .venv/installed .venv-peers/installed
	$(BIN)/python -m benchmarks.profiles

docs: .venv/installed
	$(BIN)/python -m docs.tables

bench-intermediates: .venv/installed
	$(BIN)/python -m benchmarks.intermediates

format: .venv/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv .venv-peers .venv-zoo build/traces .mypy_cache .ruff_cache .pytest_cache
