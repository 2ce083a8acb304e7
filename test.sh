#!/bin/sh
# Runs all checks and tests: of the host, and of what runs in it.
# usage: ./test.sh
set -eu
cd "$(dirname "$0")"
export FLOWCELL_HOME="${FLOWCELL_HOME:-$PWD/target/flowcell-home}"
# Tests bring dependencies of their own, whose features wasmtime is built with too: all at once, it is built once.
sh bundles/ensure.sh --workspace --all-targets

echo "== format and lints" >&2
for workspace in . bundles/promptflow/tools guest-examples/rust-text-statistics; do
  (cd "$workspace" && cargo fmt --all --check)
done
cargo clippy --workspace --all-targets --quiet -- --deny warnings

echo "== guests: Python runner, built-in tools, examples" >&2
(cd bundles/promptflow/python-runner/tests && python3 -m unittest --quiet)
(cd bundles/promptflow/python/openai/tests && python3 -m unittest --quiet)
(cd bundles/promptflow/tools && cargo test --quiet)
(cd guest-examples/rust-text-statistics && cargo test --quiet)
(cd guest-examples/python-slugify && python3 -m unittest discover --quiet -s tests)
(cd guest-examples/javascript-sentences && node --test)

echo "== host" >&2
cargo test --workspace

echo "== the server's description against the server" >&2
sh tests/schemathesis.sh
