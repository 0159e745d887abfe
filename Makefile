# Everything happens below this directory: .venv, .airflow, .cache, demo/output, dist. Package caches aside.

PYTHON ?= python3
NODES ?= 4
PYTEST_ARGS ?=
# Two test processes per core, since tests of real processes mostly wait; the tests of a file stay together, since they
# share what is costly to set up.
PARALLEL ?= -n $(shell $(PYTHON) -c 'import os; print(min(8, 2 * (os.cpu_count() or 1)))') --dist loadfile

UV_VERSION := 0.13.9
BIN := .venv/bin
CACHE := $(CURDIR)/.cache
DEBIAN_PACKAGES := chromium chromium-driver curl e2fsprogs gzip iproute2 mount python3 util-linux xfsprogs

# Without bytecode Airflow starts three times slower; some machines switch it off for all of Python.
unexport PYTHONDONTWRITEBYTECODE
# A caller's environment must not lead Python, uv or Airflow to another installation's files.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
export MPLCONFIGDIR := $(CACHE)/matplotlib
export RUFF_CACHE_DIR := $(CACHE)/ruff
# The cache may lie on another file system than the checkout: then uv copies, and need not say so.
export UV_LINK_MODE ?= hardlink
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv venv-demo demo demo-aws demo-gcp test test-all screenshots bench lint format lock system-deps build clean

help: ## Show this help
	@echo 'One block volume per rank for Airflow. Targets:'
	@echo
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r target text; do printf '%-20s %s\n' "  $$target" "$$text"; done
	@echo
	@echo 'PYTHON=python3.12 picks another Python (3.11 to 3.13) for .venv, which the first target that needs it makes.'

demo: venv-demo ## Run the example ETL on this machine; NODES=8, MODE=image|directory|auto
	@$(BIN)/python demo/run_demo.py --nodes '$(NODES)' --mode '$(MODE)'

demo-aws: venv ## Run the same ETL on EBS volumes and EC2 nodes of a double that really run (as root); NODES=8
	@$(BIN)/python -m demo.run_demo_aws --nodes '$(NODES)'

demo-gcp: venv ## Run the same ETL on disks and nodes of Compute Engine's double (as root); NODES=8
	@$(BIN)/python -m demo.run_demo_gcp --nodes '$(NODES)'

# Tests find the tools of .venv, such as shellcheck, as they would in an activated environment.
test test-all: export PATH := $(CURDIR)/$(BIN):$(PATH)

test: venv ## Run the tests; PYTEST_ARGS='-k naming' picks some
	$(BIN)/python -m pytest $(PARALLEL) -m 'not slow' $(PYTEST_ARGS)

test-all: venv ## Run the tests at full size, slow ones too
	$(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

screenshots: venv ## Take the pictures of docs/images anew, of a running Airflow with Chromium
	RANKVOL_SCREENSHOTS='$(CURDIR)/docs/images' $(BIN)/python -m pytest tests/system/test_page_in_chromium.py -k pictures

bench: venv ## Print the figures of benchmarks/, each a ratio from one run
	$(BIN)/python -m benchmarks.create_volumes
	$(BIN)/python -m benchmarks.triggers
	$(BIN)/python -m benchmarks.many_ranks

lint: venv ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir $(CACHE)/import-linter

format: venv ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: venv ## Resolve the dependencies anew into requirements*.lock
	$(BIN)/python tools/lock.py

build: venv ## Build wheel and source distribution into dist/
	$(BIN)/uv build --quiet --out-dir dist
	@ls dist

system-deps: ## Install the Debian packages that image mode and the tests of XFS and of the page need (as root)
	@if [ "$$(id -u)" != 0 ]; then \
		echo 'system-deps: not root, nothing installed. Without them everything runs in directory mode, and neither XFS nor the page is tested.'; \
		echo 'system-deps: an administrator would run: apt-get install $(DEBIAN_PACKAGES)'; \
	elif ! command -v apt-get >/dev/null; then \
		echo 'system-deps: no apt-get here. Install by hand: losetup, mount, unshare, blkid, setpriv, mkfs.ext4.'; \
	elif dpkg -s $(DEBIAN_PACKAGES) >/dev/null 2>&1; then \
		echo 'system-deps: all there: $(DEBIAN_PACKAGES)'; \
	else \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -qq --no-install-recommends $(DEBIAN_PACKAGES) >/dev/null && \
		echo 'system-deps: installed: $(DEBIAN_PACKAGES)'; \
	fi

clean: ## Remove .venv, .airflow, .cache, dist and demo/output*; first `rankvol reap` what still runs
	@if [ -x $(BIN)/rankvol ] && [ -d .airflow/rankvol ]; then \
		AIRFLOW_HOME='$(CURDIR)/.airflow' $(BIN)/rankvol ls || true; fi
	rm -rf .venv .airflow .cache .hypothesis dist demo/output demo/output-aws demo/output-gcp
	find airflow_rankvol dags demo tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

venv: .venv/dev.stamp ## Make .venv with everything for development; again only after a change of the lock

venv-demo: .venv/demo.stamp

.venv/uv-$(UV_VERSION).stamp:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "This needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			'Name another one: make PYTHON=python3.12 …' >&2; exit 1; }
	@echo 'Making .venv …'
	@$(PYTHON) -m venv .venv
	@# uv installs ten times faster than pip; where it cannot be had, pip does the same from the same lock.
	@$(BIN)/python -m pip install --quiet 'uv==$(UV_VERSION)' || echo 'uv cannot be installed here; pip takes its place'
	@touch $@

# $(1): the lock, which is complete: no dependency has to be looked for (pip finds extras unpinned otherwise).
# The project itself is installed editable, without asking for its dependencies again. pip takes over
# where uv is missing or fails: it knows mirrors and certificates from pip's own configuration.
define install
	@echo 'Installing $(1) …'
	@{ [ -x $(BIN)/uv ] && \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes -r $(1) && \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .; } || { \
		echo 'Without uv: pip installs the same, which takes a few minutes …'; \
		$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(1) && \
		$(BIN)/python -m pip install --quiet --no-deps --editable .; }
	@touch $@
endef

.venv/demo.stamp: requirements-demo.lock pyproject.toml .venv/uv-$(UV_VERSION).stamp
	$(call install,requirements-demo.lock)

.venv/dev.stamp: requirements.lock pyproject.toml .venv/uv-$(UV_VERSION).stamp
	$(call install,requirements.lock)
