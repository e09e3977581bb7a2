# One command per outcome; `make help` lists them. Needs Python 3.11 and make, nothing else.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCKS := requirements
QUIET := --quiet --disable-pip-version-check
HASHED := --require-hashes --no-deps --no-build-isolation
TORCH := $(shell grep '^torch==' constraints.txt)
BUILD_TOOLS := pip|setuptools|wheel
UV := uv==0.13.9
LOCK := .cache/uv/bin/uv pip compile - --quiet --no-config --python-version 3.11 --generate-hashes --no-header --no-annotate
LLAMA := llama-cpp-python[server]==0.3.36
SERVER_VENV := .venv-server
SERVER_STAMP := $(SERVER_VENV)/.installed
# Only what the server needs; C++ at -O1 halves the time, the kernels that count are C.
SERVER_CMAKE := -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF \
  -DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF -DCMAKE_CXX_FLAGS_RELEASE='-O1 -DNDEBUG'
DEMO := demo
TOURNAMENT := tournaments/$(DEMO)
REPORT := reports/$(DEMO)
DEMO_TRAIN := python -m harness.run -m +experiment=demo
DEMO_LEADERBOARD := python -m analysis leaderboard --sweep $(DEMO) --max-questions 12 \
  --with "generate --max-new-tokens 48" --with "judge --max-answer-tokens 48" --tournament $(TOURNAMENT) --out $(REPORT)

TABLES := $(addprefix table,1 2 3 4 5 6 7 8 9 10 11 12)

SAMPLE := 40
SEED := 0

# Modules are compiled once, not by each of hundreds of processes, also where the environment says otherwise.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
DATA := $(or $(HARNESS_DATA_STORE),data)

.PHONY: help setup demo data reproduce figures $(TABLES) test test-slow mutants server lint format constraints clean

help:  ## What each target does
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP)  ## Create .venv and install everything, pinned

# With hashes all but PyTorch, whose build follows the machine (CPU, a CUDA version): no one hash fits all users.
# Nothing is built in isolation, where pip would fetch build tools that nobody pinned.
$(STAMP): pyproject.toml constraints.txt $(LOCKS)/build.lock $(LOCKS)/setup.lock
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into $(VENV) (PyTorch is large: a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip $(QUIET) install $(HASHED) -r $(LOCKS)/build.lock
	$(BIN)/pip $(QUIET) install $(HASHED) -r $(LOCKS)/setup.lock
	$(BIN)/pip $(QUIET) install -c constraints.txt $(TORCH)
	$(BIN)/pip $(QUIET) install --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup  ## Train, measure, judge and rank four adapters and their base; reports/demo/index.html
	$(BIN)/$(DEMO_TRAIN)
	$(BIN)/$(DEMO_LEADERBOARD)

data: setup  ## Fetch the judgments that the paper's authors released (pinned, checked); needs a network
	$(BIN)/python -m analysis data --data $(DATA)

reproduce: setup  ## Every table of the paper, ours beside it (one: make table5), from your runs and the judgments in data/
	$(BIN)/python -m analysis tables all --data $(DATA)

figures: setup  ## The paper's Figures 2, 3, 4 and 6 from your runs and predicted memory: reports/figures
	$(BIN)/python -m analysis figures all

$(TABLES): setup
	$(BIN)/python -m analysis tables $(@:table%=%) --data $(DATA)

test: setup  ## The fast suite: CPU, no network, minutes
	$(BIN)/python -m pytest -q -m "not slow and not gpu" -n 3 --dist loadfile --no-loadscope-reorder

test-slow: setup  ## The slow suite: real models, a real chat server, fault injection, parity with other tools
	-@$(MAKE) --no-print-directory server
	$(BIN)/python -m pytest -q -m "slow and not gpu and not alone" -n 2 --dist loadfile
	$(BIN)/python -m pytest -q -m "slow and not gpu and alone" -n 2 --dist loadfile

mutants: setup  ## Which wrong lines do the fast tests miss? MODULES="harness/nn eval" SAMPLE=40 SEED=0 TESTS= NAMED= JSON=
	$(BIN)/python -m tests.mutants $(MODULES) --sample $(SAMPLE) --seed $(SEED) \
	  $(if $(TESTS),--tests $(TESTS)) $(if $(NAMED),--named) $(if $(JSON),--json $(JSON))

server: setup $(SERVER_STAMP)  ## A real OpenAI-compatible server for test-slow, in its own environment (compiles: 3-5 minutes)

$(SERVER_STAMP): $(LOCKS)/server_build.lock $(LOCKS)/server.lock
	@echo "compiling llama-cpp-python into $(SERVER_VENV) (needs a C++ compiler; once)"
	$(PYTHON) -m venv $(SERVER_VENV)
	$(SERVER_VENV)/bin/pip $(QUIET) install $(HASHED) -r $(LOCKS)/server_build.lock
	CMAKE_ARGS="$(SERVER_CMAKE)" $(SERVER_VENV)/bin/pip $(QUIET) install $(HASHED) -r $(LOCKS)/server.lock
	@touch $(SERVER_STAMP)

lint: setup  ## ruff, mypy strict, import-linter, the tree of folders
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.check_layout

format: setup  ## Rewrite the code as ruff has it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: setup  ## Pin what is installed now: constraints.txt, and from it the hashes of requirements/
	( echo "# Every package the project is built and tested with; \`make setup\` installs these from requirements/,"; \
	  echo "# where their hashes are. Re-made with \`make constraints\`."; \
	  $(BIN)/pip freeze --all --exclude-editable | grep == | sed 's/+cpu//' | sort -f ) > constraints.txt
	$(BIN)/pip $(QUIET) install --upgrade --target .cache/uv $(UV)
	grep -E '^($(BUILD_TOOLS))==' constraints.txt | $(LOCK) --no-deps > $(LOCKS)/build.lock
	grep -Ev '^(#|torch==|($(BUILD_TOOLS))==)' constraints.txt | $(LOCK) --no-deps > $(LOCKS)/setup.lock
	printf '%s\n' pip cmake ninja 'scikit-build-core[pyproject]' | $(LOCK) -c constraints.txt > $(LOCKS)/server_build.lock
	echo $(LLAMA) | $(LOCK) -c constraints.txt > $(LOCKS)/server.lock

clean:  ## Remove what the demo reports; your runs and the installation stay
	rm -rf $(REPORT) $(TOURNAMENT)
