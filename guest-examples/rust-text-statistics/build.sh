#!/bin/sh
# usage: build.sh OUT.wasm
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec sh "$here/../../bundles/toolchain/rust.sh" "$here" "${1:?usage: build.sh OUT.wasm}"
