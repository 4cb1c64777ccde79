#!/usr/bin/env bash
# Prometheus (with promtool) and Alertmanager (with amtool). Debian's packages, if they are not there yet. Their own services are not wanted:
# 'mlops up' runs both on ports of the stack.
set -euo pipefail
if ! command -v prometheus >/dev/null || ! command -v prometheus-alertmanager >/dev/null; then
  test "$(id -u)" = 0 || exec sudo --preserve-env "$0"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qq --yes --no-install-recommends prometheus prometheus-alertmanager
  if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then
    systemctl disable --now prometheus prometheus-alertmanager
  fi
fi
