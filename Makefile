# PersonaAgent on Ray. `make help` lists the targets.

PYTHON ?= python3.11
# What to install: `cpu` (locked, no GPU needed) or `gpu` (the CUDA build of vLLM that Ray pins). One venv each.
EXTRA ?= cpu
# The served model: `embedded`, a Hugging Face id or a local path.
MODEL ?= embedded
VENV ?= $(if $(filter gpu,$(EXTRA)),.venv-gpu,.venv)
# More arguments for the command of a target: make demo ARGS="--keep"; make test ARGS="-k reader"
ARGS ?=

# PyPI has torch with CUDA only; an exact `+cpu` version comes from torch's own index, or from any other the user has set.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
BUSY := $(VENV)/.installing
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
COMPILE := uv pip compile pyproject.toml --extra cpu --extra dev --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 --override requirements/overrides.txt --no-annotate --no-header \
  --generate-hashes --no-emit-package torch

.PHONY: help setup demo serve test test-ray test-others test-quick check format lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  variables: EXTRA=cpu|gpu  MODEL=embedded|<Hugging Face id>|<path>  ARGS=\"...\"  PYTHON=python3.11  VENV=.venv"

setup: $(STAMP) ## install into the venv; instant when nothing changed

demo: $(STAMP) ## the whole loop on bundled histories, with a report
	$(BIN)/personaagent demo --model "$(MODEL)" $(ARGS)

# On a laptop there is one person, so clients that name nobody mean them. A server of several sets no default user.
serve: $(STAMP) ## the OpenAI-compatible server; GPU: make serve EXTRA=gpu MODEL=<Hugging Face id>
	$(BIN)/personaagent serve --model "$(MODEL)" --set serve.default_user=me $(ARGS)

# Those on a real Ray mostly wait for processes to start, so they run beside the others; what they say comes when they are done.
test: $(STAMP) ## all tests
	@$(MAKE) --no-print-directory -j 2 test-ray test-others

test-ray: $(STAMP)
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	rc=0; { $(call TESTS,-m cluster); } > "$$log" 2>&1 || rc=$$?; cat "$$log"; exit $$rc

test-others: $(STAMP)
	$(call TESTS,-n 2 --dist worksteal -m "not cluster")

test-quick: $(STAMP) ## while you work: pure tests that need no Milvus server and are not slow
	$(call TESTS,-n 2 --dist worksteal -m "not cluster and not model and not milvus and not slow")

check: $(STAMP) ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## format the code and apply what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(STAMP) ## newest versions that fit pyproject.toml into requirements/cpu.lock (needs the network)
	$(BIN)/$(COMPILE) --upgrade --quiet --output-file requirements/cpu.lock.new
	mv requirements/cpu.lock.new requirements/cpu.lock
	sed -n 's/^\(torch==[0-9.]*\)$$/\1+cpu/p' requirements/overrides.txt > requirements/cpu-torch.lock

clean: ## remove caches and reports (not the venv: rm -rf .venv)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info personaagent-report*.html
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# ARGS may select tests of one kind only: that none of the other kind is left (5) is no failure.
TESTS = $(BIN)/python -m pytest $(1) $(ARGS) || [ $$? -eq 5 ]

# An install that was interrupted may leave packages that look complete, so it starts over. The stamp comes last.
$(STAMP): pyproject.toml $(wildcard requirements/$(EXTRA)*.lock)
	$(if $(filter cpu gpu,$(EXTRA)),,$(error EXTRA is cpu or gpu, not '$(EXTRA)'))
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or set PYTHON=" >&2; exit 1; }
	@if [ -e $(BUSY) ]; then echo "an earlier set-up was interrupted; starting over"; rm -rf $(VENV); fi
	@[ -x $(BIN)/python ] && $(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); }
	@touch $(BUSY)
	@echo "installing into $(VENV); a few minutes the first time"
	$(INSTALL_$(EXTRA))
	@rm -f $(BUSY)
	@touch $(STAMP)

define INSTALL_cpu
	$(PIP) install --retries 1 --no-deps --extra-index-url $(TORCH_INDEX) -r requirements/cpu-torch.lock
	$(PIP) install --no-deps --require-hashes -r requirements/cpu.lock
	$(PIP) install --no-deps --no-build-isolation -e .
endef

# Not locked: the build depends on the machine's CUDA. Ray pins the vLLM, and vLLM the torch.
define INSTALL_gpu
	$(PIP) install -e ".[gpu,dev]"
endef
