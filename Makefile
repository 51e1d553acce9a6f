# Two graphs. Plot: CSVs -> figures and tables, time stamps. Study: one target a run and stage, hashes decide what is stale.
# `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PROFILE ?= mini
RUNS ?=
DATASETS ?=
SEEDS ?= 0
JOBS ?= 2
DEVICE ?= auto
CACHED ?= 1
COMPILE ?= 1
LAUNCH ?=
export DATA_ROOT SKIP_MISSING PRECISION REPLICATE_HOME REPLICATE_MANIFESTS

VENV := .venv
VENV_VISSL := .venv-vissl
PY := $(VENV)/bin/python
REPLICATE := $(PY) -m replicate
# Where results, figures and tables of this profile are; REPLICATE_HOME moves them, as in replicate/paths.py.
OUT := $(if $(REPLICATE_HOME),$(REPLICATE_HOME)/,)
NAME := $(basename $(notdir $(PROFILE)))
ENGINE ?=
RESULTS := $(OUT)results/$(NAME)
FIGURES := $(OUT)figures/$(NAME)
TABLES := $(OUT)tables/$(NAME)

BUILT_FIGURES := 1 2 3 4 5 $(addprefix S,1 2 3 4 5 6 7 8 9 10 11 12 13) $(if $(wildcard $(RESULTS)/vissl_parity.csv),vissl-parity)
BUILT_TABLES := figure-1 1 2 3 C J1 J2 K1 K2 K3 K4 S1 S2 estimators noise $(if $(wildcard $(RESULTS)/claims.csv),claims)

.PHONY: all
all: setup ## Figures and tables of PROFILE from the cached CSVs; sets the environment up where it is missing
	@$(MAKE) --no-print-directory -j$(JOBS) figures tables
	@echo "$(NAME): figures in $(FIGURES)/, tables in $(TABLES)/, drawn from the cached results in $(RESULTS)/."
	@echo "To recompute those: make fresh PROFILE=$(NAME) (see README.md for the time that takes)."

# ---------------------------------------------------------------- environment

.PHONY: setup setup-vissl lock
# CPU_ONLY=1 leaves the CUDA packages out, for a package index that serves CPU builds of torch and torchvision.
setup: ## Create .venv from requirements.lock; does nothing if it is current
	@if cmp -s requirements.lock $(VENV)/requirements.lock; then exit 0; fi; \
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 2; }; \
	echo "Installing $$(grep -c == requirements.lock) pinned packages into $(VENV) (about 5.5 GB, most of it CUDA)"; \
	rm -f $(VENV)/requirements.lock; \
	test -x $(PY) || python3 -m venv $(VENV); \
	lock=requirements.lock; \
	if [ -n "$${CPU_ONLY:-}" ]; then lock=$(VENV)/cpu-only.txt; grep -vE '^(nvidia-|cuda-|triton)' requirements.lock > $$lock; fi; \
	if command -v uv >/dev/null; then uv pip install --quiet --python $(PY) -r $$lock; \
	else $(PY) -m pip install --quiet --disable-pip-version-check -r $$lock; fi; \
	$(PY) -c 'import torchvision' || { echo "torch and torchvision do not match: see README.md, Installation" >&2; exit 2; }; \
	cp requirements.lock $(VENV)/requirements.lock

# VISSL 0.1.6 pins packages of 2021 and installs top-level modules named tools, configs and tests: an environment of its
# own, from a lock that holds every package, so that nothing's own dependencies are looked at.
setup-vissl: ## Create .venv-vissl, where VISSL itself runs, from requirements-vissl.lock
	@if cmp -s requirements-vissl.lock $(VENV_VISSL)/requirements.lock; then exit 0; fi; \
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 2; }; \
	echo "Installing VISSL and $$(grep -c == requirements-vissl.lock) pinned packages into $(VENV_VISSL) (about 5 GB, mostly CUDA)"; \
	rm -f $(VENV_VISSL)/requirements.lock; \
	test -x $(VENV_VISSL)/bin/python || python3 -m venv $(VENV_VISSL); \
	lock=requirements-vissl.lock; \
	if [ -n "$${CPU_ONLY:-}" ]; then lock=$(VENV_VISSL)/cpu-only.txt; grep -vE '^(nvidia-|cuda-|triton)' requirements-vissl.lock > $$lock; fi; \
	if command -v uv >/dev/null; then uv pip install --quiet --no-deps --python $(VENV_VISSL)/bin/python -r $$lock; \
	else $(VENV_VISSL)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $$lock; fi; \
	$(VENV_VISSL)/bin/python -W ignore -c 'from replicate.probes.vissl import shims; shims.apply(); import vissl.trainer' >/dev/null; \
	cp requirements-vissl.lock $(VENV_VISSL)/requirements.lock

lock: ## Pin both locks and environment.yml from pyproject.toml (needs uv)
	uv pip compile --quiet pyproject.toml --extra test --universal --no-header --no-annotate -o requirements.lock
	printf '%s\n' torch torchvision 'hydra-core<1.4' iopath fvcore scipy scikit-learn | uv pip compile --quiet - \
		--constraints requirements.lock --universal --no-header --no-annotate -o requirements-vissl.lock
	echo vissl==0.1.6 >> requirements-vissl.lock
	python3 -m replicate.environment

# ---------------------------------------------------------------- plot graph: CSVs, script and style only

.PHONY: figures tables $(addprefix figure-,$(BUILT_FIGURES)) $(addprefix table-,$(BUILT_TABLES))
figures: $(addprefix figure-,$(BUILT_FIGURES)) ## All figures that exist
tables: $(addprefix table-,$(BUILT_TABLES)) ## All tables that exist

CSVS := $(wildcard $(addprefix $(RESULTS)/,runs.csv accuracy.csv rank.csv selection.csv spectra.csv convergence.csv \
          vissl_parity.csv))
PLOT_CODE := $(addprefix replicate/,select.py claims.py claims.yaml bootstrap.py results.py tasks.py grid.py grid.csv extra.csv profile.py rank/estimators.py) \
             $(wildcard replicate/profiles/*.yaml)
FIGURE_CODE := $(addprefix figures/,style.py panels.py power_laws.py alpha_grid.py)
TABLE_CODE := $(addprefix tables/,layout.py selection_table.py accuracy_table.py) results/published/selection.csv \
              $(addprefix replicate/,data/augment.py data/manifest.py probes/sgd.py probes/svm.py probes/knn.py) \
              $(wildcard data_manifests/*.yaml)

define FIGURE
figure-$(1): setup $(addprefix $(FIGURES)/figure-$(1).,png pdf svg)
$(addprefix $(FIGURES)/figure-$(1).,png pdf svg) &: $(CSVS) figures/figure_$(subst -,_,$(1)).py $(FIGURE_CODE) $(PLOT_CODE) | setup
	$(PY) figures/figure_$(subst -,_,$(1)).py --profile $(PROFILE)
endef
$(foreach figure,$(BUILT_FIGURES),$(eval $(call FIGURE,$(figure))))

define TABLE
table-$(1): setup $(TABLES)/table-$(1).md
$(addprefix $(TABLES)/table-$(1).,md csv tex) &: $(CSVS) tables/table_$(subst -,_,$(1)).py $(TABLE_CODE) $(PLOT_CODE) | setup
	$(PY) tables/table_$(subst -,_,$(1)).py --profile $(PROFILE)
endef
$(foreach table,$(BUILT_TABLES),$(eval $(call TABLE,$(table))))

$(addprefix $(TABLES)/table-claims.,md csv tex): $(wildcard $(RESULTS)/claims.csv)

REPORT := $(OUT)report/$(NAME)/report.html
# Of a profile without results no figure is drawn: the page says so.
REPORTED := $(if $(wildcard $(RESULTS)/runs.csv),$(patsubst %,$(FIGURES)/figure-%.svg,$(BUILT_FIGURES))) \
            $(patsubst %,$(TABLES)/table-%.md,$(BUILT_TABLES))
REPORT_CODE := $(addprefix report/,report.py facts.py inline_svg.py our_markdown.py catalogue.py catalogue.yaml \
                 template.html style.css page.js) replicate/paths.py README.md
.PHONY: report
report: setup ## One self-contained page with all of it, report/PROFILE/report.html
	@$(MAKE) --no-print-directory -j$(JOBS) $(REPORT)
$(REPORT): $(REPORTED) $(CSVS) $(wildcard $(addprefix $(RESULTS)/,claims.csv cells.csv cheap.csv)) $(REPORT_CODE) $(PLOT_CODE) | setup
	$(PY) report/report.py --profile $(PROFILE)

.PHONY: replication
replication: setup ## What was rerun, every verdict, every output, from the CSVs: REPLICATION.md, and README's list
	@$(PY) report/replication.py $(if $(OUT),,--counts README.md)
	@$(if $(OUT),,$(PY) benchmarks/time_plots.py --write README.md --keep >/dev/null)

.PHONY: claims
claims: setup ## The verdict on every claim of replicate/claims.yaml, into results/PROFILE/claims.csv and a table
	@$(REPLICATE) claims --profile $(PROFILE)
	@$(MAKE) --no-print-directory table-claims

# ---------------------------------------------------------------- study graph: data, pretrain, evaluate, rank, finetune, compile

COMMON = --profile $(PROFILE) --seeds "$(SEEDS)" --device $(DEVICE) $(if $(filter 1,$(CACHED)),--cached)
SELECTED = $(if $(DATASETS),--datasets "$(DATASETS)")
.PHONY: fresh data pretrain evaluate rank finetune compile

fresh: setup ## Recompute the study of PROFILE (RUNS, DATASETS, SEEDS, JOBS); goes on where an interrupted one stopped
	@set -f; $(REPLICATE) plan --short --profile $(PROFILE) --seeds "$(SEEDS)" -- $(RUNS)
	@for stage in data pretrain evaluate rank finetune compile; do \
	  start=$$(date +%s); \
	  $(MAKE) --no-print-directory $$stage CACHED=0 COMPILE=0; \
	  echo "stage $$stage: $$(( $$(date +%s) - start )) s"; \
	done

MACHINE ?=
GPUS ?= 8
.PHONY: plan status
plan: setup ## What a study takes: trainings, hours, days on GPUS, memory, disk (MACHINE=a100-ffcv, here, cached)
	@set -f; $(REPLICATE) plan $(COMMON) $(if $(MACHINE),--machine $(MACHINE)) --gpus $(GPUS) --jobs $(JOBS) -- $(RUNS)

status: setup ## A table of the trainings: done, running, stopped, failed, waiting; epochs, images/s, time left
	@set -f; $(REPLICATE) status $(COMMON) -- $(RUNS)

data: setup ## Prepare the data sets
	@$(REPLICATE) data --profile $(PROFILE) $(SELECTED)

# Nothing to install where VISSL_PYTHON names a Python that has it.
VISSL_IF_NEEDED := $(if $(VISSL_PYTHON),,$(if $(filter vissl,$(or $(ENGINE),$(if $(filter paper,$(NAME)),vissl))),setup-vissl))
# `make pretrain` becomes one target a run, made in parallel by a second make, which knows the runs' names. What the probes
# and ranks of the runs gave is merged into the CSVs at once, also where a run failed.
evaluate: $(VISSL_IF_NEEDED)
pretrain evaluate rank finetune: setup ## One stage of the study; cells that the CSVs hold under the same hash count as done
	@set -f; names=$$($(REPLICATE) grid --names $(if $(filter finetune,$@),--finetuned) --profile $(PROFILE) -- $(RUNS)); status=0; \
	$(if $(filter pretrain,$@),$(MAKE) --no-print-directory data;) \
	[ -z "$$names" ] || $(MAKE) --no-print-directory --keep-going -j$(JOBS) $$(printf '_$@/%s ' $$names) || status=$$?; \
	$(if $(filter pretrain,$@)$(filter 0,$(COMPILE)),,$(MAKE) --no-print-directory compile;) \
	exit $$status

_pretrain/%:
	@$(LAUNCH) $(REPLICATE) pretrain $* $(COMMON)
_evaluate/%:
	@$(LAUNCH) $(REPLICATE) evaluate $* $(COMMON) $(SELECTED) $(if $(ENGINE),--engine $(ENGINE)) --train
_rank/%:
	@$(LAUNCH) $(REPLICATE) rank-runs $* $(COMMON) $(SELECTED)

_finetune/%:
	@$(LAUNCH) $(REPLICATE) finetune $* $(COMMON) $(SELECTED)

# The native probes beside VISSL's on the same checkpoints; resumes, and adds to the table what is there.
PARITY_SEEDS ?= 3
PARITY_RUNS := DINO-3 VICReg-exp-6 VICReg-1 iNat18-VICReg-6 SimCLR-15 VICReg-ctr-2
.PHONY: vissl-parity
vissl-parity: setup $(if $(VISSL_PYTHON),,setup-vissl) ## Probe six runs (or RUNS) by both engines, into vissl_parity.csv and a figure
	@set -f; names=$$($(REPLICATE) grid --names --profile $(PROFILE) -- $(or $(RUNS),$(PARITY_RUNS))); status=0; \
	$(MAKE) --no-print-directory --keep-going -j$(JOBS) $$(printf '_parity/%s ' $$names) || status=$$?; \
	$(REPLICATE) vissl-parity $$names --table $(COMMON); \
	$(MAKE) --no-print-directory figure-vissl-parity; exit $$status
_parity/%:
	@$(LAUNCH) $(REPLICATE) vissl-parity $* $(COMMON) $(SELECTED) --probe-seeds $(PARITY_SEEDS) --train

compile: setup ## Merge runs/ into results/PROFILE/*.csv
	@$(REPLICATE) compile --profile $(PROFILE) --seeds "$(SEEDS)"

VERIFY_SEED ?= 0
.PHONY: verify
verify: setup ## Recompute one run a method (drawn by VERIFY_SEED, or RUNS) from nothing; compare with the cached rows
	@set -f; $(REPLICATE) verify --profile $(PROFILE) --seeds "$(SEEDS)" --draw $(VERIFY_SEED) --jobs $(JOBS) \
	  --device $(DEVICE) $(if $(ENGINE),--engine $(ENGINE)) $(SELECTED) -- $(RUNS)

# ---------------------------------------------------------------- the rest

.PHONY: lint test data-preview bench-pretrain bench-augment bench-probes bench-rank bench-views bench-vissl bench-paper bench-plots chaos peers clean help graph
test: setup lint ## Run the tests
	$(PY) -m pytest -n $(JOBS) --dist loadfile

lint: setup ## Look for mistakes that the code shows without being run
	$(PY) -m pyflakes replicate figures tables report benchmarks tests

data-preview: data ## A contact sheet of each data set in runs/PROFILE/preview/
	@$(REPLICATE) preview --profile $(PROFILE) $(SELECTED)

bench-pretrain bench-augment bench-probes bench-rank bench-views bench-vissl bench-paper: setup ## Speed beside the peers
	$(PY) benchmarks/$(subst -,_,$@).py

CHAOS_SEED ?= 0
chaos: setup ## Sixty faults against a small study (20 minutes at most), what held into results/chaos.md
	$(PY) benchmarks/chaos.py --seed $(CHAOS_SEED)

bench-plots: setup ## The seconds of each figure and table, and the status of each, into README.md
	$(PY) benchmarks/time_plots.py --write README.md

# A peer that is not installed has its definition restated: pip install reptrix stable-pretraining for their own code.
peers: setup ## What other implementations of RankMe print, into README.md
	$(PY) benchmarks/peers_rank.py --write README.md

clean: ## Delete runs/ of PROFILE (checkpoints, features, prepared data); results stay
	rm -rf $(OUT)runs/$(NAME)

graph: ## The stages and what they read, as text
	@echo "data_manifests + profile -> data -> pretrain (a run) -> evaluate (a run) -> rank (a run), finetune (a run) -> compile -> results/*.csv"
	@echo "results/*.csv + script + style -> figures, tables"

help: ## This list
	@grep -hE '^[a-z][a-z -]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 34
	@echo "Variables: PROFILE=$(PROFILE) RUNS (names or globs) DATASETS SEEDS=$(SEEDS) VERIFY_SEED=$(VERIFY_SEED) JOBS=$(JOBS) DEVICE=$(DEVICE) ENGINE (native or vissl) DATA_ROOT LAUNCH CACHED=$(CACHED) COMPILE=$(COMPILE) MACHINE GPUS=$(GPUS) CHAOS_SEED=$(CHAOS_SEED)"
	@echo "  PRECISION DECODE (gpu) RECOMPUTE (1) SKIP_MISSING (1) REPLICATE_HOME"
	@echo "Example: make fresh PROFILE=small DATA_ROOT=~/data RUNS='SimCLR-1[2-8]'"
