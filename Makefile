# `make run`, `make test`: the two commands of the README. `make help` lists the rest.
#
# Everything is built in one target directory with the cargo profile `release`; the installed and
# measured binary is built with `dist`, which has link-time optimization (docs/decisions/0001).

.DEFAULT_GOAL := help
.PHONY: help run build install test test-long mutants sim sim-long sim-consensus sim-consensus-disk sim-metadata bench bench-counts bench-whole bench-redis bench-etcd bench-steady bench-failover bench-million bench-calls fuzz-http check lint doc fmt clean-data tools

# Works in an emptied environment too: no HOME, no PATH.
home := $(or $(HOME),$(shell getent passwd "$$(id -u)" 2>/dev/null | cut -d: -f6))
export PATH := $(or $(PATH),/usr/local/bin:/usr/bin:/bin)$(if $(home),:$(home)/.cargo/bin)
export CARGO_TARGET_DIR := $(or $(FOREBAY_TARGET_DIR),$(if $(home),$(home)/.cache/forebay/target,$(CURDIR)/target))

# RocksDB is compiled once, separately from the rest (scripts/rocksdb says why). PATH is passed
# explicitly, because $(shell) does not see exported variables.
rocksdb_version := $(shell PATH="$(PATH)" sed -n '/^name = "librocksdb-sys"/{n;s/^version = "\(.*\)"/\1/p;}' Cargo.lock)
export ROCKSDB_LIB_DIR := $(CARGO_TARGET_DIR)/rocksdb-$(rocksdb_version)
export ROCKSDB_STATIC := 1

binary := $(CARGO_TARGET_DIR)/dist/forebay
plot_python := $(CARGO_TARGET_DIR)/plot/bin/python3

# CI builds exactly the versions of Cargo.lock.
locked := $(if $(CI),--locked)
everything := --release --workspace --all-features $(locked)
# Debug assertions and overflow checks in our own crates; dependencies are not rebuilt.
asserted := --config .config/asserted.toml

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r target text; do printf 'make %-18s %s\n' "$$target" "$$text"; done

run: tools ## run `forebay exec` over every file of this checkout; a second run has nothing to do
	cargo build $(everything) --bin forebay
	@scripts/exec-checkout "$(CARGO_TARGET_DIR)/release/forebay"

build: tools ## build the `forebay` binary that is installed and measured: linked as a whole
	cargo build --profile dist $(locked) --bin forebay

install: build ## put that binary into ~/.cargo/bin, or DIR=...
	install -D -m 755 "$(binary)" "$(or $(DIR),$(home)/.cargo/bin)/forebay"

# Tests send signals to the binary. The caller of make may ignore some of them (nohup, a script's
# `&`), and programs inherit that.
defaults := $(shell PATH="$(PATH)" env --default-signal=HUP true 2>/dev/null && echo env --default-signal=HUP,INT,QUIT,TERM)

# Doc tests first, so that the output ends with the summary of all other tests.
test: tools ## doc tests, then every other test
	cargo test $(asserted) $(everything) --doc
	@if cargo nextest --version >/dev/null 2>&1; then \
		set -x; $(defaults) cargo nextest run $(asserted) $(everything); \
	else \
		echo "cargo-nextest is not installed: using cargo test (no time limits, no groups)"; \
		set -ex; \
		$(defaults) cargo test $(asserted) $(everything) --lib --bins --examples; \
		$(defaults) cargo test $(asserted) $(everything) --test '*'; \
	fi

test-long: export FOREBAY_TEST_LONG := 1
test-long: export PROPTEST_CASES := 20000
test-long: export NEXTEST_PROFILE := long
test-long: test ## the same tests with many more cases and rounds

# The named tests are quick, and models are slow: a mutant that survives the first is run with
# TESTS= before it is judged (docs/testing-mutations.md).
MODULE ?= limiter
TESTS ?= --skip model --skip scale

mutants: tools ## cargo-mutants over MODULE=limiter, inbox, vqueue, shuffle or partition/apply; FILE=... for one file
	@cargo mutants --version >/dev/null 2>&1 || cargo install --locked cargo-mutants
	cargo mutants --package forebay-engine --file '$(or $(FILE),engine/src/$(MODULE)/**/*.rs)' \
		--cargo-arg=--lib --cargo-arg=--test=$(firstword $(subst /, ,$(MODULE))) \
		--output "$(CARGO_TARGET_DIR)" -- -- $(TESTS)

sim: tools ## whole nodes under SEEDS=1000 fresh seeds; SEED=n: from that one on (alone, without SEEDS)
	$(if $(SEED),FOREBAY_SIM_SEED=$(SEED)) $(if $(SEEDS)$(SEED),$(if $(SEEDS),FOREBAY_SIM_SEEDS=$(SEEDS)),FOREBAY_SIM_SEEDS=1000) \
		cargo test $(asserted) $(everything) --test main -- --exact sim::named_seeds_hold --nocapture

sim-long: SEEDS ?= 200000
sim-long: sim ## the same for hours

sim-consensus: tools ## the consensus machine under SEEDS=100000 fresh seeds; SEED=n: from that one on
	$(if $(SEED),FOREBAY_SIM_SEED=$(SEED)) $(if $(SEEDS)$(SEED),$(if $(SEEDS),FOREBAY_SIM_SEEDS=$(SEEDS)),FOREBAY_SIM_SEEDS=100000) \
		cargo test $(asserted) --release $(locked) -p forebay-engine --test consensus -- --exact sim::seeds_hold --nocapture

sim-consensus-disk: tools ## the same over data directories on a disk under SEEDS=200 fresh seeds; SEED=n: from that one on
	$(if $(SEED),FOREBAY_SIM_SEED=$(SEED)) $(if $(SEEDS)$(SEED),$(if $(SEEDS),FOREBAY_SIM_SEEDS=$(SEEDS)),FOREBAY_SIM_SEEDS=200) \
		cargo test $(asserted) --release $(locked) -p forebay-storage --features testkit --test consensus -- --exact seeds_hold_on_disk --nocapture

sim-metadata: tools ## the metadata service, its clients and a linearizability checker under SEEDS=10000 fresh seeds; SEED=n: from that one on
	$(if $(SEED),FOREBAY_SIM_SEED=$(SEED)) $(if $(SEEDS)$(SEED),$(if $(SEEDS),FOREBAY_SIM_SEEDS=$(SEEDS)),FOREBAY_SIM_SEEDS=10000) \
		cargo test $(asserted) --release $(locked) -p forebay-engine --test consensus -- --exact service::histories_of_seeds_are_linearizable --nocapture

# Ratios within a run mean more than absolute values; `scripts/bench --help` lists the options.
bench: tools ## micro-benches, then the whole beside the ideal queue, and the plot; BENCH='--bench limiter' runs that one alone
	cargo bench --workspace --all-features $(locked) $(BENCH)
	$(if $(BENCH),,@$(MAKE) --no-print-directory bench-whole)

bench-whole: build $(plot_python) ## `forebay bench` over its matrix, and docs/performance.svg
	$(plot_python) scripts/bench "$(binary)"

$(plot_python):
	python3 -m venv "$(dir $(plot_python)).."
	$(plot_python) -m pip install --quiet matplotlib==3.10.8

bench-counts: tools ## instructions per operation of the hot paths, by valgrind's callgrind
	cargo build --release --all-features $(locked) --example counts
	scripts/callgrind "$(CARGO_TARGET_DIR)/release/examples/counts"

bench-redis: build ## the same lives on a Redis server, in turn on the same machine; installs redis-server
	cargo build --release --all-features $(locked) --example redis
	scripts/bench-redis "$(binary)" "$(CARGO_TARGET_DIR)/release/examples/redis"

bench-etcd: build ## compare-and-swap on three nodes beside three of etcd, in turn on the same machine; installs etcd-server
	cargo build --release --all-features $(locked) --example etcd
	scripts/bench-etcd "$(binary)" "$(CARGO_TARGET_DIR)/release/examples/etcd"

bench-steady: build ## ten minutes at full load: does it get slower, does memory grow?
	"$(binary)" bench --in-flight 4096 --batch 64 --keys 10000 --seconds 600 --data-dir ./bench-data

bench-failover: tools ## leaders that vanish with 100,000 entries running: how soon another takes over
	cargo test --release --all-features $(locked) --test main -- failover::in_flight --nocapture --test-threads=1

bench-million: tools ## a million vqueues, a vqueue with a million entries, a million suspended entries; DIR=... for another disk
	cargo bench $(locked) --bench million -- 1000000 all $(DIR)

bench-calls: tools ## steps and calls beside plain entries, with 2, 8 and 64 partitions
	cargo bench $(locked) --bench calls -- 15

fuzz-http: tools ## generated requests to a real server: no server error, no undocumented answer
	cargo build $(everything) --bin forebay
	scripts/schemathesis "$(CARGO_TARGET_DIR)/release/forebay" "$(CARGO_TARGET_DIR)"

check: lint ## what CI runs: lints, then tests
	@$(MAKE) --no-print-directory test

lint: tools ## formatting, clippy, documentation, licences
	cargo fmt --all --check
	cargo clippy $(everything) --all-targets -- -D warnings
	@$(MAKE) --no-print-directory doc
	@if cargo deny --version >/dev/null 2>&1; then \
		set -x; cargo deny --workspace check bans licenses sources; \
	else \
		echo "cargo-deny is not installed: licences and sources are not checked"; \
	fi

doc: tools ## the API documentation; a warning is an error
	RUSTDOCFLAGS="-D warnings" cargo doc $(everything) --no-deps

fmt: ## format the code
	cargo fmt --all

clean-data: ## forget what `make run` did
	rm -rf forebay-data forebay-results

tools:
	@scripts/tools "$(CARGO_TARGET_DIR)"
	@scripts/rocksdb "$(ROCKSDB_LIB_DIR)"
