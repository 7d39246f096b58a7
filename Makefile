# The two commands are `make demo` and `make test`; `make help` lists the rest.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo test unit integration cluster-test test-slow lint format bench cluster cluster-stop wheel clean

help:  ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[embedded,demo,dev]'
	@touch $@

demo: $(STAMP)  ## track a real training on a real Slurm, from nothing
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

.PHONY: tour
tour: $(STAMP)  ## use every verb on the mini cluster for real, and write what they say into docs/tour.md
	scripts/minicluster.py start
	eval "$$(scripts/minicluster.py env)" && PATH="$(CURDIR)/$(BIN):$$PATH" scripts/tour.py docs/tour.md

.PHONY: test-programs
test-programs:
	@scripts/install_test_programs.sh

# The cluster's tests mostly wait: they have one process to themselves, the others share the rest.
test: $(STAMP) test-programs  ## everything: unit, integration (real PostgreSQL), cluster (real Slurm); writes build/junit.xml
	@mkdir -p build
	$(BIN)/python -m pytest -n 4 --dist loadgroup --junitxml=build/junit.xml $(PYTEST_ARGS)

unit: $(STAMP)  ## the pure tests only: seconds
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

.PHONY: explore
explore: $(STAMP)  ## the properties among the tests, on thousands of examples that were never tried
	HYPOTHESIS_PROFILE=new $(BIN)/python -m pytest tests/unit -n auto -m hypothesis $(PYTEST_ARGS)

integration: $(STAMP)  ## tests on a real PostgreSQL
	$(BIN)/python -m pytest tests/integration $(PYTEST_ARGS)

cluster-test: $(STAMP)  ## tests on a real Slurm
	$(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)

test-slow: $(STAMP) test-programs  ## what takes minutes or gigabytes: storms, partitions, millions of rows
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff, mypy --strict, import rules, complexity, whether the documents name what there is
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_imports.py tests/unit/test_complexity.py tests/unit/test_documents.py

format: $(STAMP)  ## put the code in ruff's format
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure every promise that has a number; writes build/bench.json
	@mkdir -p build
	$(BIN)/python -m benchmarks --output build/bench.json

cluster:  ## start the mini cluster: a real four-node Slurm on this machine
	$(PYTHON) scripts/minicluster.py start

cluster-stop:  ## stop the mini cluster
	$(PYTHON) scripts/minicluster.py stop

wheel: $(STAMP)  ## build both wheels: hpctrack, and hpctrack-script, which it depends on
	$(BIN)/python -m build --wheel --outdir build/dist packages/script
	HPCTRACK_DIVIDE=1 $(BIN)/python -m build --wheel --outdir build/dist .

clean:  ## remove what was built
	rm -rf build dist $(VENV)
