# Short names for commands. No logic: each line can be typed by hand.

# List these
default:
    @just --list

# What has to hold before a commit
check: fmt-check lint test

# All tests
test:
    cargo test --release --workspace

# Tests of everything but networks: no burn to build
fast:
    cargo test --release -p domain -p report -p proto -p coordinator -p worker -p tests

# Tests across crates
e2e:
    cargo test --release --workspace --test integration

# Millions of damaged inputs for all that reads any: hours
fuzz:
    LITHOGEN_FUZZ_EXECUTIONS=${LITHOGEN_FUZZ_EXECUTIONS:-10000000} cargo test --release --workspace --test fuzz -- --nocapture

# Warnings are errors
lint:
    cargo clippy --release --workspace --all-targets -- -D warnings

# Bring the code into form
fmt:
    cargo fmt --all

# Whether the code is in form
fmt-check:
    cargo fmt --all --check

# The documentation of the code
doc:
    cargo doc --release --workspace --no-deps

# Licences, sources and doubles of dependencies; needs cargo-deny
deny:
    cargo deny check

# The whole study in seconds; nothing is learnt
smoke:
    cargo run --release -- reproduce --scale smoke

# The whole study in minutes
tiny:
    cargo run --release -- reproduce --scale tiny

# A coordinator on this machine
up:
    cargo run --release -- coordinator

# A worker for it
work:
    cargo run --release -- worker --coordinator http://127.0.0.1:7443
