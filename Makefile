.PHONY: help prepare demo test test-fast bench lint lock

help: ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

prepare: ## install what is missing (system packages, .venv)
	@scripts/prepare

demo: prepare ## the round trip with a real machine; KEEP=1 leaves it running
	@.venv/bin/python -m demo.round_trip $(if $(KEEP),--keep)

bench: prepare ## boot from a recovery point against a plain boot, 8 and 64 GiB, side by side
	@.venv/bin/python -m tests.bench.failover

lint: prepare ## ruff and mypy --strict
	.venv/bin/ruff check src tests demo
	.venv/bin/ruff format --check src tests demo
	.venv/bin/mypy

test: lint ## every test
	.venv/bin/pytest

test-fast: prepare ## the tests that boot no guest
	.venv/bin/pytest -m "not guest and not slow"

lock: prepare ## renew the pinned dependencies
	.venv/bin/pip-compile --quiet --extra dev --allow-unsafe --generate-hashes --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --output-file requirements.lock pyproject.toml
