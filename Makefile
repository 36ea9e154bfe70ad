# `make help` lists the targets. `run` and `test` install what is missing and say so.

SHELL := /bin/bash
CONFIG ?= config.ini
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
SOAK_OPTIONS ?=
PYTHONS ?=
BENCH_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help run build test check fuzz bench test-pythons deb test-deb soak screenshots install clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: ## install what is missing, build, and serve config.ini with python_plugins/
	@python=$$(.ci/prepare build | tail -n 1) && export PYO3_PYTHON="$$python" && \
	echo "==> building with $$python" && cargo build --release --locked && \
	exec target/release/pserve -i $(CONFIG)

build: ## install what is missing and build the release binary
	@python=$$(.ci/prepare build | tail -n 1) && export PYO3_PYTHON="$$python" && cargo build --release --locked

test: ## install what the tests need and run every test, Rust and Python
	@python=$$(.ci/prepare test | tail -n 1) && export PYO3_PYTHON="$$python" && \
	cargo test --locked && cargo build --locked && .venv/bin/python -m pytest -q pytests

check: ## formatting, clippy with warnings denied, ruff
	@python=$$(.ci/prepare test | tail -n 1) && export PYO3_PYTHON="$$python" && \
	cargo fmt --check && cargo fmt --check --manifest-path tests/fuzz/Cargo.toml && \
	cargo fmt --check --manifest-path tests/bench/bare_warp/Cargo.toml && cargo clippy --locked --all-targets -- -D warnings && \
	.venv/bin/ruff format --check --quiet . && .venv/bin/ruff check --quiet .

fuzz: ## feed the readers of INI files, fields and heads odd input for FUZZ_SECONDS (installs cargo-fuzz)
	@python=$$(.ci/prepare fuzz | tail -n 1) && export PYO3_PYTHON="$$python" && tests/fuzz/run $(FUZZ_SECONDS)

bench: build ## measure the speed against other programs (installs them; BENCH_OPTIONS=--quick: in two minutes)
	@.ci/prepare bench >/dev/null && .venv/bin/python tests/bench/bench.py $(BENCH_OPTIONS)

test-pythons: ## build and test with every CPython of this machine, 3.9 to 3.13 (PYTHONS="3.9 3.13": only those)
	@.ci/prepare build >/dev/null && .ci/test_pythons.py $(PYTHONS)

deb: ## build the Debian package into target/debian (installs debhelper and lintian)
	@.ci/deb

test-deb: ## install the package into a fresh Debian 12 and use it there (as root; installs debootstrap)
	@.ci/test-deb

soak: build ## ten minutes of load with reloads and crashes, then counts that must be zero (SOAK_SECONDS=60: one minute)
	@.ci/prepare test >/dev/null && .venv/bin/python tests/soak/soak.py --seconds $(SOAK_SECONDS) $(SOAK_OPTIONS)

screenshots: build ## take the pictures of the live page for docs/images, which takes some minutes
	@.ci/prepare test >/dev/null && .venv/bin/python tests/screenshots/page.py

install: build ## install the binary into $(PREFIX)/bin
	install -D -m 755 target/release/pserve $(DESTDIR)$(PREFIX)/bin/pserve

clean: ## remove everything that was built
	rm -rf target .venv .ruff_cache .pytest_cache
