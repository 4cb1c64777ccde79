#!/usr/bin/env bash
# What the benches need beside the environment: wrk, which loads a server. Debian's package, if it is not there yet.
set -euo pipefail
if ! command -v wrk >/dev/null; then
  test "$(id -u)" = 0 || exec sudo --preserve-env "$0"
  apt-get update -qq
  apt-get install -qq --yes --no-install-recommends wrk
fi
