#!/usr/bin/env bash
# Three log services keep a shard's log, and services, nodes and whole zones die. See zones_test.py; arguments name tests. With --replace as
# the first one, services are replaced: see replacement_test.py. REPLACEMENTS says how many one after the other, 2 if it is not set.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR, CARGO_TARGET_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

python_packages valkey==6.1.1 valkey==6.1.1

tests=zones_test.py
if [ "${1:-}" = --replace ]; then
    tests=replacement_test.py
    shift
fi
exec python3 "$HERE/$tests" "$@"
