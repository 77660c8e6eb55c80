# SPDX-License-Identifier: Apache-2.0
#
# `make run` serves an application, `make test` checks everything, `make help` lists the rest.

# What `make run` serves, and how. OPTS is an Erlang map with any of the options.
APP = app:app
APP_DIR = examples/fastapi_app
BIND = 127.0.0.1:8000
WORKERS =
OPTS =
# The Python that .venv is made with.
PYTHON = python3

VENV_PYTHON = .venv/bin/python

# What `make bench` measures and how; all jobs and peers where none are named. REPORT is a page
# to put the tables into.
JOB =
PEERS =
ROUNDS = 3
SECONDS = 6
SCALE = 1
REPORT =
BENCH_VENV = .venvs/bench

# `make counts UPDATE=yes` writes the table of bounds.
UPDATE =

export APP APP_DIR BIND WORKERS OPTS

.DEFAULT_GOAL = help
.NOTPARALLEL:
.PHONY: help run deps build venv test test-deps test-build lint types xref dialyzer eunit ct pytest \
	conformance coverage edoc bench counts soak codec-asan clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)
	@echo
	@echo "  make run APP=module:attr APP_DIR=folder BIND=127.0.0.1:9000 WORKERS=2 \\"
	@echo "           OPTS='#{lifespan => on}'"

run: build ## serve the example, or APP, in the foreground
	@RUN_PYTHON=$(VENV_PYTHON) exec scripts/run.sh

deps: ## get the Erlang dependencies
	@scripts/system.sh run $(PYTHON)
	@scripts/deps.sh

build: deps venv ## compile the Erlang and C code
	@QUIET=1 rebar3 compile
	@scripts/build_ext.sh $(VENV_PYTHON)

venv: deps
	@scripts/venv.sh $(PYTHON) requirements/uvloop.txt $(wildcard $(APP_DIR)/requirements.txt)

test: ## check everything: style, types, both test suites
	@scripts/test.sh

test-deps: deps
	@scripts/system.sh test $(PYTHON)
	@scripts/venv.sh $(PYTHON) requirements/test.txt

test-build: build test-deps

# test.sh prepares once for all of them.
ifndef PREPARED
lint types xref dialyzer edoc codec-asan: test-deps
eunit ct pytest conformance counts soak: test-build
endif

lint: ## check the style of the Python code
	@$(VENV_PYTHON) -m ruff format --check .
	@$(VENV_PYTHON) -m ruff check .

types: ## check the types of the Python code
	@$(VENV_PYTHON) -m mypy

xref: ## check the calls between Erlang modules
	@rebar3 xref

dialyzer: ## check the types of the Erlang code; minutes the first time
	@rebar3 dialyzer

edoc: ## check that the Erlang documentation can be made
	@rebar3 edoc

eunit: ## run the unit tests inside Erlang modules
	@rebar3 eunit --cover

ct: ## run the Erlang test suites
	@rebar3 ct --cover --readable=compact

pytest: ## run the Python test suite
	@$(VENV_PYTHON) -m coverage erase
	@$(VENV_PYTHON) -m pytest -n auto --dist worksteal --cov --cov-report=term

# Some of the cases by CASES='6.* 12.1.1'.
conformance: ## run Autobahn's WebSocket cases; minutes, and needs a Python 2.7
	@scripts/conformance.sh $(VENV_PYTHON) $(CASES)

coverage: ## print how much of the Erlang code the last run of its suites covered
	@rebar3 cover

# Some of them by SOAK='echo kills'.
soak: ## run the long tests under load and faults; minutes
	@PYTHONPATH=tests $(VENV_PYTHON) -m faults $(SOAK)

bench: deps ## measure Hornbeam beside its peers; JOB=hello PEERS=uvicorn ROUNDS=5 for some
	@scripts/system.sh bench $(PYTHON)
	@QUIET=1 rebar3 compile
	@VENV=$(BENCH_VENV) scripts/venv.sh $(PYTHON) requirements/bench.txt
	@scripts/build_ext.sh $(BENCH_VENV)/bin/python
	@$(BENCH_VENV)/bin/python -m bench --job '$(JOB)' --peers '$(PEERS)' --rounds $(ROUNDS) \
		--seconds $(SECONDS) --scale $(SCALE) $(if $(REPORT),--report '$(REPORT)')

counts: ## print what a request takes, in counts that are the same on all machines
	@PYTHONPATH=tests $(VENV_PYTHON) -m counts $(if $(UPDATE),--update)

codec-asan: ## feed what is in C hostile input under AddressSanitizer
	@scripts/codec_asan.sh $(VENV_PYTHON)

clean: ## remove what was built
	@rm -rf _build build .coverage* .mypy_cache .pytest_cache .ruff_cache
	@find python -name '*.so' -delete -o -name '__pycache__' -prune -exec rm -rf {} +
