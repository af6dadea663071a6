# Everything starts from a bare machine with Python >= 3.11: the first target installs leanconv into .venv.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := leanconv tests $(wildcard benchmarks docs examples)

# uv reads no pip settings: hand on where packages come from
comma := ,
empty :=
space := $(empty) $(empty)
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
endif
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif

.DEFAULT_GOAL := help
.PHONY: help install demo docs test lint types tests format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## install leanconv and its tools into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "leanconv needs Python 3.11 or newer, and '$(PYTHON)' is not one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { echo "'$(PYTHON) -m venv' failed: install the venv module of your Python (python3-venv on Debian)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade
	@$(BIN)/python -m pip install --quiet uv || echo "no uv here; installing with pip, which takes longer"
	$(BIN)/python -m uv pip install --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev]' \
		|| $(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## train a network on the embedded digits and make it twice as fast, in a few minutes
	$(BIN)/leanconv demo

docs: $(STAMP) ## write the documentation site to build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

test: lint types tests ## lint, types and tests: what .ci/run runs

lint: $(STAMP) ## style, by ruff
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(STAMP) ## types, by mypy; pyproject.toml lists the packages
	$(BIN)/mypy

tests: $(STAMP) ## tests only, without the slow and the GPU ones
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lock: $(STAMP) ## write the installed versions to constraints.txt
	@{ echo "# Versions that leanconv is tested with; written by make lock. A platform's own packages (nvidia-*, triton) follow torch."; \
		$(BIN)/python -m pip list --format=freeze --exclude-editable | tr 'A-Z_' 'a-z-' \
		| grep -Eiv '^(nvidia|cuda|triton|leanconv|pip|uv|setuptools|wheel)([-_=])' | sed 's/+[^+]*$$//' ; } > constraints.tmp
	@mv constraints.tmp constraints.txt && touch $(STAMP)

clean: ## remove .venv, caches and build outputs; runs and data stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
