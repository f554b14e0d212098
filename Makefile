.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

.PHONY: help demo test
