#!/bin/sh
# Builds a JavaScript tool to a WebAssembly component of its own.
# usage: js.sh FILE.js OUT.wasm
# FILE.js exports an object `tool` with `describe` and `invoke` (interface flowcell:tool/tool).
set -eu
file=${1:?usage: js.sh FILE.js OUT.wasm}
out=${2:?usage: js.sh FILE.js OUT.wasm}
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
build_cache=${FLOWCELL_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flowcell/build}

# js/package.json also names preview2-shim, which componentize-js imports without saying so.
# The packages at the versions of package-lock.json, whose hashes npm checks. Not `npm ci`: it insists on the packages for
# other platforms, not all of which exist.
packages=$build_cache/componentize-js-$(cksum <"$here/js/package-lock.json" | cut -d ' ' -f 1)
if [ ! -e "$packages/complete" ]; then
  echo "componentize-js: installing into $packages" >&2
  rm -rf "$packages" && mkdir -p "$packages"
  cp "$here/js/package.json" "$here/js/package-lock.json" "$packages/"
  (cd "$packages" && npm install --no-save --silent --no-audit --no-fund >&2)
  touch "$packages/complete"
fi
cp "$here/js/componentize.mjs" "$packages/componentize.mjs"
node "$packages/componentize.mjs" "$file" "$repository/wit" tool-component "$out"
echo "$(basename "$file"): $out, $(wc -c <"$out") bytes" >&2
