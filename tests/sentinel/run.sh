#!/usr/bin/env bash
# Clients, unmodified, find the leader of a shard by the log service's Sentinel protocol, and go on when another node leads. See
# sentinel_test.py; arguments name tests.
# With --services 3 as the first argument three log services keep the log, and all of them are Sentinels.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR, CARGO_TARGET_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

if [ "${1:-}" = --services ]; then
    export SENTINEL_SERVICES=${2:?--services takes 1 or 3}
    shift 2
fi

python_packages valkey==6.1.1 valkey==6.1.1
node_package IOREDIS_MODULES ioredis@6.0.0

(cd "$ROOT" && cargo build --quiet --release --workspace --bin durability-sentinel-client)
export REDIS_CRATE_CLIENT=$TARGET/release/durability-sentinel-client

exec python3 "$HERE/sentinel_test.py" "$@"
