#!/bin/sh
# Builds the Python runner: CPython, the modules below src/ and the standard modules they import, as one component.
# usage: build.sh OUT.wasm
set -eu
out=${1:?usage: build.sh OUT.wasm}
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../../.." && pwd)
. "$repository/bundles/toolchain/componentize-py.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The runner speaks flowcell's contract and all of WASI's command-line world.
component_wit "$work/wit" 'include flowcell:tool/python-runner@0.1.0; include wasi:cli/imports@0.2.0; import wasi:http/types@0.2.0; import wasi:http/outgoing-handler@0.2.0;'
# A copy, so that no cache of an ordinary Python gets into the component.
cp -R "$here/src" "$work/src"
find "$work/src" -name __pycache__ -prune -exec rm -rf {} +

case $out in /*) ;; *) out=$PWD/$out ;; esac
componentize "$work/wit" "$work/src" flowcell_runner_app "$out"
echo "python-runner: $out, $(wc -c <"$out") bytes" >&2
