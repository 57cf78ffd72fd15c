# Targets that run Python create .venv first if it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
# Plain pip, which every Python has. The lock is complete and installed without resolution: Composer and Streaming
# declare upper bounds on torch, transformers and numpy that they do not need (see [tool.uv] in pyproject.toml).
INSTALLED := .venv/.installed
# Of pip's hundreds of lines, those about packages from 10 MB, and the last one.
LARGE := (Downloading|Using cached) [^ ]+ \([0-9]{2,}\.[0-9] MB\)|Installing collected packages
# With pipefail, a pipe fails if pip does.
SHELL := bash

.PHONY: help setup quickstart test test-slow test-gpu lint types contracts check audit lock clean test-faults

help:
	@echo "make quickstart   train a small ModernBERT on text from this machine (minutes; no GPU, no download of data)"
	@echo "make check        lint, types, contracts and tests: what CI runs"
	@echo "make test         the tests"
	@echo "make test-slow    the tests that take more than a minute"
	@echo "make test-faults  faults at random moments of a run, 1 to 4 ranks; a table of how each ended (half an hour)"
	@echo "make test-gpu     the tests that need a GPU"
	@echo "make lint         ruff: style and formatting"
	@echo "make types        mypy"
	@echo "make contracts    import-linter: which package may import which"
	@echo "make audit        known vulnerabilities and licences of requirements.lock, and its SBOM in build/sbom.cdx.json"
	@echo "make lock         update requirements.lock and requirements-dev.lock (needs uv)"
	@echo "make clean        remove .venv and the quickstart's files"

setup: $(INSTALLED)

$(INSTALLED): requirements.lock requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing $$(cat requirements*.lock | grep -c ==) packages into .venv: about 3 GB to download, mostly PyTorch's CUDA libraries, and 7 GB of disk"
	@set -o pipefail; $(BIN)/pip install --disable-pip-version-check --no-deps -r requirements.lock -r requirements-dev.lock | { grep --line-buffered -oE '$(LARGE)' || true; }
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The commands of a real run, on a small scale. After an interruption, `make quickstart` resumes.
quickstart: quickstart/store/manifest.json
	$(BIN)/modernbert train yamls/quickstart.yaml $(ARGS)
	$(BIN)/modernbert report quickstart/run
	$(BIN)/modernbert evaluate quickstart/run
	@rm -rf quickstart/exported
	$(BIN)/modernbert export quickstart/run quickstart/exported \
	  --fill "Return the [MASK] of the list." --fill "import numpy as [MASK]" --fill "This license is [MASK] by the copyright holder."

quickstart/store/manifest.json: quickstart/tokenizer/tokenizer.json
	$(BIN)/python -m data_prep tokenize quickstart/store --tokenizer quickstart/tokenizer --valid-fraction 0.05 --overwrite \
	  --input prose=quickstart/corpus/prose.jsonl.gz code=quickstart/corpus/code.jsonl.gz science=quickstart/corpus/science.jsonl.gz

quickstart/tokenizer/tokenizer.json: quickstart/corpus/science.jsonl.gz
	$(BIN)/python -m data_prep tokenizer quickstart/tokenizer --overwrite --vocab-size 4096 --input quickstart/corpus/*.jsonl.gz

quickstart/corpus/science.jsonl.gz: | setup
	$(BIN)/python -m data_prep corpus quickstart/corpus

# A worker more than there are cores, at most four: some tests wait for servers and for other processes. For a single
# worker: make test ARGS="-n 0".
WORKERS = $(shell $(BIN)/python -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))')
test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m 'slow and not gpu' $(ARGS)

test-faults: setup
	$(BIN)/python -m pytest -m 'faults or not slow' $(ARGS) tests/faults

test-gpu: setup
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

check: lint types contracts test

# The tools have a virtual environment of their own, so that what they depend on is not installed beside torch.
AUDIT := .venv/audit/bin
AUDIT_TOOLS := pip-audit==2.10.1 pip-licenses==5.5.5 cyclonedx-bom==7.5.0
# The names of requirements.lock that are installed here.
LOCKED = $$(sed 's/[=; ].*//' requirements.lock)
$(AUDIT)/.installed: Makefile
	$(PYTHON) -m venv .venv/audit
	$(AUDIT)/pip install --quiet --disable-pip-version-check $(AUDIT_TOOLS)
	@touch $@

# pip-audit passes over what the index does not know, so without PyPI it would find nothing.
KNOWN = https://pypi.org/pypi/torch/$$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' requirements.lock)/json
audit: setup $(AUDIT)/.installed
	@mkdir -p build
	$(AUDIT)/python -W ignore -m cyclonedx_py requirements requirements.lock --pyproject pyproject.toml --output-reproducible --validate -o build/sbom.cdx.json
	$(AUDIT)/pip-licenses --python $(BIN)/python --packages $(LOCKED) --output-file build/licences.txt
	@if $(AUDIT)/python -c 'import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=20)' $(KNOWN) 2>/dev/null; \
	  then $(AUDIT)/pip-audit --strict --disable-pip --no-deps -r requirements.lock; \
	  else echo "vulnerabilities: NOT CHECKED, because $(KNOWN) cannot be read from here"; fi

# What users install, and what developers install besides.
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url
lock:
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --quiet --extra dev --constraint requirements.lock | grep -vxFf requirements.lock > requirements-dev.lock

clean:
	rm -rf .venv quickstart runs/quickstart
