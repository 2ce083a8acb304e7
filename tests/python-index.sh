#!/usr/bin/env bash
# Prints the path of a Python index (pypiserver), and below it that of a folder of wheels for it, for
# tests/tests/python_index.rs. Both come from PyPI the first time.
# needs: Python 3 with venv.
set -euo pipefail
cd "$(dirname "$0")/.."

# Versions are pinned: what the tests find does not change by itself. Those with compiled modules are what PyPI has for
# Linux; flowcell leaves these modules out.
wheels=(
  beautifulsoup4==4.13.4 soupsieve==2.7 typing_extensions==4.14.1
  requests==2.32.4 charset_normalizer==3.4.2 idna==3.10 urllib3==2.5.0 certifi==2025.7.14
  jinja2==3.1.5 markupsafe==3.0.3
  tenacity==9.1.2 python-dotenv==1.1.1 pypdf==5.8.0 PyPDF2==3.0.1
)
# For an older Python, of which only what is not compiled is used.
old=(pyyaml==6.0.2)
folder=${CARGO_TARGET_DIR:-$PWD/target}/python-index
mkdir -p "$folder"
# Tests may ask for it at the same time.
exec 9>"$folder.lock"
flock 9
wanted=$(printf '%s\n' pypiserver==2.3.2 "${wheels[@]}" "${old[@]}")
if [ "$(cat "$folder/complete" 2>/dev/null)" != "$wanted" ]; then
  echo "python-index: pypiserver and ${#wheels[@]} wheels from PyPI into $folder" >&2
  rm -rf "$folder" && mkdir -p "$folder/wheels"
  python3 -m venv "$folder/tools"
  "$folder/tools/bin/pip" install --quiet --disable-pip-version-check pypiserver==2.3.2 >&2
  download() {
    "$folder/tools/bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
      --platform manylinux2014_x86_64 --dest "$folder/wheels" --python-version "$@" >&2
  }
  download 3.14 "${wheels[@]}"
  download 3.13 "${old[@]}"
  printf '%s\n' "$wanted" >"$folder/complete"
fi
echo "$folder/tools/bin/pypi-server"
echo "$folder/wheels"
