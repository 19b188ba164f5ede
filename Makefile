# Everything runs from a fresh clone: each target sets up what it needs.
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Where it is set, every process that the tests start compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check unit proofs simulate explore chaos kill-demo bench format lock clean chromium firestore-emulator

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it
	@echo "ready: $(BIN)/sluicegate --help"

$(READY): pyproject.toml requirements.lock
	@echo "setting up $(VENV) (about a minute the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sluicegate needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(READY) ## run bronze to gold on real data, with the page open and Stop ready
	@$(BIN)/sluicegate demo

# Three processes for two cores: a third of their time they wait for servers, timeouts and pages. What measures time
# runs after them, with nothing beside it; what takes minutes, repeats or varies is in `proofs`.
test: $(READY) chromium firestore-emulator ## set everything up and run the tests
	@$(BIN)/python -m pytest -n 3 --dist worksteal -m 'not alone and not proof'
	@$(BIN)/python -m pytest -m alone tests/integration

proofs: $(READY) chromium firestore-emulator ## what takes minutes: chaos, a thousand stops, each store and damage, every interleaving of a small model
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m proof

check: $(READY) ## format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

unit: $(READY) ## the pure tests only
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not proof' tests/unit

SEEDS ?= 1000
simulate: $(READY) ## seeded histories of one executor and of a fleet: make simulate SEEDS=1000
	@SIMULATIONS=$(SEEDS) $(BIN)/python -m pytest -q tests/unit/core/test_executor_simulation.py tests/unit/core/test_fleet_simulation.py

explore: $(READY) ## every interleaving of the small models, with their counts; takes minutes
	@$(BIN)/python tests/unit/core/exploration.py large

CHAOS := PYTHONPATH=tests:tests/integration $(BIN)/python -m chaos
MINUTES ?= 10
chaos: $(READY) ## kill, pause and fill at random, and judge what is left: make chaos MINUTES=10 [SEED=7]
	@$(CHAOS) run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

ROUNDS ?= 500
kill-demo: $(READY) ## SIGKILL the demo's server at random instants: make kill-demo ROUNDS=30 [SEED=7] [DAYS=40]
	@$(CHAOS) kill-demo --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(if $(DAYS),--days $(DAYS))

bench: $(READY) ## measure everything that is promised, and compare: make bench [ONLY="start stop"] [KEEP=1]
	@$(BIN)/python -m bench $(ONLY) $(if $(KEEP),--keep)

format: $(READY) ## rewrite the code as `make check` wants it
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## pin again what pyproject.toml asks for
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/pip install --quiet --disable-pip-version-check '.[dev]'
	@{ echo '# Made by `make lock`: every version that `make setup` installs.'; build/lock/bin/pip freeze --exclude sluicegate; } > requirements.lock

clean: ## remove what the other targets made
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache

# The headless shell is Chromium without its own windows: the tests take it where it is, for half of the work.
APT := DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
chromium:
	@command -v chromium > /dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "installing chromium for the page's tests"; \
	    apt-get update -qq && $(APT) chromium fonts-dejavu-core > /dev/null; \
	  else \
	    echo "the page's tests need chromium; install it, for example with: sudo apt-get install chromium"; exit 1; \
	  fi; }
	@command -v chromium-headless-shell > /dev/null || [ "$$(id -u)" != 0 ] || \
	  { apt-get update -qq && $(APT) chromium-headless-shell; } > /dev/null 2>&1 || \
	  echo "without chromium-headless-shell the page's tests take longer"

# Google's own packages are in no distribution: java can be installed here, the emulator only where Google's
# package source is set up, or with gcloud.
EMULATOR := google-cloud-cli-firestore-emulator
firestore-emulator:
	@command -v java > /dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "installing java for the emulator of Firestore"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jre-headless > /dev/null; \
	  else \
	    echo "the emulator of Firestore needs java; install it, for example with: sudo apt-get install default-jre-headless"; \
	  fi; }
	@$(PYTHON) tests/firestore_emulator.py > /dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && apt-cache show $(EMULATOR) > /dev/null 2>&1; then \
	    echo "installing $(EMULATOR)"; \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(EMULATOR) > /dev/null; \
	  else \
	    echo "the tests of Firestore need Google's emulator, which no package source here has; add Google Cloud's and"; \
	    echo "install $(EMULATOR), or use: gcloud components install cloud-firestore-emulator."; \
	    test -z "$$CI" || exit 1; echo "they are skipped"; \
	  fi; }
