#!/usr/bin/env bash
# Three log services keep a shard's log, and services, nodes and whole zones die. See zones_test.py; arguments name tests.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR, CARGO_TARGET_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

python_packages valkey==6.1.1 valkey==6.1.1

exec python3 "$HERE/zones_test.py" "$@"
