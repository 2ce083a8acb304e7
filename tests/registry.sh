#!/usr/bin/env bash
# Prints the path of a registry for OCI artifacts (Debian's docker-registry), for the tests of crates/registry. One that is
# installed is used; otherwise Debian's package is unpacked without installing it.
set -euo pipefail

if installed=$(command -v docker-registry); then
  echo "$installed"
  exit
fi
build_cache=${FLOWCELL_BUILD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/flowcell/build}
folder=$build_cache/docker-registry
mkdir -p "$build_cache"
# Tests may ask for it at the same time.
exec 9>"$folder.lock"
flock 9
if [ ! -e "$folder/complete" ]; then
  echo "registry: unpacking Debian's docker-registry into $folder" >&2
  rm -rf "$folder" && mkdir -p "$folder"
  (
    cd "$folder"
    if [ -z "$(apt-cache policy docker-registry | sed -n 's/ *Candidate: \([0-9].*\)/\1/p')" ]; then
      # A new machine has no package lists yet.
      apt-get update -qq >&2
    fi
    apt-get download -qq docker-registry >&2
    dpkg -x ./*.deb root
    rm -f ./*.deb
  )
  touch "$folder/complete"
fi
echo "$folder/root/usr/bin/docker-registry"
