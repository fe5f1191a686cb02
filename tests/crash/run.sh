#!/usr/bin/env bash
# Kills the server and the log service under load and checks that nothing is lost that may not be. See crash_test.py --help.
# Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR; with --failpoints,
# LOGSERVICE_FAILPOINTS: cargo build --release --workspace --features logservice/failpoints --bin logservice-failpoints.
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"
export LOGSERVICE_FAILPOINTS=${LOGSERVICE_FAILPOINTS:-$TARGET/release/logservice-failpoints}
for argument in "$@"; do [ "$argument" != --failpoints ] || need "$LOGSERVICE_FAILPOINTS"; done

python_packages valkey==6.1.1 valkey==6.1.1
exec python3 "$HERE/crash_test.py" "$@"
