# make run, make test: a fresh machine with Python 3.11 needs nothing else.
# VENV=path uses another environment; VENV= (empty) uses the active one if its versions fit.
VENV ?= .venv
PYTHON ?= python3
PY := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
STAMP := $(if $(VENV),$(VENV)/.lossatlas-ready,.env-checked)

.PHONY: help run test budget lint study report clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(STAMP)  ## environment, data and the main job: ALDR-KL on noisy UCI Letter
	$(PY) -m run experiment=ldr_noisy

test: $(STAMP)  ## environment and the tests; paper=ldr: one paper's, core=1: all but the papers'
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(if $(paper),--paper $(paper)) $(if $(core),--core)

budget: $(STAMP)  ## the tests, failing where a paper's cost more than 45 processor seconds
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal --budget $(if $(paper),--paper $(paper))

lint: $(STAMP)  ## ruff and pyright
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

study: $(STAMP)  ## the main comparison on all cores, with verdicts
	$(PY) -m run -m experiment=ldr_noisy hydra/launcher=stacked

report: $(STAMP)  ## the atlas: report/index.html, all papers, claims and plots
	$(PY) -m lossatlas.report

clean:  ## removes outputs and caches, not the environment
	rm -rf outputs report .pytest_cache .ruff_cache dist build

$(VENV)/.lossatlas-ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	    || { echo "lossatlas: requirements.lock is for Python 3.11; name one with PYTHON=python3.11"; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -q -r requirements.lock
	$(VENV)/bin/python -m pip install --disable-pip-version-check -q --no-build-isolation --no-deps -e .
	touch $@

.PHONY: .env-checked
.env-checked:
	@$(PY) scripts/check_env.py requirements.lock
