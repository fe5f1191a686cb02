#!/usr/bin/env bash
# Compares what clients receive from a server with the module with what they receive from a plain one. See run.py --help.
# Without arguments: the step of scripts/test.sh. Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR.
#
#   run.sh                                    a fixed number of sequences
#   run.sh --seeds 10000 --first 1000         the long run
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

exec python3 "$HERE/run.py" --module "$DURABILITY_SO" --logservice "$LOGSERVICE" "$@"
