# `make help` lists the targets. `run` and `test` install what is missing and say so.

SHELL := /bin/bash
CONFIG ?= config.ini
PREFIX ?= /usr/local
# Debian's own packages have theirs in $(PREFIX)/share/zsh/vendor-completions.
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
UNITDIR ?= $(PREFIX)/lib/systemd/system
EXAMPLESDIR ?= $(PREFIX)/share/doc/pserve/examples
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
SOAK_OPTIONS ?=
PYTHONS ?=
BENCH_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help run build test check docs fuzz asan bench test-pythons deb test-deb soak screenshots site install uninstall clean

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

docs: ## write the table of all keys in docs/configuration.md anew
	@python=$$(.ci/prepare build | tail -n 1) && export PYO3_PYTHON="$$python" && cargo build --locked && \
	target/debug/pserve generate config-table > target/config-table.md && \
	sed -i -e '/^<!-- keys: begin -->$$/,/^<!-- keys: end -->$$/{//!d}' -e '/^<!-- keys: begin -->$$/r target/config-table.md' docs/configuration.md

fuzz: ## feed the readers of INI files, fields and heads odd input for FUZZ_SECONDS (installs cargo-fuzz)
	@python=$$(.ci/prepare fuzz | tail -n 1) && export PYO3_PYTHON="$$python" && tests/fuzz/run $(FUZZ_SECONDS)

asan: ## run the tests nearest to unsafe code under AddressSanitizer, which takes minutes (needs a nightly compiler)
	@python=$$(.ci/prepare test | tail -n 1) && export PYO3_PYTHON="$$python" && tests/asan/run

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

screenshots: build ## take the pictures of the live page and of a terminal for docs/images, which takes some minutes
	@.ci/prepare test >/dev/null && .venv/bin/python tests/screenshots/terminal.py && .venv/bin/python tests/screenshots/page.py

site: ## build the documentation as a site into target/site; a link that leads nowhere is an error
	@.ci/prepare test >/dev/null && .venv/bin/python docs/site/build.py target/site && echo "target/site/index.html"

# A binary that is there already is installed as it is; without one it is built.
install: $(if $(BINARY),,build) ## install into PREFIX, below DESTDIR: binary, man page, completions, units, sample INI (BINARY=FILE builds nothing)
	@set -eo pipefail; binary="$(or $(BINARY),target/release/pserve)"; run="$$(realpath "$$binary")"; \
	put() { install -D -m "$$1" "$$2" "$(DESTDIR)$$3" && echo "  $(DESTDIR)$$3"; }; \
	made() { "$$run" generate $$1 | put 644 /dev/stdin "$$2"; }; \
	put 755 "$$binary" "$(PREFIX)/bin/pserve"; \
	made man "$(PREFIX)/share/man/man1/pserve.1"; \
	made "completions bash" "$(PREFIX)/share/bash-completion/completions/pserve"; \
	made "completions zsh" "$(ZSHDIR)/_pserve"; \
	made "completions fish" "$(PREFIX)/share/fish/vendor_completions.d/pserve.fish"; \
	sed "s:/usr/local/bin/pserve:$(PREFIX)/bin/pserve:" docs/deploy/pserve.service | put 644 /dev/stdin "$(UNITDIR)/pserve.service"; \
	put 644 docs/deploy/pserve.socket "$(UNITDIR)/pserve.socket"; \
	for sample in pserve.ini logrotate.conf nginx.conf; do put 644 "docs/deploy/$$sample" "$(EXAMPLESDIR)/$$sample"; done

uninstall: ## remove what `make install` has put there, with the same PREFIX and DESTDIR
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/pserve share/man/man1/pserve.1 share/bash-completion/completions/pserve \
		share/fish/vendor_completions.d/pserve.fish) $(DESTDIR)$(ZSHDIR)/_pserve \
		$(addprefix $(DESTDIR)$(UNITDIR)/,pserve.service pserve.socket) \
		$(addprefix $(DESTDIR)$(EXAMPLESDIR)/,pserve.ini logrotate.conf nginx.conf)

clean: ## remove everything that was built
	rm -rf target .venv .ruff_cache .pytest_cache .hypothesis
