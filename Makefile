# Targets that run Python create .venv first if it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
# Plain pip, which every Python has. The lock is complete and installed without resolution: Composer and Streaming
# declare upper bounds on torch, transformers and numpy that they do not need (see [tool.uv] in pyproject.toml).
INSTALLED := .venv/.installed
# What the tests need besides: the extras evaluation and onnx, and developers' tools.
INSTALLED_ALL := .venv/.installed-all
# Of pip's hundreds of lines, those about packages from 10 MB, and the last one.
LARGE := (Downloading|Using cached) [^ ]+ \([0-9]{2,}\.[0-9] MB\)|Installing collected packages
# With pipefail, a pipe fails if pip does.
SHELL := bash

.PHONY: help setup setup-all quickstart test test-slow test-gpu lint types contracts check audit lock clean test-faults

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
	@echo "make audit        known vulnerabilities and licences of what users install, and SBOMs in build/"
	@echo "make lock         update the three lock files (needs uv)"
	@echo "make clean        remove .venv and the quickstart's files"

setup: $(INSTALLED)
setup-all: $(INSTALLED_ALL)

INSTALL = set -o pipefail; $(BIN)/pip install --disable-pip-version-check --no-deps $(1) | { grep --line-buffered -oE '$(LARGE)' || true; }
COUNT = installing $$(cat $(1) | grep -c ==) packages into .venv: about

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "$(call COUNT,requirements.lock) 3 GB to download, mostly PyTorch's CUDA libraries, and 7 GB of disk"
	@$(call INSTALL,-r requirements.lock)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(INSTALLED_ALL): $(INSTALLED) requirements-evaluation.lock requirements-dev.lock
	@echo "$(call COUNT,requirements-evaluation.lock requirements-dev.lock) 0.2 GB to download, and 0.8 GB of disk"
	@$(call INSTALL,-r requirements-evaluation.lock -r requirements-dev.lock)
	@touch $@

# The commands of a real run, on a small scale. After an interruption, `make quickstart` resumes.
quickstart: quickstart/store/manifest.json
	$(BIN)/modernbert train yamls/quickstart.yaml $(ARGS)
	$(BIN)/modernbert evaluate quickstart/run
	$(BIN)/modernbert report quickstart/run
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
test: setup-all
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup-all
	$(BIN)/python -m pytest -m 'slow and not gpu' $(ARGS)

test-faults: setup-all
	$(BIN)/python -m pytest -m 'faults or not slow' $(ARGS) tests/faults

test-gpu: setup-all
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: setup-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-all
	$(BIN)/mypy

contracts: setup-all
	$(BIN)/lint-imports

check: lint types contracts test

# The tools have a virtual environment of their own, so that what they depend on is not installed beside torch.
AUDIT := .venv/audit/bin
AUDIT_TOOLS := pip-audit==2.10.1 pip-licenses==5.5.5 cyclonedx-bom==7.5.0
# What users install; the tools of developers are not audited.
LOCKS := requirements.lock requirements-evaluation.lock
# The names in them that are installed here.
LOCKED = $$(cat $(LOCKS) | sed 's/[=; ].*//')
SBOM = $(AUDIT)/python -W ignore -m cyclonedx_py requirements $(1) --pyproject pyproject.toml --output-reproducible --validate -o build/$(2)
$(AUDIT)/.installed: Makefile
	$(PYTHON) -m venv .venv/audit
	$(AUDIT)/pip install --quiet --disable-pip-version-check $(AUDIT_TOOLS)
	@touch $@

# pip-audit passes over what the index does not know, so without PyPI it would find nothing.
KNOWN = https://pypi.org/pypi/torch/$$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' requirements.lock)/json
audit: setup-all $(AUDIT)/.installed
	@mkdir -p build
	$(call SBOM,requirements.lock,sbom.cdx.json)
	$(call SBOM,requirements-evaluation.lock,sbom-evaluation.cdx.json)
	$(AUDIT)/pip-licenses --python $(BIN)/python --packages $(LOCKED) --output-file build/licences.txt
	@if $(AUDIT)/python -c 'import sys, urllib.request as web; web.urlopen(sys.argv[1], timeout=20)' $(KNOWN) 2>/dev/null; \
	  then $(AUDIT)/pip-audit --strict --disable-pip --no-deps $(addprefix -r ,$(LOCKS)); \
	  else echo "vulnerabilities: NOT CHECKED, because $(KNOWN) cannot be read from here"; fi

# Each lock holds only what comes on top of the ones before it, and fits them.
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --no-annotate --no-header --no-emit-index-url
ON_TOP_OF = $(addprefix --constraint ,$(1)) | grep -vf <(cat $(1) | sed 's/==.*/==/; s/^/^/')
lock:
	$(COMPILE) --output-file requirements.lock
	$(COMPILE) --quiet --extra evaluation --extra onnx $(call ON_TOP_OF,requirements.lock) > requirements-evaluation.lock
	$(COMPILE) --quiet --extra dev $(call ON_TOP_OF,$(LOCKS)) > requirements-dev.lock

clean:
	rm -rf .venv quickstart runs/quickstart
