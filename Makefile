# Needs make and Python 3.11 or later; everything else is installed into .venv by `make setup`.
PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3.13 python3.14 python3,$(shell $(python) -c 'import sys; print(sys.executable)' 2>/dev/null)))
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-stamp
# pip and uv with this site's package mirror and certificates.
PIP    := $(BIN)/python tools/site_installer.py pip
UV     := $(BIN)/python tools/site_installer.py uv

.PHONY: help setup test e2e image-check chaos-generator check demo bench bench-generator bench-classifier bench-peers bench-peers-lock format protos lock clean bench-scaling manifest-tools manifest-lock edge-config monitoring
.DEFAULT_GOAL := help

help: ## Shows this list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Makes .venv from the hashed lock; quick when nothing changed.

$(STAMP): requirements.lock requirements-uv.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: install it, or run make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11: run make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --disable-pip-version-check --require-hashes --requirement requirements-uv.lock
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

test: setup ## Runs unit and contract tests; unit tests one file a process.
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

e2e: setup ## Starts and stops real stacks, fits a solver, emulates another processor; takes minutes.
	$(BIN)/python -m pytest tests/e2e

chaos-generator: setup ## Kills, cancels and disconnects while streams run; takes minutes.
	$(BIN)/python -m pytest tests/chaos -s

manifest-tools: $(VENV)/manifest-tools/.stamp ## checkov, from a hashed lock of its own: its pins do not fit ours.

$(VENV)/manifest-tools/.stamp: deploy/k8s/checkov.lock | setup
	@test -x $(VENV)/manifest-tools/bin/python || $(BIN)/python -m venv --without-pip $(VENV)/manifest-tools
	$(UV) pip sync --quiet --compile-bytecode --python $(VENV)/manifest-tools/bin/python --require-hashes deploy/k8s/checkov.lock
	@touch $@

manifest-lock: setup ## Locks checkov and what it needs.
	echo "checkov>=3.3,<4" | $(UV) pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make manifest-lock" --quiet --output-file deploy/k8s/checkov.lock

edge-config: setup ## Renders the edge's configuration for Kubernetes.
	$(BIN)/python tools/manifests.py edge-config

check: setup manifest-tools ## Format, lint, types, import rules, protos, stubs, lock, docs, Kubernetes manifests.
	@$(BIN)/python tools/check.py

image-check: ## Builds the images without a Docker engine and starts them; needs root, buildah, debootstrap.
	@deploy/images/check.sh

demo: setup ## Runs the whole pipeline on a phantom hospital into out/demo.
	$(BIN)/cytosynth demo --out out/demo

bench: setup ## Measures whether cyto-small generates the cells it is asked for: DATA=<ImageFolder of real cells>.
	@test -d "$(DATA)" || { echo "run make bench DATA=<folder with the Barcelona cells, one folder per class>"; exit 1; }
	$(BIN)/python -m benchmarks.generator.class_agreement --data "$(DATA)" --base cyto-small --out out/bench

bench-generator: setup ## Speed against the usual script, through gRPC, into out/bench/generator.json; an hour with DATA.
	$(BIN)/python -m benchmarks.generator.run $(if $(DATA),--data "$(DATA)")

bench-peers: $(VENV)/bench-peers/.stamp ## Servers that bench-classifier compares with, from a hashed lock of their own.

$(VENV)/bench-peers/.stamp: benchmarks/classifier/peers.lock | setup
	@test -x $(VENV)/bench-peers/bin/python || $(BIN)/python -m venv --without-pip $(VENV)/bench-peers
	$(UV) pip sync --quiet --compile-bytecode --python $(VENV)/bench-peers/bin/python --require-hashes benchmarks/classifier/peers.lock
	@touch $@

bench-peers-lock: setup ## Locks those servers and what they need.
	$(UV) pip compile benchmarks/classifier/peers.in --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make bench-peers-lock" --quiet --output-file benchmarks/classifier/peers.lock

bench-classifier: setup ## The classifier beside other model servers, and overloaded, into out/bench/classifier.json.
	@$(MAKE) --no-print-directory bench-peers || echo "the peers cannot be installed here: the report says so"
	$(BIN)/python -m benchmarks.classifier.run $(BENCH_OPTIONS)

bench-scaling: setup ## What a call, an image, a heartbeat and a replica cost, into out/bench/scaling.json; some minutes.
	$(BIN)/python -m benchmarks.scaling.run

monitoring: setup ## Every panel and alert against a live stack; needs prometheus and prometheus-alertmanager.
	$(BIN)/python -m benchmarks.monitoring.run --out out

format: setup ## Formats code and protos.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/buf format --write protos

protos: setup ## Generates the stubs from the protos.
	@$(BIN)/python tools/protos.py

lock: setup ## Locks the requirements of pyproject.toml, hashes included; keeps versions that still fit.
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements.lock
	echo uv | $(UV) pip compile - --constraint requirements.lock --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --quiet --output-file requirements-uv.lock

clean: ## Removes caches and outputs; keeps .venv and .cytosynth.
	rm -rf out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
