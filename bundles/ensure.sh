#!/bin/sh
# Builds flowcell, the base bundle and the examples, unless they were built from these very sources.
# usage: FLOWCELL_HOME=DIR ensure.sh [OPTION…]     options are cargo build's: which packages (default: --package flowcell)
# needs: Rust (cargo), Python 3 (with venv), Node (with npm); fetches what else it needs with their own clients.
set -eu
: "${FLOWCELL_HOME:?ensure.sh: set FLOWCELL_HOME to the folder for the bundles}"
repository=$(cd "$(dirname "$0")/.." && pwd)
cd "$repository"

for program in cargo python3 node npm; do
  command -v "$program" >/dev/null || {
    echo "ensure.sh: $program is not on the PATH; install Rust, Python 3 and Node first" >&2
    exit 1
  }
done

echo "== flowcell (the first build compiles wasmtime: some minutes)" >&2
[ $# -gt 0 ] || set -- --package flowcell
cargo build "$@"
flowcell=${CARGO_TARGET_DIR:-target}/debug/flowcell

# What the bundles are made of: their sources, the contract, and the host that builds them.
sources=$(find bundles guest-examples wit crates/bundle \( -name target -o -name node_modules -o -name __pycache__ \) -prune \
  -o -type f ! -name '*.wasm' -print | LC_ALL=C sort | xargs cat | cksum)
stamp=$FLOWCELL_HOME/sources
if [ "$(cat "$stamp" 2>/dev/null)" != "$sources" ] || [ ! -e guest-examples/flow/slugify.wasm ]; then
  echo "== the base bundle and the examples (Python runner, Rust and JavaScript tools: some minutes)" >&2
  "$flowcell" bundle build --source bundles/promptflow
  sh guest-examples/build.sh
  "$flowcell" bundle build --source guest-examples
  printf '%s' "$sources" >"$stamp"
fi
