#!/bin/sh
# usage: build.sh OUT.wasm
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec sh "$here/../../bundles/toolchain/js.sh" "$here/src/tool.js" "${1:?usage: build.sh OUT.wasm}"
