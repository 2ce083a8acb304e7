#!/bin/sh
# Builds the components that the example flow brings along, into its folder. (Its Rust tool belongs to the bundle.)
# usage: build.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sh "$here/javascript-sentences/build.sh" "$here/flow/sentences.wasm"
sh "$here/python-slugify/build.sh" "$here/flow/slugify.wasm"
