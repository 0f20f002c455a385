#!/usr/bin/env bash
# Formatting, lints and all tests. Installs what the tests run (Node.js, Python) if it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing=()
command -v node >/dev/null || missing+=(nodejs)
command -v python3 >/dev/null || missing+=(python3)
command -v setsid >/dev/null || missing+=(util-linux)
if ((${#missing[@]})); then
  as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || { echo "tests/run.sh: install ${missing[*]}, or run this as root" >&2; exit 1; }
    as_root=(sudo)
  fi
  echo "installing ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
fi

# From here on a test that finds a tool missing fails instead of being skipped.
export ROLLOUT_TESTS_NEED_TOOLS=1

cargo fmt --check
cargo clippy --all-targets -- -D warnings
cargo test

echo "tests/run.sh: formatting, lints and all tests are fine"
