#!/usr/bin/env bash
# A Valkey cluster of three shards with two or three nodes each, whose leaders the log decides, and clients of a cluster, unmodified, that write all the
# time while nodes die. See cluster_test.py and what it imports; arguments name tests.
# With --services 3 as the first argument three log services keep the logs. With --tls yes bus and log are reached by TLS. With --rounds N, each way in which nodes die is taken N times,
# instead of once.
# With --clients durable, clients of several libraries write instead, see clients_test.py. Installing them takes the network, the first time. With
# --clients plain they do so in a plain cluster, which is what the other one is measured by: what they report there depends on how busy the machine is.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, LOGSERVICE_FAILPOINTS, VALKEY_BIN_DIR, CARGO_TARGET_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

while [[ ${1:-} = --* ]]; do
    case $1 in
    --services) export CLUSTER_SERVICES=${2:?--services takes 1 or 3} ;;
    --tls) export CLUSTER_TLS=${2:?--tls takes yes} ;;
    --rounds) export CLUSTER_ROUNDS=${2:?--rounds takes a number} ;;
    --clients) export CLUSTER_CLIENTS=${2:?--clients takes durable or plain} ;;
    *) echo "no such option: $1" >&2; exit 1 ;;
    esac
    shift 2
done

# For the module that tests load.
export VALKEY_SOURCE=${VALKEY_SOURCE:-$("$ROOT/scripts/valkey.sh" --source)}
export LOGSERVICE_FAILPOINTS=${LOGSERVICE_FAILPOINTS:-$TARGET/release/logservice-failpoints}
need "$LOGSERVICE_FAILPOINTS"
python_packages valkey==6.1.1 valkey==6.1.1

if [ -n "${CLUSTER_CLIENTS:-}" ]; then
    node_package IOREDIS_MODULES ioredis@6.0.0
    node_package GLIDE_MODULES @valkey/valkey-glide@2.5.2
    (cd "$ROOT" && cargo build --quiet --release --workspace --bin durability-cluster-client)
    export REDIS_CRATE_CLIENT=$TARGET/release/durability-cluster-client
    exec python3 "$HERE/clients_test.py" "$@"
fi
exec python3 "$HERE/cluster_test.py" "$@"
