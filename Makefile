# `make` alone prints what there is. Every target does its own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV := local/uv.sh

.PHONY: help setup lint test bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## the virtual environment from uv.lock (nothing outside .venv and the user's cache)
	@$(UV) sync --frozen --quiet

lint: setup ## ruff (format and rules) and pyright in strict mode
	@$(UV) run --frozen ruff format --check .
	@$(UV) run --frozen ruff check .
	@$(UV) run --frozen pyright

test: setup ## every test, slow ones included; brings the tools and starts the servers it needs
	@$(UV) run --frozen stand tools >/dev/null
	@PATH="$$($(UV) run --frozen stand bin):$$PATH" $(UV) run --frozen pytest

bench: setup ## every measurement, side by side with its peer; writes out/bench/
	@$(UV) run --frozen python -m benchmarks

clean: ## what runs left in this folder (not the user's cache, not a running stand)
	@rm -rf out .pytest_cache .ruff_cache .hypothesis
