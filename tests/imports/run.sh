#!/usr/bin/env bash
# Snapshots, restores and checks of a log to which slots came from another shard: the stream is that of a plain Valkey cluster. See
# imports_test.py; arguments name tests.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR, CARGO_TARGET_DIR.
# The last line is "N passed, N failed".
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

python_packages valkey==6.1.1 valkey==6.1.1

exec python3 "$HERE/imports_test.py" "$@"
