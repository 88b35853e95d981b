# `make train` and `make test` set everything up by themselves; a second call starts at once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
SITE := .site
TRACKERS := .trackers
STORE := .store
RUN_DIR ?= runs/cartpole-$(shell date +%Y%m%d-%H%M%S)
CONFIG ?= cartpole
# Of two cores: a third process works while others wait for servers, deadlines and children.
TEST_PROCESSES ?= 3

.PHONY: setup train test test-slow bench-check check lint types rooms lock site trackers store clean help debian

help: ## Lists the targets.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(READY) debian ## Creates .venv with the locked dependencies, every suite of environments and this package.

# The lock holds every file's hash. The package itself is linked, so that edits need no reinstall.
$(READY): requirements.lock pyproject.toml
	@found="$$($(or $(PYTHON),python3) --version 2>&1)"; case "$$found" in "Python 3.11."*) ;; *) \
	  echo "error: Python 3.11 is needed (TF-Agents and Reverb have no build for another); found: $${found:-none}." \
	    "Install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1;; esac
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV), once (about a minute)"
	@$(RUN) -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(RUN) -m pip install -qq --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# haproxy is for runs on several hosts, chromium for pictures of TensorBoard; without them their tests are skipped.
debian:
	@missing=""; for name in haproxy chromium; do \
	  command -v $$name >/dev/null || test -x /usr/sbin/$$name || missing="$$missing $$name"; done; \
	test -z "$$missing" || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update && \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $$missing >/dev/null; } || \
	  echo "missing, and cannot be installed from here:$$missing (Debian's names); their tests are skipped"

train: $(READY) ## Trains CartPole-v1 until it is solved (CONFIG=name, RUN_DIR=path).
	@$(RUN) -m pipeline.train --config=$(CONFIG) --run_dir=$(RUN_DIR)

# Two tiers that share no test: what is run before each commit, and the matrix of kinds, launchers, configs and drills.
PYTEST := $(RUN) -m pytest -n $(TEST_PROCESSES) --dist=loadgroup

test: $(READY) debian ## Runs the tests of the first tier: at most 10 minutes on two cores.
	@$(PYTEST) -m "not slow"

test-slow: $(READY) debian trackers store ## Runs all other tests: at most 25 minutes on two cores.
	@$(PYTEST) -m slow

bench-check: $(READY) ## Measures five ratios on a quiet machine; fails where one has lost more than 15 %.
	@$(RUN) -m benchmarks.regression

lint: $(READY) ## Checks format and style.
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .

types: $(READY) ## Checks types.
	@$(RUN) -m mypy

check: lint types test ## Lints, type-checks and runs the first tier: before each commit.

rooms: $(READY) ## Renews the table of rooms in docs/design.md.
	@$(RUN) tests/support/rooms.py

lock: $(READY) ## Renews requirements.lock from pyproject.toml; needs uv on the PATH.
	@uv pip compile pyproject.toml --all-extras --generate-hashes --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-strip-extras --no-emit-index-url --no-header -o requirements.lock

# MLflow and wandb share nothing with the project but run directories: without this their tests are skipped.
$(TRACKERS)/.ready: examples/trackers.lock
	@$(PYTHON) -m venv $(TRACKERS)
	@$(TRACKERS)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r $<
	@touch $@

trackers: $(TRACKERS)/.ready ## Creates .trackers, in which examples/track_*.py run and are tested by `make test-slow`.

# moto's server of S3 shares nothing with the project: without this the tests of mirrors in S3 are skipped.
$(STORE)/.ready: tests/support/store.lock
	@$(PYTHON) -m venv $(STORE)
	@$(STORE)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r $<
	@touch $@

store: $(STORE)/.ready ## Creates .store, a server of S3 for the tests of `make test-slow`.

# MkDocs shares no dependency with the project: it has an environment of its own.
$(SITE)/.ready: docs/site/requirements.lock
	@$(PYTHON) -m venv $(SITE)
	@$(SITE)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r $<
	@touch $@

site: $(SITE)/.ready ## Builds the pages of docs/ as a site with search, build/site; a broken link ends it.
	@NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict
	@echo "built: build/site; look at it: $(SITE)/bin/python -m http.server --directory build/site"

clean: ## Removes .venv, the site's environment and caches; runs stay.
	@rm -rf $(VENV) $(SITE) $(TRACKERS) $(STORE) build/site .peers .pytest_cache .mypy_cache .ruff_cache *.egg-info
