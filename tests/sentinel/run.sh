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

IOREDIS=ioredis@6.0.0
install_node() { npm install --loglevel error --no-audit --no-fund --prefix "$1" "$IOREDIS" >&2; }
# In a shell of its own, as what cannot be installed ends it.
has_node() {
    { command -v node && command -v npm; } >/dev/null || (source "$ROOT/scripts/lib.sh" && need_packages nodejs npm)
}
if has_node; then
    fetch "$CACHE/node/$IOREDIS" install_node
    export IOREDIS_MODULES=$CACHE/node/$IOREDIS/node_modules
else
    echo "SKIPPED: ioredis, as node and npm are not installed and cannot be"
fi

(cd "$ROOT" && cargo build --quiet --release --workspace --bin durability-sentinel-client)
export REDIS_CRATE_CLIENT=$TARGET/release/durability-sentinel-client

exec python3 "$HERE/sentinel_test.py" "$@"
