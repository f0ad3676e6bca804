# The two commands of the README. Both install what a fresh Debian-like machine lacks.
.PHONY: up test

# Everything on this machine: prints the addresses and a curl line that works. Pass options with ARGS="--gateway-port 8000".
up:
	.ci/install up
	cargo build --release --locked
	exec target/release/apihub up $(ARGS)

# Format, lints, tests (real Postgres, Redis, sockets). What the pipeline runs.
test:
	.ci/install test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked
	.ci/deny
