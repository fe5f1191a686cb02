#!/usr/bin/env bash
# Runs Valkey's own test suite with the module loaded into every server that it starts.
#
#   scripts/valkey-suite.sh [--mode sync|async|none] [--cluster] [--failover] [unit...]     --help tells more
source "$(dirname "$0")/lib.sh"

need_build_packages
need_packages tcl openssl procps
command -v python3 >/dev/null || need_packages python3
cd "$ROOT"
VALKEY_BIN_DIR=$(scripts/valkey.sh)
VALKEY_SOURCE=$(scripts/valkey.sh --source)
export VALKEY_BIN_DIR VALKEY_SOURCE
export DURABILITY_SO=${DURABILITY_SO:-$ROOT/target/release/libvalkey_durability.so}
export LOGSERVICE=${LOGSERVICE:-$ROOT/target/release/logservice}
[ -n "${SKIP_BUILD:-}" ] || cargo build --quiet --release
export PYTHONPATH=$ROOT/tests/python PYTHONDONTWRITEBYTECODE=1
exec python3 tests/valkey_suite/run.py "$@"
