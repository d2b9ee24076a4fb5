# Everything runs in .venv, which this file makes itself: python3 and make are all it needs.
# Another interpreter: `make PYTHON=python3.12 ...` (remove .venv first).

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help demo test slow check format results references published compression strategies rounds large benchmarks clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

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

RUN := $(BIN)/fedjax-rec run --quiet
PAGE := $(BIN)/fedjax-rec report --results docs/results.md

results: references published compression strategies rounds large ## all runs behind docs/results.md (needs ml-1m in FEDJAX_REC_DATA)
	@$(PAGE) --section "Published tables and compression" --targets docs/targets/published.yaml \
	  runs/results runs/compression runs/reference

# Every table has them above its own rows, see docs/strategies.md.
CLOSED := popularity item_knn ease ials
COLD_SPLIT := --data.split.init_args.split.class_path fedjax_rec.data.temporal_ratio --data.split.init_args.split.init_args.test 0.2
references: .venv/.installed ## lines of reference: central closed forms, and FedMF by one client (fifteen minutes; needs ml-1m)
	@for seed in 0 1 2; do for name in $(CLOSED); do \
	  $(RUN) configs/reference/$${name}_ml100k.yaml --seed $$seed --name $$name --out runs/reference/$$name-$$seed || exit; \
	  $(RUN) configs/reference/$${name}_ml1m.yaml --seed $$seed --name $$name --out runs/reference/$$name-1m-$$seed || exit; \
	  for side in cold warm; do \
	    $(RUN) configs/reference/$${name}_ml100k.yaml --seed $$seed --name $$name-$$side --out runs/reference/$$name-$$side-$$seed \
	      $(COLD_SPLIT) --data.split.class_path fedjax_rec.data.$${side}_items --data.split.init_args.seed $$seed || exit; \
	  done; \
	done; \
	$(RUN) configs/reference/fedmf_one_client_ml100k.yaml --seed $$seed --name fedmf_one_client \
	  --out runs/one_client/fedmf-$$seed || exit; \
	done
	@$(PAGE) --section "Lines of reference" runs/reference

published: .venv/.installed # FedMF, FedNCF and PFedRec as published, three seeds (20 minutes)
	@for seed in 0 1 2; do \
	  for policy in paper train symmetric; do \
	    $(RUN) configs/pfedrec_ml100k.yaml --seed $$seed --data.negatives $$policy \
	      --out runs/results/pfedrec-100k-$$policy-$$seed || exit; \
	  done; \
	  for name in fedmf_ml100k fedncf_ml100k pfedrec_ml1m; do \
	    $(RUN) configs/$$name.yaml --seed $$seed --out runs/results/$$name-$$seed || exit; \
	  done; \
	done

# Quality against uplink bytes on MovieLens-1M: one run a word, a file and what differs from it.
THRICE := none hundredfold power_sgd,uplink.compressor.rank=2 \
  colr,rank=32,item_learning_rate=10 colr,rank=16,item_learning_rate=7 colr,rank=8 \
  colr,rank=4,item_learning_rate=3 colr,rank=2,item_learning_rate=2 colr,rank=1,item_learning_rate=1
ONCE := eden,uplink.bits=4 eden,uplink.bits=2 eden,uplink.bits=1 colr_eden svd \
  top_k,uplink.compressor.fraction=0.05 top_k,uplink.compressor.fraction=0.01 top_k_forgetful
compression: .venv/.installed ## the curve of quality against bytes (an hour; needs ml-1m in FEDJAX_REC_DATA)
	@for run in $(THRICE:%=%:0) $(THRICE:%=%:1) $(THRICE:%=%:2) $(ONCE:%=%:0); do \
	  line=$${run%:*}; seed=$${run##*:}; \
	  set -- $$(echo $$line | tr ',=' '  '); file=$$1; shift; \
	  arguments=; while [ $$# -gt 0 ]; do arguments="$$arguments --strategy.$$1 $$2"; shift 2; done; \
	  $(RUN) configs/compression/$$file.yaml --seed $$seed $$arguments \
	    --name $$line --out runs/compression/$$line-$$seed || exit; \
	done
	@$(BIN)/fedjax-rec report runs/compression --out runs/compression-report

# Every file of configs/strategies; those that are published under another policy of negatives run
# under theirs and under `train`.
strategies: .venv/.installed ## all strategies on MovieLens-100K, three seeds, and their table (an hour)
	@for seed in 0 1 2; do \
	  for file in configs/strategies/*.yaml; do \
	    name=$$(basename $$file .yaml); \
	    $(RUN) $$file --seed $$seed --name $$name --out runs/strategies/$$name-$$seed || exit; \
	    case $$name in *_paper) \
	      $(RUN) $$file --seed $$seed --name $${name%_paper}_train --data.negatives train \
	        --out runs/strategies/$${name%_paper}_train-$$seed || exit;; \
	    esac; \
	  done; \
	done
	@$(PAGE) --section "Update strategies" --targets docs/targets/strategies.yaml runs/strategies runs/reference runs/one_client

# Local epochs E and batches B at cohorts of 94: one run a word, its name, its two rates and what else
# differs from fedavg.yaml. A gradient shared is one step of all of a client's examples.
PARTIAL := --cohorts.class_path uniform --cohorts.init_args.size 94 --rounds 600 \
  --evaluation.candidates full --evaluation.every 5
LOCAL := --strategy.optimizer.init_args.optimizers
ROUNDS := fedavg,10,30 fedavg_B=64,10,30,batch_size=64 fedavg_E=5,10,30,epochs=5 \
  fedavg_E=5_B=64,5,15,epochs=5,batch_size=64 fedavg_E=5_B=all,20,60,epochs=5,batch_size=4096
rounds: .venv/.installed ## rounds to target, averaging against gradient sharing (half an hour)
	@for seed in 0 1 2; do \
	  $(RUN) configs/strategies/fedsgd.yaml --seed $$seed --name fedsgd --out runs/rounds/fedsgd-$$seed \
	    $(PARTIAL) --strategy.server.init_args.learning_rate 150 || exit; \
	  for run in $(ROUNDS); do \
	    set -- $$(echo $$run | tr ',' ' '); name=$$1; user=$$2; item=$$3; shift 3; \
	    more="$(LOCAL).private.init_args.learning_rate $$user $(LOCAL).shared.init_args.learning_rate $$item"; \
	    for one in "$$@"; do more="$$more --strategy.$${one%=*} $${one#*=}"; done; \
	    $(RUN) configs/strategies/fedavg.yaml --seed $$seed --name $$name --out runs/rounds/$$name-$$seed \
	      $(PARTIAL) $$more || exit; \
	  done; \
	done
	@$(PAGE) --section "Rounds to target" runs/rounds runs/reference runs/one_client

# What language models, sequences and clicks reach; texts against FedMF on items held out of training.
COLD := --rounds 60 --evaluation.every 5 $(COLD_SPLIT)
BY_TEXT := fedmf,strategies/fedavg text_tower,large/text_tower text_and_rows,large/text_and_rows \
  unisrec,large/unisrec_ml100k,--model.components=128,--model.projector=[]
SHOTS := zero_shot 16 64 256
large: .venv/.installed ## large models: adapters, item texts, sequences, clicks (six hours; needs weights and ml-1m)
	@$(BIN)/fedjax-rec data get minilm && $(BIN)/fedjax-rec data get smollm2
	@for name in sasrec_ml1m sasrec_ml1m_federated dlrm_clicks dcn_clicks deepfm_clicks; do \
	  $(RUN) configs/large/$$name.yaml --out runs/large/$$name-0 || exit; \
	done
	@$(RUN) configs/large/sasrec_ml1m.yaml --name sasrec_ml1m_bce --rounds 120 --evaluation.every 20 --examples.negatives 1 \
	  --model.loss fedjax_rec.models.sampled_bce --examples.each true --out runs/large/sasrec_ml1m_bce-0
	@for seed in 0 1 2; do \
	  for file in configs/large/text_head.yaml configs/large/*_ml100k.yaml; do \
	    $(RUN) $$file --seed $$seed --out runs/large/$$(basename $$file .yaml)-$$seed || exit; \
	  done; \
	  for file in configs/large/adapters_*.yaml; do \
	    $(RUN) $$file --seed $$seed --start_from runs/large/text_head-$$seed \
	      --out runs/large/$$(basename $$file .yaml)-$$seed || exit; \
	  done; \
	  for side in cold warm; do for run in $(BY_TEXT); do \
	    set -- $$(echo $$run | tr ',=' '  '); name=$$1-$$side; file=$$2; shift 2; \
	    $(RUN) configs/$$file.yaml --seed $$seed --name $$name --out runs/large/$$name-$$seed $(COLD) \
	      --data.split.class_path fedjax_rec.data.$${side}_items --data.split.init_args.seed $$seed "$$@" || exit; \
	  done; done; \
	done
	@for seed in 0 1; do for shots in $(SHOTS); do \
	  $(RUN) configs/large/tallrec_$$shots.yaml --seed $$seed --data.source.init_args.seed $$seed \
	    --out runs/large/tallrec_$$shots-$$seed || exit; \
	done; done
	@$(PAGE) --section "Large models" --targets docs/targets/large.yaml runs/large runs/reference

benchmarks: .venv/.installed ## measure, and write the pages docs/benchmarks*.md (20 minutes on a quiet machine)
	@$(BIN)/fedjax-rec bench rounds-100k rounds-1m first tables cohort compress fedjax-100k fedjax-1m \
	  --markdown docs/benchmarks.md
	@$(BIN)/fedjax-rec bench strategies adapters clicks --markdown docs/benchmarks_more.md
	@NPROC=2 $(BIN)/fedjax-rec bench adapters --markdown docs/benchmarks_threads.md

clean: ## remove caches and builds; .venv and runs stay
	@rm -rf .pytest_cache .ruff_cache .hypothesis build dist
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
