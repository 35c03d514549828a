# Two commands set everything up on a fresh machine: `make up` and `make test`. All else is an Invoke command:
# `.venv/bin/invoke --list`.
PYTHON ?= python3
.DEFAULT_GOAL := help
.PHONY: help up down test lint

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 16

up: .venv/ops ## bring the stack up, run a task through it, print where everything is
	@.venv/bin/invoke up --try-it

down: .venv/ops ## stop the stack; its data is kept
	@.venv/bin/invoke down

test: .venv/dev ## lint, then run every test that this machine can run
	@.venv/bin/invoke test

lint: .venv/dev ## check style and types of everything
	@.venv/bin/invoke lint

# The locked dependencies: of operators (ops), and those of tests and linters too (dev). Made again when a lock changes.
.venv/%: requirements/%.txt
	@test -x .venv/bin/pip || $(PYTHON) deploy/venv.py .venv
	@echo "installing $< into .venv"
	@.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
