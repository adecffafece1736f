# From a bare machine to a running, tested loop_pool. `make help` lists the targets.
#
# `make build` leads to everything else:
#
#     tools/interpreter.py -> the free-threaded CPython (in the user's cache folder, made once)
#     .venv/bin/python     -> an environment of it (`.venv-3.15t-dev` with PYTHON=3.15t)
#     .venv/.dependencies  -> stamp: extras and development tools are installed
#     .venv/.built         -> stamp: the release build of the package is installed, editable
#
# `.venv-3.15t` and `.venv-3.14` are made alike, with what the smoke tests need and no more.
# `.venv-bench` has the peers of the benchmarks, and a wheel of this checkout.

PYTHON3 ?= python3
# The Python that is built for and tested, as in `make test PYTHON=3.15t`.
PYTHON := 3.14t
# Those that `make test` runs a smoke test on besides, and CPython's own tests of each of these.
OTHER_VERSIONS := 3.15t 3.14
OTHER_CPYTHON := 3.15t
ifeq ($(PYTHON),3.14t)
VENV := .venv
else
VENV := .venv-$(PYTHON)-dev
OTHER_VERSIONS :=
OTHER_CPYTHON :=
endif
python := $(VENV)/bin/python
BENCH_ENV := .venv-bench

# uv takes the interpreters that it is given and fetches none on its own.
export UV_PYTHON_DOWNLOADS := never
# As pip and cargo do, so that a company's own authority is known to all of them.
export UV_SYSTEM_CERTS ?= 1
# The tests start hundreds of interpreters, each of which would compile all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE
# The interpreter by which pyo3 is checked where maturin does not choose it (clippy, cargo doc).
export PYO3_PYTHON := $(CURDIR)/$(python)

# Everything below Python.
RUST_FEATURES := --no-default-features --features tls,http

IN_PARALLEL := --dist worksteal -n

# The Python tests that run: all, or those of the rooms and files in ROOM, as in ROOM="serve tls",
# ROOM=serve/test_ends.py, or a path from here.
TESTS := tests/python
ifdef ROOM
TESTS := $(patsubst tests/python/tests/python/%,tests/python/%,$(ROOM:%=tests/python/%))
endif

SOURCES := Cargo.toml Cargo.lock pyproject.toml $(wildcard build.rs) $(shell find src)
find_uv = $$($(PYTHON3) tools/interpreter.py --uv)
find_python = $$($(PYTHON3) tools/interpreter.py $(1))

# Several tests measure time, and cargo takes all cores anyway.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

.PHONY: help build run test test-all wheels services services-if-possible test-rust \
	test-rust-build test-loom test-python test-cpython test-cpython-plain test-cpython-debug \
	test-cpython-streams test-uvicorn test-versions test-versions-build models model-loom model-tsan model-asan \
	model-miri stress lint format bench bench-report bench-rust bench-check docs clean \
	extension-is-gone

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

# --- the environments ---------------------------------------------------------------------------

build: $(VENV)/.built ## Put the release build, its extras and the development tools into .venv

# $(1): the environment, $(2): the Python version, $(3): cargo's target folder, $(4): its profile,
# $(5): what is installed besides the package.
# pyo3 is compiled for one Python at a time, so that those who share a folder take turns in it.
# `bin/python` is a link to the interpreter, so its rule also runs when the interpreter is gone.
# The extension module lies outside of the environment, so its absence counts as well.
# The stamp bears the time at which the build began: what is edited meanwhile is built next time.
# maturin installs the group `dev` unless it is told another, and not all of that is made for every
# version.
define environment
$(1)/bin/python:
	$$(PYTHON3) tools/check_machine.py
	python=$$(call find_python,$(2)) && uv=$$(find_uv) && \
		"$$$$uv" venv --quiet --clear --python "$$$$python" $(1)

$(1)/.dependencies: $(1)/bin/python pyproject.toml
	uv=$$(find_uv) && "$$$$uv" pip install --quiet --python $(1)/bin/python $(5)
	touch $$@

$(1)/.built: $(1)/.dependencies $(VENV)/.dependencies $$(SOURCES) \
		$(if $(wildcard python/loop_pool/_core.cpython-$(subst .,,$(2))-*.so),,extension-is-gone)
	$$(PYTHON3) tools/check_machine.py
	touch $$@.begun
	uv=$$(find_uv) && PATH="$$$${uv%/*}:$$$$PATH" VIRTUAL_ENV=$$(CURDIR)/$(1) \
		PYO3_PYTHON=$$(CURDIR)/$(1)/bin/python CARGO_TARGET_DIR=$(3) \
		$(VENV)/bin/maturin develop --profile $(4) --uv --group test
	mv $$@.begun $$@
endef

$(eval $(call environment,$(VENV),$(PYTHON),target/python-$(PYTHON),release,\
	--requirement pyproject.toml --all-extras --group dev))
$(foreach version,$(OTHER_VERSIONS),$(eval \
	$(call environment,.venv-$(version),$(version),target/python-smoke,smoke,--group test)))

# --- the two commands ---------------------------------------------------------------------------

run: build ## Run the load test on real connections; options in ARGS="--loops 2 --seconds 5"
	$(python) examples/load_test.py $(ARGS)

# Each with what must have ended before it. What only computes runs side by side, and so does what
# mostly waits; tests that measure time have the machine for themselves.
ifdef ROOM
TEST_PARTS := services-if-possible build test-python:services-if-possible,build
else
TEST_PARTS := \
	services-if-possible \
	$(VENV)/.dependencies \
	test-rust-build \
	build:$(VENV)/.dependencies \
	test-loom:test-rust-build \
	test-versions-build:$(VENV)/.dependencies \
	test-rust:services-if-possible,build,test-loom,test-versions-build \
	test-python:test-rust \
	test-uvicorn:test-python \
	test-cpython-plain:test-python \
	test-cpython-debug:test-python \
	test-cpython-streams:test-cpython-plain,test-cpython-debug \
	$(OTHER_VERSIONS:%=smoke-%:test-cpython-plain,test-cpython-debug) \
	$(foreach version,$(OTHER_CPYTHON),test-cpython-$(version):smoke-$(version))
endif

test: ## Run every test, or with ROOM=serve the Python tests of one room, and say what took how long
	$(PYTHON3) tools/run_parts.py --make "$(MAKE) --no-print-directory" $(TEST_PARTS)

test-all: ## Run every test on 3.14t, and then on 3.15t
	$(MAKE) test
	$(MAKE) test PYTHON=3.15t

services: ## Install what some tests start: PostgreSQL, Redis, NATS, HAProxy, openssl, curl; with LARGE=1 Chromium (root, apt)
	$(PYTHON3) tools/services.py $(if $(LARGE),--large)

services-if-possible:
	$(PYTHON3) tools/services.py --if-possible

# --- single groups of tests ---------------------------------------------------------------------

test-rust: ## Run the Rust tests, which need no Python
	if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run $(RUST_FEATURES) && cargo test $(RUST_FEATURES) --doc; \
	else \
		cargo test $(RUST_FEATURES); \
	fi
	cargo test --manifest-path benches/echo/Cargo.toml --target-dir target/echo

# Builds alone, for `make test`, so that its tests do not run while others build.
test-rust-build:
	$(PYTHON3) tools/check_machine.py
	cargo test $(RUST_FEATURES) --no-run
	cargo test --manifest-path benches/echo/Cargo.toml --target-dir target/echo --no-run

# Optimised, as loom runs each model many thousand times; but linked quickly. With nextest each model
# has a process: loom maps a stack for each thread of each run, for which threads of one process
# wait for each other.
test-loom: ## Run the models of the wake and sleep protocols under loom
	if cargo nextest --version >/dev/null 2>&1; then run="nextest run"; else run=test; fi; \
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=target/loom \
		CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		cargo $$run --release --no-default-features --lib loom_

# More processes than there are cores, as many tests wait rather than work.
test-python: build ## Run the Python tests; options in ROOM, and in PYTEST_ARGS, such as "-n 0 -k server"
	$(python) -m pytest $(TESTS) -m "not stress" $(IN_PARALLEL) 4 $(PYTEST_ARGS)

# Twice, as debug mode makes and runs handles by other code.
test-cpython: test-cpython-plain test-cpython-debug test-cpython-streams ## Run CPython's own asyncio tests on our loop

test-cpython-plain: build
	$(python) tests/python/cpython/suite.py

test-cpython-debug: build
	PYTHONASYNCIODEBUG=1 $(python) tests/python/cpython/suite.py

test-cpython-streams: build
	$(python) tests/python/cpython/suite.py --native-streams test_streams test_ssl test_subprocess
	$(python) tests/python/cpython/suite.py --native-tls test_ssl test_sslproto

test-cpython-%: .venv-%/.built
	.venv-$*/bin/python tests/python/cpython/suite.py

test-uvicorn: build ## Run uvicorn's own tests of what it serves on native HTTP
	tests=$$($(PYTHON3) tools/uvicorn_tests.py $(python)) && \
		$(python) tests/python/uvicorn_suite/suite.py "$$tests" -q --tb=short

test-versions: $(OTHER_VERSIONS:%=smoke-%) $(OTHER_CPYTHON:%=test-cpython-%) ## Run the smoke tests on the other Python versions

test-versions-build: $(OTHER_VERSIONS:%=.venv-%/.built)

# With two processes, as `make test` runs those of all versions at once.
smoke-%: .venv-%/.built
	.venv-$*/bin/python -m pytest $(TESTS) -m smoke $(IN_PARALLEL) 2 $(PYTEST_ARGS)

wheels: $(VENV)/.dependencies ## Build a wheel for each Python into dist/, and try each; ONLY_WHEELS="3.14t"
	$(PYTHON3) tools/wheels.py --maturin $(VENV)/bin/maturin $(ONLY_WHEELS)

stress: build ## Run the long tests, which `make test` leaves out
	$(python) -m pytest $(TESTS) -m stress $(PYTEST_ARGS)

ONLY := loom tsan asan miri

models: $(ONLY:%=model-%) ## Run the models, and tests under the sanitizers; ONLY="tsan asan" of: loom tsan asan miri

model-loom: test-loom

model-tsan model-miri:
	$(PYTHON3) tools/sanitize.py $(@:model-%=%)

model-asan: $(VENV)/.dependencies .venv-3.14/.dependencies
	$(PYTHON3) tools/sanitize.py asan

# --- the house ----------------------------------------------------------------------------------

lint: build docs ## Check formatting, lints, types, stubs and the Rust documentation
	$(PYTHON3) tools/check_machine.py --lint
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets $(RUST_FEATURES) -- -D warnings
	cargo clippy --no-default-features --features python -- -D warnings
	cargo fmt --check --manifest-path benches/echo/Cargo.toml
	cargo clippy --all-targets --manifest-path benches/echo/Cargo.toml --target-dir target/echo \
		-- -D warnings
	cargo fmt --check --manifest-path benches/rust/Cargo.toml
	cargo clippy --all-targets --manifest-path benches/rust/Cargo.toml --target-dir target/bench-rust \
		-- -D warnings
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy --strict python/loop_pool
	$(python) -m mypy --strict tools/interpreter.py tools/check_machine.py tools/services.py \
		tools/callgrind.py tools/bench_check.py tools/rooms.py tools/run_parts.py tools/sanitize.py tools/uvicorn_tests.py tools/wheels.py
	$(python) -m mypy.stubtest loop_pool._core

format: build ## Format all code and apply the lints' own corrections
	$(PYTHON3) tools/check_machine.py --lint
	cargo fmt --all
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

bench-rust: ## Time the layers below Python; options in ARGS="timers --min-time 1"
	cargo bench --manifest-path benches/rust/Cargo.toml --target-dir target/bench-rust --bench wall \
		-- $(ARGS)

bench-check: ## Fail if the layers below Python need more instructions than before; options in ARGS
	$(PYTHON3) tools/bench_check.py $(ARGS)

# What is measured is a wheel of this checkout, in an environment of its own: an editable install
# would give whatever extension module was built last, be it one for development.
# The peers are installed one by one, as one that cannot be must not keep the others away.
$(BENCH_ENV)/bin/python:
	$(PYTHON3) tools/check_machine.py
	python=$(call find_python,3.14t) && uv=$(find_uv) && \
		"$$uv" venv --quiet --clear --python "$$python" $(BENCH_ENV)

$(BENCH_ENV)/.peers: $(BENCH_ENV)/bin/python pyproject.toml benches/python/environment.py
	uv=$(find_uv) && \
		"$$uv" pip install --quiet --python $(BENCH_ENV)/bin/python "maturin>=1.9,<2" && \
		$(BENCH_ENV)/bin/python benches/python/environment.py "$$uv"
	touch $@

$(BENCH_ENV)/.built: $(BENCH_ENV)/.peers $(SOURCES) $(shell find python -name '*.py*' -not -name '*.pyc')
	$(PYTHON3) tools/check_machine.py
	touch $@.begun
	rm -rf target/python-bench/wheels
	CARGO_TARGET_DIR=target/python-bench $(BENCH_ENV)/bin/maturin build --release --quiet \
		--compatibility linux --interpreter $(BENCH_ENV)/bin/python --out target/python-bench/wheels
	uv=$(find_uv) && "$$uv" pip install --quiet --python $(BENCH_ENV)/bin/python --no-deps \
		--reinstall-package loop_pool target/python-bench/wheels/*.whl
	mv $@.begun $@

bench: $(BENCH_ENV)/.built ## Compare with peers, 105 minutes; QUICK=1 BENCH=micro,sockets/stuck PEERS=uvloop,loop_pool
	$(BENCH_ENV)/bin/python benches/python/bench.py $(if $(BENCH),--only "$(BENCH)") \
		$(if $(PEERS),--peers "$(PEERS)") $(if $(QUICK),--quick) $(ARGS)

bench-report: $(BENCH_ENV)/bin/python ## Make the plots and tables of the results in benches/results
	$(BENCH_ENV)/bin/python benches/python/bench.py --report

docs: build ## Build the Rust documentation, private items included, into target/doc
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items $(RUST_FEATURES)

clean: ## Remove what was built; the interpreters stay in the user's cache folder
	rm -rf target dist wheels .venv .venv-* .mypy_cache .pytest_cache .ruff_cache
	rm -f python/loop_pool/*.so python/loop_pool/*.pyd
	find $(wildcard python tests tools examples benches) -name __pycache__ -prune -exec rm -rf {} +
