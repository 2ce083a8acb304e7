#!/bin/sh
# Sends to a server what its description allows, and what it does not, and looks for answers that it should not give.
# usage: tests/schemathesis.sh [EXAMPLES]     (of each operation; 20 if absent)
# Needs the built binary and the base bundle (./test.sh makes both), Python 3, and PyPI the first time.
set -eu
cd "$(dirname "$0")/.."
examples="${1:-20}"
binary="${FLOWCELL_BIN:-$PWD/target/debug/flowcell}"
shared="${FLOWCELL_HOME:-$PWD/target/flowcell-home}"
tools=target/schemathesis
if ! [ -x "$tools/bin/schemathesis" ]; then
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet 'schemathesis>=4,<5'
fi

home="$(mktemp -d)"
server=
end() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$home"
}
trap end EXIT
for part in blobs bundles cache; do ln -s "$shared/$part" "$home/$part"; done
FLOWCELL_HOME="$home" FLOWCELL__SESSIONS__CALL_SECONDS=5 \
  "$binary" serve --listen 127.0.0.1:0 >"$home/out" 2>"$home/log" &
server=$!
tries=0
until grep -q '^flowcell serves ' "$home/out"; do
  tries=$((tries + 1))
  if [ "$tries" -gt 600 ] || ! kill -0 "$server" 2>/dev/null; then cat "$home/log" >&2; exit 1; fi
  sleep 0.1
done
key="$(grep '^fc_' "$home/out")"
url="$(sed -n 's/^flowcell serves //p' "$home/out")"

# Something to ask for, under names that examples of the description also have.
curl -sS --fail -o "$home/answer" -H "Authorization: Bearer $key" -H 'Content-Type: application/json' \
  -d '{"name": "flow"}' "$url/v1/workspaces/default/flows"

# Event streams go on until their session ends, so they are left to the tests in Rust.
"$tools/bin/schemathesis" run "$url/openapi.json" \
  --header "Authorization: Bearer $key" \
  --exclude-path-regex '/events$' \
  --phases examples,coverage,fuzzing \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance \
  --max-examples "$examples" --workers 2 --seed 1 --request-timeout 30 --no-color
