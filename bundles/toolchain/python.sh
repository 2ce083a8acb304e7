#!/bin/sh
# Builds a Python tool to a WebAssembly component of its own.
# usage: python.sh SOURCE-FOLDER MODULE OUT.wasm
# MODULE is a file in SOURCE-FOLDER with a class `Tool` that has `describe` and `invoke` (interface flowcell:tool/tool).
set -eu
source_folder=$(cd "${1:?usage: python.sh SOURCE-FOLDER MODULE OUT.wasm}" && pwd)
module=${2:?usage: python.sh SOURCE-FOLDER MODULE OUT.wasm}
out=${3:?usage: python.sh SOURCE-FOLDER MODULE OUT.wasm}
repository=$(cd "$(dirname "$0")/../.." && pwd)
. "$repository/bundles/toolchain/componentize-py.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
component_wit "$work/wit" 'include flowcell:tool/tool-component@0.1.0; include wasi:cli/imports@0.2.0;'
# A copy, so that no cache of an ordinary Python gets into the component.
cp -R "$source_folder" "$work/src"
find "$work/src" -name __pycache__ -prune -exec rm -rf {} +

case $out in /*) ;; *) out=$PWD/$out ;; esac
componentize "$work/wit" "$work/src" "$module" "$out"
echo "$module: $out, $(wc -c <"$out") bytes" >&2
