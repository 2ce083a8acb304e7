#!/bin/sh
# Builds the built-in tools as one component.
# usage: build.sh OUT.wasm
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec sh "$here/../../toolchain/rust.sh" "$here" "${1:?usage: build.sh OUT.wasm}"
