#!/usr/bin/env bash
# Clients, unmodified, find the leader of a shard by the log service's Sentinel protocol, and go on when another node leads. See
# sentinel_test.py; arguments name tests.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR, CARGO_TARGET_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
export DURABILITY_SO=${DURABILITY_SO:-$TARGET/release/libvalkey_durability.so}
export LOGSERVICE=${LOGSERVICE:-$TARGET/release/logservice}
export VALKEY_BIN_DIR=${VALKEY_BIN_DIR:-$("$ROOT/scripts/valkey.sh")}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/valkey-durability

for file in "$DURABILITY_SO" "$LOGSERVICE" "$VALKEY_BIN_DIR/valkey-server"; do
    [ -e "$file" ] || { echo "$file is missing" >&2; exit 1; }
done

# The client libraries, each fetched once.
fetch() { # fetch DIRECTORY COMMAND...: the command is told a directory to fill, which becomes that one
    local directory=$1 fresh
    shift
    [ -d "$directory" ] && return
    mkdir -p "$(dirname "$directory")"
    fresh=$(mktemp -d "$directory.XXXXXX")
    "$@" "$fresh" || { rm -rf "$fresh"; return 1; }
    mv -T "$fresh" "$directory" 2>/dev/null || rm -rf "$fresh" # another run was faster
}

VALKEY_PY=valkey==6.1.1
install_python() {
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$1" "$VALKEY_PY"
}
fetch "$CACHE/python/$VALKEY_PY" install_python

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

(cd "$ROOT" && cargo build --quiet --release --package durability-sentinel-client)
export REDIS_CRATE_CLIENT=$TARGET/release/durability-sentinel-client

PYTHONPATH=$CACHE/python/$VALKEY_PY PYTHONDONTWRITEBYTECODE=1 exec python3 "$HERE/sentinel_test.py" "$@"
