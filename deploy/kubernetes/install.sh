#!/usr/bin/env bash
# Install or update gateway, access and, where they are asked for, object store, online store, operator's pod, MLflow and Dagster on the cluster that
# KUBECONFIG names. Again is harmless: secrets that are there are kept. `make install-kubernetes` calls it.
#
#   SERVING_IMAGE    the serving image (make images), as the cluster pulls it; needed
#   PLATFORM_IMAGE   the platform's image; without it there is no operator's pod
#   ENVOY_IMAGE      default docker.io/envoyproxy/envoy:v1.40.0
#   SEAWEEDFS_IMAGE  default docker.io/chrislusf/seaweedfs:4.48   REDIS_IMAGE  default docker.io/library/redis:7.4
#   S3_URL           an object store of yours; without it SeaweedFS is installed. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are its;
#                    GATEWAY_ACCESS_KEY_ID and GATEWAY_SECRET_ACCESS_KEY one that only reads the bucket policies, for the gateways
#   ONLINE_URL       an online store of yours; without it Redis is installed
#   MLFLOW_URL       an MLflow of yours. With MLOPS_MLFLOW_DATABASE_URL (postgresql+psycopg2://...) instead, and PLATFORM_IMAGE, one is installed
#   MLOPS_DAGSTER_DATABASE_URL   Dagster's Postgres, of the same form. With it, and PLATFORM_IMAGE, Dagster is installed; DAGSTER=chart leaves that
#                    to Dagster's own chart (deploy/dagster/values.yaml)
#   MLOPS_CLIENT_TOKENS   what callers of models have to send as "authorization: Bearer ...", separated by commas
#   MLOPS_GATEWAY_TLS     /etc/mlops-gateway/tls for TLS by the secret mlops-gateway-tls; MLOPS_GATEWAY_CLIENT_CA=/etc/mlops-gateway/tls/ca.crt beside
#                    it for certificates of callers. These three stay as they are if they are not given, and end with NAME= (empty)
#   SETTINGS         more of the ConfigMap that every pod of ours reads: NAME=value, separated by spaces (MLOPS_LOG_ROTATE_SECONDS=60 ...)
#   CLUSTER_DOMAIN   default cluster.local   AWS_DEFAULT_REGION  default us-east-1
#   TIMEOUT          how long each part may take to be there; default 300s
#   EPHEMERAL=1      for a cluster without volumes: the installed object store forgets everything when its pod ends
#   DRY_RUN=1        print the manifests of a first installation, without its secrets
set -euo pipefail

: "${SERVING_IMAGE:?is not set, expected the serving image as the cluster pulls it: make images builds one}"
# The server may be older than this; kubectl must know kustomize's components.
minor=$(kubectl version --client --output json | sed -n 's/.*"minor": "\([0-9]*\).*/\1/p' | head -n 1)
[ "${minor:-0}" -ge 21 ] || { echo "error: got kubectl 1.${minor:-?}, expected 1.21 or newer, whatever the server is" >&2; exit 1; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=mlops
domain=${CLUSTER_DOMAIN:-cluster.local}
installs_mlflow() { [ -z "${MLFLOW_URL:-}" ] && [ -n "${MLOPS_MLFLOW_DATABASE_URL:-}" ]; }
installs_dagster() { [ -n "${MLOPS_DAGSTER_DATABASE_URL:-}" ] && [ "${DAGSTER:-}" != chart ]; }
if installs_mlflow && [ -z "${PLATFORM_IMAGE:-}" ]; then
    echo "error: got MLOPS_MLFLOW_DATABASE_URL without PLATFORM_IMAGE, whose MLflow is to run: make images builds one" >&2
    exit 1
fi
if installs_dagster && [ -z "${PLATFORM_IMAGE:-}" ]; then
    echo "error: got MLOPS_DAGSTER_DATABASE_URL without PLATFORM_IMAGE, which is to run Dagster: make images builds one, or set DAGSTER=chart" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
base=$(realpath --relative-to="$work" "$here")

# Who may ask is not to be opened by an update that does not speak of it.
kept() { [ -n "${DRY_RUN:-}" ] || kubectl --namespace "$namespace" get configmap mlops --ignore-not-found --output "jsonpath={.data.$1}"; }
tls=${MLOPS_GATEWAY_TLS-$(kept MLOPS_GATEWAY_TLS)}
client_ca=${MLOPS_GATEWAY_CLIENT_CA-$(kept MLOPS_GATEWAY_CLIENT_CA)}

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# Values go in by standard input: not in a command line, which others on this machine may read.
make_secret() { # name, then NAME=value ...
    local name=$1 part
    shift
    {
        printf 'apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\nstringData:\n' "$name" "$namespace"
        for part in "$@"; do printf '  %s: |-\n%s\n' "${part%%=*}" "$(sed 's/^/    /' <<<"${part#*=}")"; done
    } | kubectl apply --server-side --force-conflicts --filename - >/dev/null
    echo "made secret $name"
}

# What is not given stays as it is.
add_to_secret() { # name, then NAME=value ...
    local name=$1 part
    shift
    {
        printf 'stringData:\n'
        for part in "$@"; do [ -z "${part#*=}" ] || printf '  %s: |-\n    %s\n' "${part%%=*}" "${part#*=}"; done
    } | kubectl --namespace "$namespace" patch secret "$name" --type merge --patch-file /dev/stdin
}

served=$(kubectl api-versions)
components() {
    [ -n "${S3_URL:-}" ] || echo seaweedfs
    [ -n "${S3_URL:-}" ] || [ -z "${EPHEMERAL:-}" ] || echo ephemeral
    [ -n "${ONLINE_URL:-}" ] || echo redis
    [ -z "${PLATFORM_IMAGE:-}" ] || echo operator
    ! installs_mlflow || echo mlflow
    ! installs_dagster || echo ../dagster
    grep -qx policy/v1 <<<"$served" || echo kubernetes-1.20
}

image() { # name in the manifests, reference
    local reference=$2 tag=${2##*/}
    case $tag in
    *@*) printf '  - {name: %s, newName: "%s", digest: "%s"}\n' "$1" "${reference%@*}" "${reference##*@}" ;;
    *:*) printf '  - {name: %s, newName: "%s", newTag: "%s"}\n' "$1" "${reference%:*}" "${reference##*:}" ;;
    *) printf '  - {name: %s, newName: "%s"}\n' "$1" "$reference" ;;
    esac
}

settings() {
    printf 'MLOPS_S3_URL=%s\n' "${S3_URL:-http://mlops-s3.$namespace.svc.$domain:8333}"
    printf 'AWS_DEFAULT_REGION=%s\nMLOPS_SERVING_IMAGE=%s\n' "${AWS_DEFAULT_REGION:-us-east-1}" "$SERVING_IMAGE"
    printf 'MLOPS_CLUSTER_DOMAIN=%s\n' "$domain"
    [ -z "${PLATFORM_IMAGE:-}" ] || printf 'MLOPS_PLATFORM_IMAGE=%s\n' "$PLATFORM_IMAGE"
    [ -z "$tls" ] || printf 'MLOPS_GATEWAY_TLS=%s\n' "$tls"
    [ -z "$client_ca" ] || printf 'MLOPS_GATEWAY_CLIENT_CA=%s\n' "$client_ca"
    for setting in ${SETTINGS:-}; do printf '%s\n' "$setting"; done
    ! installs_mlflow || printf 'MLFLOW_TRACKING_URI=http://mlops-mlflow.%s.svc.%s:5000\n' "$namespace" "$domain"
    [ -z "${MLFLOW_URL:-}" ] || printf 'MLFLOW_TRACKING_URI=%s\n' "$MLFLOW_URL"
}

# Pods read settings and secrets when they start: another annotation makes them start anew.
started_with() { # what they are started with
    local each
    printf 'patches:\n'
    for each in "Deployment mlops-gateway|mlops-mlflow|mlops-assets|dagster-.*" "StatefulSet mlops-operator"; do
        printf '  - target: {kind: %s, name: "%s"}\n    patch: |-\n' "${each%% *}" "${each#* }"
        printf '      apiVersion: apps/v1\n      kind: %s\n      metadata: {name: any}\n' "${each%% *}"
        printf '      spec: {template: {metadata: {annotations: {mlops-assets/started-with: "%s"}}}}\n' "$1"
    done
}

{
    printf 'apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: %s\n' "$namespace"
    printf 'resources: [%s/base]\ncomponents:\n' "$base"
    components | sed "s|^|  - $base/|"
    printf 'images:\n'
    image mlops-serving "$SERVING_IMAGE"
    image mlops-platform "${PLATFORM_IMAGE:-mlops-platform}"
    image envoy "${ENVOY_IMAGE:-docker.io/envoyproxy/envoy:v1.40.0}"
    image seaweedfs "${SEAWEEDFS_IMAGE:-docker.io/chrislusf/seaweedfs:4.48}"
    image redis "${REDIS_IMAGE:-docker.io/library/redis:7.4}"
    printf 'generatorOptions: {disableNameSuffixHash: true}\nconfigMapGenerator:\n  - name: mlops\n    literals:\n'
    settings | sed 's/^/      - /'
} >"$work/kustomization.yaml"

told=$({ settings; cat "$here/../dagster/dagster.yaml" "$here/../dagster/workspace.yaml"; } | sha256sum | cut -c 1-16)
if [ -n "${DRY_RUN:-}" ]; then
    started_with "$told" >>"$work/kustomization.yaml"
    kubectl kustomize "$work"
    exit
fi

kubectl apply --filename "$here/base/namespace.yaml"
# This one is made last, so that whoever was stopped in between begins again. Not in the condition: who gets no answer must not make others.
made=$(kubectl --namespace "$namespace" get secret mlops-serving --ignore-not-found --output name)
if [ -z "$made" ]; then
    online=${ONLINE_URL:-}
    if [ -z "$online" ]; then
        password=$(random)
        make_secret mlops-redis "REDIS_PASSWORD=$password"
        online="redis://:$password@mlops-redis.$namespace.svc.$domain:6379/0"
    fi
    if [ -z "${S3_URL:-}" ]; then
        AWS_ACCESS_KEY_ID=mlops AWS_SECRET_ACCESS_KEY=$(random) gateway_key=$(random)
        all='"Admin", "Read", "Write", "List", "Tagging"'
        make_secret mlops-seaweedfs "s3.json={\"identities\": [
  {\"name\": \"mlops\", \"credentials\": [{\"accessKey\": \"mlops\", \"secretKey\": \"$AWS_SECRET_ACCESS_KEY\"}], \"actions\": [$all]},
  {\"name\": \"gateway\", \"credentials\": [{\"accessKey\": \"gateway\", \"secretKey\": \"$gateway_key\"}],
   \"actions\": [\"Read:policies\", \"List:policies\"]}]}"
        GATEWAY_ACCESS_KEY_ID=gateway GATEWAY_SECRET_ACCESS_KEY=$gateway_key
    fi
    # a gateway reads policies and nothing else: give it a key of its own by GATEWAY_ACCESS_KEY_ID and GATEWAY_SECRET_ACCESS_KEY
    token=$(random)
    make_secret mlops-gateway "AWS_ACCESS_KEY_ID=${GATEWAY_ACCESS_KEY_ID:-${AWS_ACCESS_KEY_ID:-}}" \
        "AWS_SECRET_ACCESS_KEY=${GATEWAY_SECRET_ACCESS_KEY:-${AWS_SECRET_ACCESS_KEY:-}}" "MLOPS_GATEWAY_TOKEN=$token"
    make_secret mlops-platform "MLOPS_GATEWAY_TOKEN=$token"
    make_secret mlops-serving "AWS_ACCESS_KEY_ID=${AWS_ACCESS_KEY_ID:-}" "AWS_SECRET_ACCESS_KEY=${AWS_SECRET_ACCESS_KEY:-}" \
        "MLOPS_ONLINE_URL=$online" "MLOPS_PII_KEY=$(random)"
fi
if [ -n "${MLOPS_MLFLOW_DATABASE_URL:-}${MLOPS_DAGSTER_DATABASE_URL:-}" ]; then
    add_to_secret mlops-platform "MLOPS_MLFLOW_DATABASE_URL=${MLOPS_MLFLOW_DATABASE_URL:-}" \
        "MLOPS_DAGSTER_DATABASE_URL=${MLOPS_DAGSTER_DATABASE_URL:-}"
fi
if [ -n "${MLOPS_CLIENT_TOKENS:-}" ]; then
    add_to_secret mlops-gateway "MLOPS_CLIENT_TOKENS=$MLOPS_CLIENT_TOKENS"
elif [ -n "${MLOPS_CLIENT_TOKENS+given}" ]; then
    kubectl --namespace "$namespace" patch secret mlops-gateway --type merge --patch '{"data": {"MLOPS_CLIENT_TOKENS": null}}'
fi
versions=$(kubectl --namespace "$namespace" get secret mlops-gateway mlops-platform mlops-serving --output 'jsonpath={.items[*].metadata.resourceVersion}')
started_with "$told $versions" >>"$work/kustomization.yaml"
# a Job cannot be changed, and these may run as often as one likes
kubectl --namespace "$namespace" delete job mlops-buckets mlops-migrate-dagster mlops-migrate-mlflow --ignore-not-found
# What reads a database comes once its tables are as it wants them.
kubectl apply --kustomize "$work" --selector "mlops-assets/after!=migration"
migrations=()
! installs_dagster || migrations+=(mlops-migrate-dagster)
! installs_mlflow || migrations+=(mlops-migrate-mlflow)
for name in "${migrations[@]}"; do
    kubectl --namespace "$namespace" wait --for condition=complete "job/$name" --timeout "${TIMEOUT:-300s}" || {
        kubectl --namespace "$namespace" logs "job/$name" --tail 20 >&2 || true
        echo "error: $name has not ended well, so what reads its database stays as it was: mend what its log says and install again" >&2
        exit 1
    }
done
kubectl apply --kustomize "$work"
deployments=(mlops-gateway)
! installs_mlflow || deployments+=(mlops-mlflow)
! installs_dagster || deployments+=(mlops-assets dagster-webserver dagster-daemon)
for name in "${deployments[@]}"; do
    kubectl --namespace "$namespace" rollout status "deployment/$name" --timeout "${TIMEOUT:-300s}"
done
