#!/usr/bin/env bash
# Measures what clients see of durability: latencies on one connection and beside plain Valkey, early replies, what an
# outage of the log costs in memory, and when writes are refused and accepted again in async mode. Builds what is missing.
# Each figure says whether it meets its target.
#
#   scripts/latency.sh [multiplexed] [early] [reads] [bounds] [limit] [snapshot] [--seconds N] [--rounds N] [--max-lag-ms N]
#                      [--log-dir DIR]
#
# Without a name it measures everything. Fails if a target is missed. The log is kept in memory if the machine has
# /dev/shm, so that it acknowledges when it is told to, and the disk is left out; --log-dir puts it elsewhere.
source "$(dirname "$0")/lib.sh"

need_build_packages
VALKEY_BIN_DIR=${VALKEY_BIN_DIR:-$("$ROOT/scripts/valkey.sh")}
(cd "$ROOT" && cargo build --quiet --release --workspace)
target=${CARGO_TARGET_DIR:-$ROOT/target}
export VALKEY_BIN_DIR
export DURABILITY_SO=${DURABILITY_SO:-$target/release/libvalkey_durability.so}
export LOGSERVICE=${LOGSERVICE:-$target/release/logservice}
mkdir -p "$target/latency"
directories=(--dir "$target/latency")
if [ -w /dev/shm ]; then directories+=(--log-dir /dev/shm); fi
# Those among the arguments come later, and count.
exec "$target/release/durability-latency" "${directories[@]}" "$@"
