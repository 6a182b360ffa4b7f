# `make` lists the targets. Nothing here needs root, a Postgres or a nats-server: deploy/bootstrap.sh fetches what is missing.

CARGO ?= cargo
# Where the programs are: said to cargo as well, so that no other setting of its own can lead elsewhere.
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
ORCHESTR8 := $(CARGO_TARGET_DIR)/debug/orchestr8
# `orchestr8`, and the small one that it starts beside each command.
PROGRAMS := --package orchestr8-cli --package orchestr8-executor
export RUSTDOCFLAGS ?= -D warnings
# A backtrace belongs to a panic; on every error of a test it hides the message.
export RUST_LIB_BACKTRACE ?= 0
# For which machines `make image-test` compiles.
ARCH ?= amd64 arm64

.DEFAULT_GOAL := help
.PHONY: help run dev test check bench bench-flat bench-report chaos image-test compose-test k8s-test toolchain servers tools build clean-data

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# `--with-parent`: a `make` that is killed tells nobody.
run: toolchain servers build ## Start everything, run the quality gates on this repository, stop everything
	@exec $(ORCHESTR8) dev --with-parent --run examples/quality-gates.yaml --input repository="$(CURDIR)"

dev: toolchain servers build ## Start everything and stay up until Ctrl-C
	@exec $(ORCHESTR8) dev --with-parent

test: toolchain servers tools check ## Everything that must pass: the checks, then all tests on real servers
	$(CARGO) build --locked --workspace --bins --features orchestr8-cli/kill-points
	$(CARGO) test --locked --workspace --features orchestr8-cli/kill-points

check: ## Format, lints and documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(CARGO) doc --locked --workspace --no-deps --quiet

bench: toolchain servers ## Measure, print, and write target/bench/latest.json; PEERS="bullmq restate" measures these as well
	$(CARGO) build --locked --release $(PROGRAMS) --package orchestr8-tests
	PEERS="$(PEERS)" $(CARGO_TARGET_DIR)/release/orchestr8-bench

bench-flat: toolchain servers ## Whether a task costs the same however much there is: FLAT_ROWS=1000000; writes target/bench/flat.json
	$(CARGO) build --locked --release $(PROGRAMS) --package orchestr8-tests
	FLAT_ROWS="$(FLAT_ROWS)" FLAT_ONLY="$(FLAT_ONLY)" $(CARGO_TARGET_DIR)/release/orchestr8-bench-flat

bench-report: toolchain ## Make docs/bench/report.svg and last.json, to be committed, from the last `make bench`
	$(CARGO) build --locked --release --package orchestr8-tests
	$(CARGO_TARGET_DIR)/release/orchestr8-bench report

# The same build as for the tests; CHAOS_TIME_BASE=100ms runs ten times as fast as the published times.
# CHAOS_NATS=cluster has three nats-servers with three copies of each stream. From 600 s on a queue of a million tasks follows;
# CHAOS_QUEUE=0 leaves it out, another number is another length.
chaos: toolchain servers ## Kill, cut off, wipe and restore at random: CHAOS_SECONDS=600 SEED=1; writes target/chaos/latest.json
	$(CARGO) build --locked --workspace --bins --features orchestr8-cli/kill-points
	CHAOS_SECONDS="$(CHAOS_SECONDS)" SEED="$(SEED)" CHAOS_TIME_BASE="$(CHAOS_TIME_BASE)" CHAOS_NATS="$(CHAOS_NATS)" CHAOS_QUEUE="$(CHAOS_QUEUE)" $(CARGO_TARGET_DIR)/debug/orchestr8-chaos

image-test: toolchain servers build ## Build the images, as root, with buildah: around this machine's binary, the runtime stage twice; then all stages for ARCH="amd64 arm64"; and with docker where it answers
	ORCHESTR8_IMAGE_ANEW=1 deploy/image-test.sh "$(ORCHESTR8)"
	deploy/image-whole.sh "$(CARGO_TARGET_DIR)/image" $(ARCH)
	@if docker info >/dev/null 2>&1; then docker build --file deploy/Dockerfile --tag orchestr8:image-test . && docker run --rm orchestr8:image-test --version; \
	else echo "image-test: docker's own build was left out: no docker answers here" >&2; fi

compose-test: toolchain servers build ## deploy/compose.yaml in containers of a docker daemon of its own, on this Debian 12, as root
	@ORCHESTR8="$(ORCHESTR8)" python3 -B tests/compose/run.py

k8s-test: toolchain servers build ## The chart on a real Kubernetes of two nodes made on this Debian 12, as root, under load and faults; with KEDA=1 its ScaledObject too; writes target/k8s/latest.json
	@KEDA="$(KEDA)" ORCHESTR8="$(ORCHESTR8)" python3 -B tests/k8s/run.py

toolchain:
	@$(CARGO) --version >/dev/null 2>&1 || { echo "make: \`$(CARGO)\` does not run here: install Rust 1.95 or newer for this user (see rustup.rs; it needs no root) and put it on PATH" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "make: there is no C compiler \`cc\`: install one (on Debian: build-essential)" >&2; exit 1; }

servers:
	@deploy/bootstrap.sh

# What is not to be had is named; the tests that need it say that they were skipped.
tools:
	@timeout 300 deploy/tools.sh || true

build:
	@$(CARGO) build --locked $(PROGRAMS)

clean-data: build ## Remove what `orchestr8 dev` keeps; fetched servers stay
	@$(ORCHESTR8) dev --reset-only
