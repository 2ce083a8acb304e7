#!/bin/sh
# Builds everything, runs the example flow, and shows its answer.
# usage: ./demo.sh
set -eu
cd "$(dirname "$0")"
export FLOWCELL_HOME="${FLOWCELL_HOME:-$PWD/target/flowcell-home}"
sh bundles/ensure.sh

echo "== flowcell flow test --flow guest-examples/flow --image guest-examples:0.1.0" >&2
"${CARGO_TARGET_DIR:-target}/debug/flowcell" flow test --flow guest-examples/flow --image guest-examples:0.1.0
