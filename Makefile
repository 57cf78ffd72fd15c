# Everything a fresh machine needs: `make quickstart` and `make test` set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
# Plain pip: every Python has it. The lock is complete and is installed without resolution, because two
# libraries still declare upper bounds on torch, transformers and numpy that they do not need.
INSTALLED := .venv/.installed

.PHONY: help setup quickstart test test-slow test-gpu lint types floors check lock clean

help:
	@echo "make quickstart   pretrain a small ModernBERT on text found on this machine (minutes, no GPU, no download of data)"
	@echo "make test         run the tests          make check   lint, types, floors and tests"
	@echo "make test-slow    the long tests         make test-gpu   the tests that need a GPU"
	@echo "make lock         write requirements.lock anew (needs uv)"

setup: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The main job in miniature, by the same commands as a real run; a second `make quickstart` goes on where it stopped.
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
	$(BIN)/python -m data_prep tokenizer quickstart/tokenizer --vocab-size 4096 --input quickstart/corpus/*.jsonl.gz

quickstart/corpus/science.jsonl.gz: | setup
	$(BIN)/python -m data_prep corpus quickstart/corpus

# A worker for every core, up to four: many tests start several processes of their own. In one: make test ARGS="-n 0".
test: setup
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m 'slow and not gpu' $(ARGS)

test-gpu: setup
	$(BIN)/python -m pytest -m gpu $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

floors: setup
	$(BIN)/lint-imports

check: lint types floors test

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --output-file requirements.lock

clean:
	rm -rf .venv quickstart runs/quickstart
