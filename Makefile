.PHONY: help prepare prepare-tests demo demo-sites packages test test-fast chaos bench lint lock

help: ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

prepare: ## install what is missing (system packages, .venv)
	@scripts/prepare

prepare-tests: prepare ## and what only tests need: strace, an S3 server and an Azure one under ~/.cache
	@scripts/prepare-tests

demo: prepare ## the round trip with a real machine; KEEP=1 leaves it running, DATABASE=postgresql puts the vault there
	@.venv/bin/python -m demo.round_trip $(if $(KEEP),--keep) $(if $(DATABASE),--database $(DATABASE))

demo-sites: prepare ## two sites and a WAN, a cut, a killed server, a lost site, and home again; KEEP=1 leaves it running (root)
	@.venv/bin/python -m demo.sites $(if $(KEEP),--keep)

BENCH ?= failover store
bench: prepare ## side by side with other tools; BENCH=failover, store, wan (to another site), rpo (an interval under churn) or source_wire (a process server elsewhere) for one, ARGS=… for its options
	@scripts/prepare-bench
	@status=0; for one in $(BENCH); do .venv/bin/python -m tests.bench.$$one $(ARGS) || status=1; done; exit $$status

chaos: prepare-tests ## 200 random operations while vaults are killed and stopped, on both databases; SEED=… repeats one, ARGS=… for its options
	@.venv/bin/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(ARGS)

packages: prepare ## dist/homeport-*.whl and dist/homeport_*.deb
	@.venv/bin/python -m packages.wheel
	@.venv/bin/python -m packages.deb

lint: prepare ## ruff and mypy --strict
	.venv/bin/ruff check src tests demo packages
	.venv/bin/ruff format --check src tests demo packages
	.venv/bin/mypy

WORKERS ?= $(shell echo $$(($$(nproc) + 2)))
PYTEST = .venv/bin/pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

test: lint prepare-tests ## every test, in WORKERS=… processes (else two more than processors)
	$(PYTEST)

test-fast: prepare-tests ## the tests that boot no guest
	$(PYTEST) -m "not guest and not slow"

lock: prepare ## renew the pinned dependencies
	.venv/bin/pip-compile --quiet --extra dev --allow-unsafe --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --output-file requirements.lock pyproject.toml
	cd tests/store/moto && ../../../.venv/bin/pip-compile --quiet --allow-unsafe --generate-hashes --strip-extras --no-annotate --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --output-file requirements.txt requirements.in
