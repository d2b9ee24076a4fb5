# Everything runs in .venv, which this file makes itself: python3 and make are all it needs.
# Another interpreter: `make PYTHON=python3.12 ...` (remove .venv first).

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help demo test slow check format docs results references published compression strategies rounds large arena benchmarks device-check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/.installed ## federated matrix factorization on MovieLens-100K, in under two minutes
	@$(BIN)/fedjax-rec run configs/quickstart.yaml --out runs/quickstart

WORKERS := 2
test: .venv/.dev ## the fast tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

slow: .venv/.dev ## the slow tests only
	@$(BIN)/python -m pytest -m slow

check: .venv/.dev ## lint, formatting and types
	@$(BIN)/ruff check --quiet --output-format concise
	@$(BIN)/ruff format --check --quiet || { echo "Some files are not formatted; use make format." >&2; exit 1; }
	@$(BIN)/pyright

format: .venv/.dev ## format, and fix what the linter can
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

docs: .venv/.dev ## the docs site, into site/, strictly
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

# One file of runs each, which says what the target needs and writes its section of docs/results.md.
RUNS := @$(BIN)/fedjax-rec runs configs/runs

results: references published compression strategies rounds large ## all runs behind docs/results.md (needs ml-1m in FEDJAX_REC_DATA)

references: .venv/.installed ## lines of reference: central closed forms, and FedMF by one client (fifteen minutes; needs ml-1m)
	$(RUNS)/references.yaml

published: .venv/.installed ## FedMF, FedNCF and PFedRec as published, three seeds (20 minutes; needs ml-1m)
	$(RUNS)/published.yaml

compression: .venv/.installed ## the curve of quality against bytes (an hour; needs ml-1m in FEDJAX_REC_DATA)
	$(RUNS)/compression.yaml

strategies: .venv/.installed ## all strategies on MovieLens-100K, three seeds, and their table (an hour)
	$(RUNS)/strategies.yaml

rounds: .venv/.installed ## rounds to target, averaging against gradient sharing (half an hour)
	$(RUNS)/rounds.yaml

large: .venv/.installed ## large models: adapters, item texts, sequences, clicks (six hours; needs weights and ml-1m)
	$(RUNS)/large.yaml

arena: .venv/.installed ## attacks against defences on MovieLens-100K, and their heat map in docs/robustness.md (two hours)
	@$(BIN)/fedjax-rec arena configs/arena/ml100k.yaml

benchmarks: .venv/.installed ## measure, and write the pages docs/benchmarks*.md (half an hour on a quiet machine)
	@$(BIN)/fedjax-rec bench rounds-100k rounds-1m first tables cohort compress fedjax-100k fedjax-1m \
	  --markdown docs/benchmarks.md
	@$(BIN)/fedjax-rec bench strategies adapters clicks --markdown docs/benchmarks_more.md
	@$(BIN)/fedjax-rec bench devices sweep --markdown docs/benchmarks_scale.md
	@$(BIN)/fedjax-rec bench row-blocks --markdown docs/benchmarks_rows.md
	@$(BIN)/fedjax-rec bench files --markdown docs/benchmarks_data.md
	@NPROC=2 $(BIN)/fedjax-rec bench adapters --markdown docs/benchmarks_threads.md
	@$(BIN)/fedjax-rec bench rounds-100k tables cohort --profile runs/traces --markdown docs/benchmarks_profile.md
	@$(BIN)/fedjax-rec bench sharing --markdown docs/benchmarks_sharing.md
	@$(BIN)/fedjax-rec bench decoders --markdown docs/benchmarks_decoders.md
	@$(BIN)/fedjax-rec bench base-pieces memory --markdown docs/benchmarks_memory.md
	@$(BIN)/fedjax-rec bench peers --markdown docs/benchmarks_peers.md

# Here .venv is not made: a lent machine has a python3 with a jax of its own, and no network. Wheels in
# .whl are what it lacks, see docs/devices.md.
DEVICE_PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
DEVICE_OUT := runs/device
device-check: ## what an accelerator does, into runs/device (eight minutes; needs no network)
	@site=$$(mktemp -d); trap 'rm -rf "$$site"' EXIT; set -- .whl/*.whl; \
	if [ -e "$$1" ]; then $(DEVICE_PYTHON) -m pip install -q --no-index --no-deps --no-compile \
	  --target "$$site" "$$@" || exit 1; fi; \
	PYTHONPATH="$$site:$(CURDIR):$$PYTHONPATH" $(DEVICE_PYTHON) -m fedjax_rec.bench.device \
	  --out $(DEVICE_OUT) $(DEVICE_OPTIONS)

clean: ## remove caches and builds; .venv and runs stay
	@rm -rf .pytest_cache .ruff_cache .hypothesis .cache site build dist
	@find . \( -name .venv -o -name .git -o -name runs \) -prune -o -name __pycache__ -print0 | xargs -0 rm -rf

# Two stamps, so that the demo installs the package alone. Either goes stale when pyproject.toml changes.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v[:2] <= (3, 13) and \
	  f"PYTHON=$(PYTHON) is Python {v[0]}.{v[1]}; fedjax_rec needs 3.11 to 3.13, as in make PYTHON=python3.12.")'
	@echo "Creating .venv"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; } # half an environment would pass for one

.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "Installing fedjax_rec into .venv (a minute or two)"
	@$(PIP) install -e .
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	@echo "Installing fedjax_rec with its development tools into .venv (a minute or two)"
	@$(PIP) install -e '.[dev]'
	@touch .venv/.installed $@
