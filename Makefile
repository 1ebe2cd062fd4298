# make quickstart | downstream | test | test-all | slurm-test | check | plan | report | mlflow | clean          (make help prints what each does)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
SPEC ?= experiments/quickstart.yaml
CORES := $(shell getconf _NPROCESSORS_ONLN)
TEST_PROCESSES ?= $(shell echo $$(($(CORES) < 8 ? $(CORES) : 8)))
export MLFLOW_DISABLE_TELEMETRY ?= true
unexport PYTHONDONTWRITEBYTECODE  # else every process compiles torch, MLflow and the rest anew, seconds each time

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: .venv/ready  ## set up, train 18 small networks on real digits, print the table, write figures and one HTML page
	$(BIN)/python launch/run.py experiments/quickstart.yaml
	$(BIN)/python analysis/report.py experiments/quickstart.yaml

PYTEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
downstream: .venv/downstream  ## install what Tables 7 to 10 need beside it (OpenMMLab's models, 230 MB)

test: .venv/ready  ## set up, run the tests that need no cluster, server or browser (minutes)
	$(PYTEST) -m "not cluster"

test-all: .venv/ready  ## run all tests: real SLURM, Ray, MLflow servers, a browser, long trainings
	$(PYTEST) -n $$(($(TEST_PROCESSES) + 2)) --durations 25

slurm-test: .venv/ready  ## install SLURM (Debian, as root), run the tests against a real cluster on this machine
	which slurmctld slurmd munged slurmdbd mariadbd >/dev/null || apt-get install -y slurm-wlm munge slurmdbd mariadb-server
	$(BIN)/python -m pytest tests/slurm

overfit: .venv/downstream  ## a detector and a segmentation network learn some pictures by heart (a quarter of an hour)
	RM_TEST_OVERFIT=1 $(BIN)/python -m pytest -s tests/dense/test_overfit.py

faults: .venv/ready  ## try all that clusters, disks and people do, and print what was survived (an hour; FAULTS=--short: minutes)
	$(BIN)/python -m benchmarks.faults $(FAULTS)

check: .venv/ready  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

plan: .venv/ready  ## print the plan of SPEC (default: every spec in experiments/)
	$(BIN)/python launch/run.py plan $(if $(filter command line,$(origin SPEC)),$(SPEC),experiments/*.yaml experiments/amix/*.yaml)

samples:  ## put the committed pictures of the detection and segmentation smoke profiles into $RM_DATA_DIR
	@mkdir -p "$${RM_DATA_DIR:-$$HOME/.cache/recursivemix}"
	cp -r tests/data/*-sample "$${RM_DATA_DIR:-$$HOME/.cache/recursivemix}"
	python3 -m tests.support.rm.voc_sample "$${RM_DATA_DIR:-$$HOME/.cache/recursivemix}"

smoke: .venv/ready samples  ## run the smoke profile of every spec: each method and network on a handful of real images
	$(BIN)/python launch/run.py experiments/*.yaml experiments/amix/*.yaml --profile smoke || [ $$? -eq 3 ]  # 3: refused for want of files

report: .venv/ready  ## render the report of SPEC (default: quickstart)
	$(BIN)/python analysis/report.py $(SPEC)

readme-pictures: .venv/ready  ## make the README's pictures again (needs chromium)
	$(BIN)/python -m benchmarks.readme_pictures

MINUTES ?= 9
QUEUE ?= results/gpu-queue
TRIALS_PER_GPU ?= 2
SPECS ?= experiments/table3.yaml experiments/fig4.yaml experiments/fig5.yaml --where backbone=resnet18
gpu-queue: .venv/ready  ## train the next unfinished full-scale trials (or SPECS=...) on this machine's GPU for MINUTES
	$(BIN)/python launch/run.py export $(SPECS) --most 24 --to $(QUEUE)
	status=0; $(BIN)/python -m launch.backends.local $(QUEUE) --deadline $(MINUTES) --trials-per-gpu $(TRIALS_PER_GPU) || status=$$?; \
	[ $$status -ne 2 ]  # 75: some are left
	$(BIN)/python launch/run.py import $(QUEUE)/back/records.tar.gz
	$(BIN)/python -m analysis.reproduced

gpu-collect: .venv/ready  ## check what came back (ARCHIVE=...), add it to results/reproduced, mirror it
	$(BIN)/python launch/run.py import $(ARCHIVE)
	$(BIN)/python -m analysis.reproduced

PORT ?= 5000
mlflow: .venv/ready  ## browse the records at http://127.0.0.1:5000 (PORT=...; MLFLOW_BACKEND_STORE_URI=postgresql://... for another store)
	$(BIN)/python launch/run.py serve --port $(PORT)

clean:  ## remove the environment and caches; results stay
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

UPGRADE ?= --upgrade
lock:  ## renew requirements.lock (needs uv; UPGRADE= keeps the versions)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra dev $(UPGRADE) pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra downstream --constraint requirements.lock pyproject.toml --output-file downstream.lock

# This project itself, editable: `import rm` and the command `recursivemix` anywhere. Built with the setuptools of the lock, so nothing is downloaded.
SELF = if command -v uv >/dev/null; then \
	  uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .; \
	else \
	  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	fi

# The environment: uv where it is installed (seconds), else venv and pip (minutes). PYTHON=... names another interpreter.
.venv/ready: requirements.lock
	@python=""; \
	for candidate in $${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do \
	  if command -v $$candidate >/dev/null && $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "error: no Python 3.11 or newer found (looked for $${PYTHON:-python3.13 to python}); install one, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; fi; \
	echo "setting up .venv with $$($$python --version) (about 6 GB with CUDA libraries)"; \
	rm -rf .venv; \
	if command -v uv >/dev/null; then \
	  uv venv --quiet --python "$$(command -v $$python)" .venv; \
	  uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock; \
	else \
	  $$python -m venv .venv 2>/tmp/rm-venv-error.txt || { \
	    echo "error: $$python cannot make a virtual environment; install its venv module (Debian: apt install python3-venv) or uv" >&2; \
	    tail -n 3 /tmp/rm-venv-error.txt >&2; rm -rf .venv; exit 1; }; \
	  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock; \
	fi; \
	$(SELF)
	touch $@

# On top of it, whatever installed it: downstream.lock has the same versions of what both have.
.venv/downstream: .venv/ready downstream.lock
	if command -v uv >/dev/null; then \
	  uv pip install --quiet --python .venv/bin/python --require-hashes -r downstream.lock; \
	else \
	  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r downstream.lock; \
	fi
	touch $@

.PHONY: help quickstart downstream samples test test-all slurm-test check plan smoke report readme-pictures gpu-queue gpu-collect mlflow clean lock
