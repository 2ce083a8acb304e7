#!/bin/sh
# Makes the folders that the Python runner has mounted:
#   OUT/python    CPython's standard library
#   OUT/packages  the bundle's packages (requirements.txt), and our own `openai`
#   OUT/warm      a flow folder whose tool warms up an instance before its memory is stored: see warm/warm_up.py
# usage: tree.sh OUT     needs python3 with pip and venv, and cargo
set -eu
out=${1:?usage: tree.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../../.." && pwd)
. "$repository/bundles/toolchain/componentize-py.sh"

rm -rf "$out/python" "$out/packages" "$out/warm"
mkdir -p "$out/python" "$out/packages"

# The library of the very CPython that the runner contains.
"$componentize_venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0
"$componentize_venv/bin/python" - "$(componentize_crate)/python-lib.tar.zst" "$out/python" <<'UNPACK'
import sys, tarfile, zstandard

with open(sys.argv[1], "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
    tarfile.open(fileobj=stream, mode="r|").extractall(sys.argv[2])
UNPACK
# Parts that need what a sandbox has not: windows, programs to run, another interpreter's packages.
(cd "$out/python" && rm -rf ensurepip idlelib lib2to3 tkinter turtle.py turtledemo venv test)

# One platform for every machine, so that the hashes fit; what is compiled for it goes out again.
"$componentize_venv/bin/pip" install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes \
  --only-binary :all: --implementation cp --python-version 3.14 --abi cp314 --abi none \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  --requirement "$here/requirements.txt" --target "$out/packages"
rm -rf "$out/packages/bin"
find "$out/packages" -name '*.so' -exec rm -f {} +
cp -R "$here/openai/src/." "$out/packages"
find "$out/python" "$out/packages" -name __pycache__ -prune -exec rm -rf {} +
# What an installer would note, by which the package is taken out again where another takes its place.
(cd "$out/packages" && for info in openai-*.dist-info; do find openai "$info" -type f | sed 's/$/,,/' >"$info/RECORD"; done)

cp -R "$here/warm" "$out/warm"
find "$out/warm" -name __pycache__ -prune -exec rm -rf {} +
echo "python tree: $out, $(find "$out" -type f | wc -l) files, $(du -sk "$out" | cut -f1) KiB" >&2
