# The front door. `make up` shows a tool call through a real tunnel; `make test` runs the tests; `make help` lists the rest.

SHELL := /bin/sh
PYTHON ?=
ARGS ?=
DIST := dist
TEST_VENV := .venv-test$(if $(PYTHON),-$(notdir $(PYTHON)))
VERSIONS := 3.11 3.12 3.13
# A file's tests stay in one process: they share its fixtures.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
IMAGE := penstock:$(VERSION)
IMAGE_ARGS ?=
SOURCES := pyproject.toml README.md $(shell find src -type f -not -name '*.pyc')

.DEFAULT_GOAL := help
.PHONY: help up test test-all check lint types imports fmt bench fuzz e2e e2e-packages image reference requirements clean venv venv-test

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  \1\t/' | expand -t 18

up: venv  ## a real tool call through a real tunnel, then stay up; ARGS="--once" passes flags
	@.venv/bin/penstock up $(ARGS)

test: venv-test  ## install what tests need and run them on the built wheel; ARGS="-k name" passes flags
	$(TEST_VENV)/bin/python -m pytest $(PARALLEL) $(ARGS)

test-all:  ## the tests on every supported Python that is installed
	@for version in $(VERSIONS); do \
	  if "python$$version" -c pass 2>/dev/null; then $(MAKE) --no-print-directory test PYTHON="python$$version" || exit 1; \
	  else echo "python$$version is not installed: not run"; fi; \
	done

check: lint types imports test e2e-packages  ## everything CI runs

lint: venv-test  ## style
	$(TEST_VENV)/bin/ruff check
	$(TEST_VENV)/bin/ruff format --check

types: venv-test  ## strict types
	$(TEST_VENV)/bin/basedpyright --pythonpath $(TEST_VENV)/bin/python

imports: venv-test  ## the layers: what may import what
	$(TEST_VENV)/bin/lint-imports

fmt: venv-test  ## put the code into the house's form
	$(TEST_VENV)/bin/ruff check --fix-only --quiet
	$(TEST_VENV)/bin/ruff format

e2e: venv-test  ## real processes and real clients, minutes
	$(TEST_VENV)/bin/python -m pytest -m e2e -o faulthandler_timeout=500 $(ARGS)

# Real processes and real clients that need nothing but packages, and little time: the charts, the pages of roles and of moving.
PACKAGES := tests/docs tests/e2e/test_chart.py tests/e2e/test_platform_chart.py tests/e2e/test_roles_page.py tests/e2e/test_stack.py

e2e-packages: venv-test  ## of e2e what needs no engine and no program from elsewhere, about a minute
	$(TEST_VENV)/bin/python -m pytest -m e2e $(PARALLEL) $(PACKAGES)

fuzz: venv-test  ## look for inputs that break parsers, a minute each; ARGS="--seconds 600 requests"
	$(TEST_VENV)/bin/python -m fuzz $(ARGS)

bench: venv-test  ## measure the chain; writes docs/performance.md
	$(TEST_VENV)/bin/python -m bench $(ARGS)

image:  ## the image of every role, and the list of what is inside in dist/ (needs Docker with BuildKit)
	docker build --file deploy/image/Dockerfile --build-arg VERSION=$(VERSION) --tag $(IMAGE) $(IMAGE_ARGS) .
	docker build --file deploy/image/Dockerfile --target sbom --output $(DIST) $(IMAGE_ARGS) .

reference: venv-test  ## write docs/configuration.md, docs/cli.md and the chart's schema anew from what they tell of
	$(TEST_VENV)/bin/python -m tools.configuration_page
	$(TEST_VENV)/bin/python -m tools.chart_schema
	$(TEST_VENV)/bin/python -m tools.command_page

COMPILE := uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 pyproject.toml

requirements:  ## compile the hashed constraints anew (needs uv)
	$(COMPILE) --extra up --group build -o requirements/up.txt
	$(COMPILE) --extra up --extra postgresql --extra acme --group build --group test --group check -c requirements/up.txt -o requirements/test.txt
	$(COMPILE) --extra up --extra postgresql --extra acme -c requirements/test.txt -o requirements/image.txt
	uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 --group pyproject.toml:image \
	  -o requirements/build.txt

clean:  ## remove what was built and installed here
	rm -rf .venv .venv-test* .venv-node $(DIST) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

venv:
	@tools/environment .venv requirements/up.txt $(PYTHON)

# The tests' environment holds the wheel, not the source tree: what is tested is what is shipped.
venv-test: $(TEST_VENV)/.wheel

$(TEST_VENV)/.wheel: $(SOURCES) requirements/test.txt tools/environment tools/install_wheel.py
	@PENSTOCK_INSTALL=none tools/environment $(TEST_VENV) requirements/test.txt $(PYTHON)
	@rm -rf $(DIST)
	@$(TEST_VENV)/bin/python -m build --wheel --no-isolation --outdir $(DIST) . >$(TEST_VENV)/build.log 2>&1 || { cat $(TEST_VENV)/build.log; exit 1; }
	@$(TEST_VENV)/bin/python tools/install_wheel.py $(DIST)
	@touch $@
