# To be sourced (after `repository` is set): componentize-py at the version the bundles are built with.
#   component_wit DIR 'include …;'                 makes DIR a WIT package whose world has these items
#   componentize WIT-DIR SOURCE-DIR MODULE OUT     builds the component
# Tools live below $FLOWCELL_BUILD_CACHE (default: ~/.cache/flowcell/build); nothing of them is in the repository.
COMPONENTIZE_PY=0.25.1
build_cache=${FLOWCELL_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flowcell/build}
componentize_venv=$build_cache/componentize-py-$COMPONENTIZE_PY

# The tool itself, from the Python package of the same name.
if [ ! -e "$componentize_venv/complete" ]; then
  echo "componentize-py $COMPONENTIZE_PY: installing into $componentize_venv" >&2
  python3 -m venv --clear "$componentize_venv"
  "$componentize_venv/bin/pip" install --quiet --disable-pip-version-check "componentize-py==$COMPONENTIZE_PY"
  touch "$componentize_venv/complete"
fi

# Prints the folder of the crate of the same name and version: it carries WASI's interfaces and Python's standard library.
componentize_crate() {
  # `cargo info` unpacks the crate into cargo's registry.
  cargo info --quiet "componentize-py@$COMPONENTIZE_PY" >/dev/null 2>&1 || true
  for crate in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"componentize-py-$COMPONENTIZE_PY"; do
    [ -d "$crate" ] && echo "$crate" && return
  done
  echo "cargo did not unpack componentize-py $COMPONENTIZE_PY: is the crate registry reachable? Try \`cargo info componentize-py\`" >&2
  return 1
}

component_wit() {
  mkdir -p "$1/deps/flowcell-tool"
  cp "$repository"/wit/*.wit "$1/deps/flowcell-tool/"
  crate_folder=$(componentize_crate)
  # WASI 0.2 only: hosts call 0.3 experimental.
  for package in cli clocks filesystem http io random sockets; do
    cp -R "$crate_folder/wit/deps/$package-0.2.0" "$1/deps/"
  done
  printf 'package flowcell:build;\n\nworld component { %s }\n' "$2" >"$1/world.wit"
}

componentize() {
  # Several interfaces are called `types`, so both get names of their own.
  # The component holds Python's memory after its imports, and no two builds give the same bytes: componentize-py passes
  # nothing on that would fix the seed of Python's string hashes, and even with that fixed the heap's layout varies.
  (
    unset VIRTUAL_ENV
    cd "$2"
    "$componentize_venv/bin/componentize-py" -d "$1" -w component \
      --import-interface-name flowcell:tool/types@0.1.0=tool_types \
      --import-interface-name wasi:filesystem/types@0.2.0=filesystem_types \
      --import-interface-name wasi:http/types@0.2.0=http_types \
      componentize -p . "$3" -o "$4"
  ) >&2
}
