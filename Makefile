# `make` alone prints what there is. Every target does its own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV := local/uv.sh
# after an update that was killed (docs/plugins.md); nothing otherwise
MEND := if $(UV) run --frozen stand killed; then pulumi cancel local --yes && pulumi refresh -s local \
  --yes --skip-preview --run-program=false --clear-pending-creates; fi

.PHONY: help setup up down status lint test demo-failover demo-burst bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## the virtual environment from uv.lock (nothing outside .venv and the user's cache)
	@# compiled once: pods mount it read-only, so they cannot
	@if cmp -s uv.lock .venv/compiled.lock; then $(UV) sync --frozen --quiet; \
	else $(UV) sync --frozen --compile-bytecode && cp uv.lock .venv/compiled.lock; fi

up: setup ## both sites, Vault and the program on this machine, again to repair; DATA=path: own data
	@$(UV) run --frozen stand up
	@$(UV) run --frozen python -m bento.ship $(if $(DATA),--data "$(DATA)") >/dev/null
	@eval "$$($(UV) run --frozen stand env)" && \
	  { pulumi stack select local 2>/dev/null || \
	    pulumi -C "$$(dirname "$$PULUMI_OPTION_CONFIG_FILE")" stack init local; } && \
	  { $(MEND); } && pulumi up -s local --yes --policy-pack policies \
	    $$($(UV) run --frozen stand untouched && echo --skip-preview)
	@$(UV) run --frozen stand status
	@eval "$$($(UV) run --frozen stand env)" && pulumi stack output -s local && \
	  pulumi stack output -s local --json | $(UV) run --frozen python -m local.ask && \
	  $(UV) run --frozen python -m local.overflow && \
	  pulumi stack export -s local | $(UV) run --frozen policies report --state /dev/stdin \
	    --stack local --output out/policies/deployed.md

down: setup ## remove all of it, and check that nothing is left on this machine
	@eval "$$($(UV) run --frozen stand env)" && \
	  up=$$($(UV) run --frozen stand status | grep -cE '^(private/api|cloud/api|vault) +up '); \
	  if [ "$$up" = 3 ] && pulumi stack select local 2>/dev/null; then \
	    $(MEND) && pulumi destroy -s local --yes; \
	  else echo "the stand is not up: nothing to destroy through it" >&2; fi
	@$(UV) run --frozen stand down

status: setup ## one line for each part of the stand
	@$(UV) run --frozen stand status

lint: setup ## ruff (format and rules) and pyright in strict mode
	@$(UV) run --frozen ruff format --check .
	@$(UV) run --frozen ruff check .
	@$(UV) run --frozen pyright

test: setup ## every test, slow ones included; brings the tools and starts the servers it needs
	@$(UV) run --frozen stand tools >/dev/null
	@PATH="$$($(UV) run --frozen stand bin):$$PATH" $(UV) run --frozen pytest

demo-failover: setup ## what shoppers notice while a node, a tunnel and each site are lost (root; after make up)
	@eval "$$($(UV) run --frozen stand env)" && \
	  pulumi config set -s local --path 'serving.sites[1]' cloud && pulumi up -s local --yes && \
	  pulumi stack output -s local --json | $(UV) run --frozen python -m benchmarks.failover

demo-burst: setup ## a training job that overflows into the cloud site (after make up, which ends with it)
	@$(UV) run --frozen python -m local.overflow

bench: setup ## every measurement, side by side with its peer, into out/bench/; DATA=path: public sets
	@PATH="$$($(UV) run --frozen stand bin):$$PATH" $(UV) run --frozen python -m benchmarks $(if $(DATA),--data "$(DATA)")

clean: ## what runs left in this folder (not the user's cache, not a running stand)
	@rm -rf out .pytest_cache .ruff_cache .hypothesis
