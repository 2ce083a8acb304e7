#!/bin/sh
# usage: build.sh OUT.wasm
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec sh "$here/../../bundles/toolchain/python.sh" "$here/src" slugify_tool "${1:?usage: build.sh OUT.wasm}"
