#!/usr/bin/env bash
# A crowd of strangers at the log service's ports, and what a node and its clients notice of it. See --help of strangers_test.py.
#
#   tests/strangers/run.sh [--strangers 5000] [--seconds 60] [--tls] [--restarts 5]
#
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR.
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

exec python3 "$HERE/strangers_test.py" "$@"
