#!/usr/bin/env bash
# Compares what clients receive from a server with the module with what they receive from a plain one. See run.py --help.
# Without arguments: the step of scripts/test.sh. Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR.
#
#   run.sh                                    a fixed number of sequences
#   run.sh --seeds 10000 --first 1000         the long run
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
export DURABILITY_SO=${DURABILITY_SO:-$ROOT/target/release/libvalkey_durability.so}
export LOGSERVICE=${LOGSERVICE:-$ROOT/target/release/logservice}
export VALKEY_BIN_DIR=${VALKEY_BIN_DIR:-$("$ROOT/scripts/valkey.sh")}
export PYTHONDONTWRITEBYTECODE=1

for file in "$DURABILITY_SO" "$LOGSERVICE" "$VALKEY_BIN_DIR/valkey-server"; do
    [ -e "$file" ] || { echo "$file is missing" >&2; exit 1; }
done

exec python3 "$HERE/run.py" --module "$DURABILITY_SO" --logservice "$LOGSERVICE" "$@"
