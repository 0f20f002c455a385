#!/usr/bin/env bash
# Builds everything, keeps a server running with rollout, puts load on it, deploys a good and then a broken version, and
# tells what happened. Changes nothing outside target/ and a temporary directory. Ends with 0 only if no request failed and
# every command ended as it should.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*"; }
indent() { sed 's/^/    /'; }
fail() { say "quickstart: $*" >&2; problems=$((problems + 1)); }

problems=0
agent=
load=
dir=$(mktemp -d "${TMPDIR:-/tmp}/rollout-quickstart.XXXXXX")
export ROLLOUT_SOCKET="$dir/rollout.sock"

clean_up() {
  local code=$?
  trap - EXIT INT TERM
  if [[ -n $load ]]; then kill "$load" 2>/dev/null || true; fi
  if [[ -n $agent ]]; then
    kill "$agent" 2>/dev/null || true
    wait "$agent" 2>/dev/null || true
  fi
  if ((code != 0)) && [[ -s $dir/agent.log ]]; then
    say "the agent's last lines:" >&2
    tail -n 30 "$dir/agent.log" | indent >&2
  fi
  rm -rf "$dir"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_until SECONDS WHAT COMMAND…: looks ten times a second.
wait_until() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if ((SECONDS >= deadline)); then fail "gave up waiting: $what"; exit 1; fi
    kill -0 "$agent" 2>/dev/null || { fail "the agent ended while waiting: $what"; exit 1; }
    sleep 0.1
  done
}

status() { "$rollout" status --json 2>/dev/null | tr -d ' \n'; }
ready_workers() { status | grep -o '"state":"ready"' | wc -l; }
four_are_ready() { (($(ready_workers) == 4)); }
milliseconds() { local now=${EPOCHREALTIME//[.,]/}; say $((now / 1000)); }

# deploy FILE EXPECTED: rolls it out and checks the exit code.
deploy() {
  local file=$1 expected=$2 code=0 begin took
  say "rollout deploy ./$file"
  begin=$(milliseconds)
  "$rollout" deploy "$dir/$file" >"$dir/deploy.log" 2>&1 || code=$?
  took=$(($(milliseconds) - begin))
  indent <"$dir/deploy.log"
  say "    → exit code $code (expected $expected), $took ms, $((took / 4)) ms for each of 4 slots"
  say
  ((code == expected)) || fail "deploying $file ended with exit code $code, not $expected"
  four_are_ready || fail "not every slot has a ready worker after deploying $file"
}

say "building (the first time takes a few minutes)"
cargo build --release --quiet --bin rollout --example worker --example load --example faulty
target=$(cargo metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release
rollout=$target/rollout

# A release is a file. These differ in their last line, which each program finds at the end of its own file.
for version in v1 v2; do
  cp "$target/examples/worker" "$dir/$version"
  printf '\nROLLOUT-EXAMPLE-VERSION=%s\n' "$version" >>"$dir/$version"
done
cp "$target/examples/faulty" "$dir/broken"
printf '\nROLLOUT-EXAMPLE-FAULT=exits\n' >>"$dir/broken"

cat >"$dir/rollout.yaml" <<'YAML'
services:
  web:
    binary: v1
    workers: 4
    listen: ["127.0.0.1:0"]
    readiness: {http: /healthz, timeout: 10s}
YAML

"$rollout" run -c "$dir/rollout.yaml" --socket "$ROLLOUT_SOCKET" --state-dir "$dir/state" >"$dir/agent.log" 2>&1 &
agent=$!
wait_until 30 "four ready workers" four_are_ready
address=$(status | sed -n 's/.*"listen":\["\([^"]*\)".*/\1/p')
say "4 workers of v1 are ready at http://$address"
say

# Every kind of traffic: new and kept connections (also 20 ms away), slow requests, uploads, streams.
"$target/examples/load" --url "http://$address" --rate 200 --known v1,v2 >"$dir/load.log" 2>&1 &
load=$!

deploy v2 0
deploy broken 3

kill "$load"
code=0
wait "$load" || code=$?
load=
say "what the clients saw meanwhile:"
indent <"$dir/load.log"
say
((code == 0)) || fail "not every request was answered as it should"
grep -q 'v1 (' "$dir/load.log" || fail "v1 answered no request"
grep -q 'v2 (' "$dir/load.log" || fail "v2 answered no request"

kill "$agent"
code=0
wait "$agent" || code=$?
agent=
say "agent stopped: exit code $code (expected 0)"
((code == 0)) || fail "the agent ended with exit code $code, not 0"

((problems == 0)) || exit 1
say "everything went as it should"
