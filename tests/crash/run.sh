#!/usr/bin/env bash
# Kills the server and the log service under load and checks that nothing is lost that may not be. See crash_test.py --help.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR; with --failpoints,
# LOGSERVICE_FAILPOINTS: cargo build --release --workspace --features logservice/failpoints --bin logservice-failpoints.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
export DURABILITY_SO=${DURABILITY_SO:-$ROOT/target/release/libvalkey_durability.so}
export LOGSERVICE=${LOGSERVICE:-$ROOT/target/release/logservice}
export LOGSERVICE_FAILPOINTS=${LOGSERVICE_FAILPOINTS:-$ROOT/target/release/logservice-failpoints}
export VALKEY_BIN_DIR=${VALKEY_BIN_DIR:-$("$ROOT/scripts/valkey.sh")}

needed=$LOGSERVICE
for argument in "$@"; do [ "$argument" != --failpoints ] || needed=$LOGSERVICE_FAILPOINTS; done
for file in "$DURABILITY_SO" "$needed" "$VALKEY_BIN_DIR/valkey-server"; do
    [ -e "$file" ] || { echo "$file is missing" >&2; exit 1; }
done

# The client library, fetched once.
REQUIREMENT=valkey==6.1.1
LIBRARY=${XDG_CACHE_HOME:-$HOME/.cache}/valkey-durability/python/$REQUIREMENT
if [ ! -d "$LIBRARY" ]; then
    mkdir -p "$(dirname "$LIBRARY")"
    fresh=$(mktemp -d "$LIBRARY.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$fresh" "$REQUIREMENT"
    mv -T "$fresh" "$LIBRARY" 2>/dev/null || rm -rf "$fresh" # another run was faster
fi

PYTHONPATH=$LIBRARY PYTHONDONTWRITEBYTECODE=1 exec python3 "$HERE/crash_test.py" "$@"
