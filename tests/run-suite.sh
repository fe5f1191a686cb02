#!/usr/bin/env bash
# Runs the module's tests on Valkey's own TCL framework: all units, or those that are named (held, modes, ...).
# Takes from the environment, all as absolute paths:
#   DURABILITY_SO   the module (default: target/release/libvalkey_durability.so)
#   LOGSERVICE      the log service (default: target/release/logservice)
#   VALKEY_BIN_DIR  directory of valkey-server and valkey-cli (default: what scripts/valkey.sh finds)
#   VALKEY_SOURCE   Valkey's source tree (default: what scripts/valkey.sh --source finds)
#   BASE_PORT       first port to use (default: 31000)
#   SUITE_ARGUMENTS further arguments for the framework, separated by blanks
#   KEEP            set: the working directory, with all logs, stays
# The last line is "N passed, N failed". Fails if a test failed, or if none ran.
set -euo pipefail

TESTS=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$TESTS")
export DURABILITY_SO=${DURABILITY_SO:-$ROOT/target/release/libvalkey_durability.so}
export LOGSERVICE=${LOGSERVICE:-$ROOT/target/release/logservice}
export VALKEY_BIN_DIR=${VALKEY_BIN_DIR:-$("$ROOT/scripts/valkey.sh")}
export VALKEY_SOURCE=${VALKEY_SOURCE:-$("$ROOT/scripts/valkey.sh" --source)}
export SUITE_SUPPORT=$TESTS/suite/support

for file in "$DURABILITY_SO" "$LOGSERVICE" "$VALKEY_BIN_DIR/valkey-server" "$VALKEY_SOURCE/tests/test_helper.tcl"; do
    [ -e "$file" ] || { echo "$file is missing" >&2; exit 1; }
done
for program in tclsh openssl python3 gcc; do
    command -v "$program" >/dev/null || { echo "$program is missing: apt-get install tcl openssl python3 gcc libc6-dev" >&2; exit 1; }
done

# Short, because the paths of unix sockets are short.
WORK=$(mktemp -d /tmp/suite.XXXXXX)
runner=
cleanup() {
    # Everything the framework starts is in its process group.
    if [ -n "$runner" ]; then
        kill -KILL -- "-$runner" 2>/dev/null || true
        wait "$runner" 2>/dev/null || true
    fi
    if [ -n "${KEEP:-}" ]; then echo "kept: $WORK" >&2; else rm -rf "$WORK"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM

mkdir -p "$WORK/tests/tmp" "$WORK/tests/unit"
: >"$WORK/output"
for name in support helpers assets test_helper.tcl; do
    ln -s "$VALKEY_SOURCE/tests/$name" "$WORK/tests/$name"
done
# Links to the files, not to the directory: the framework would resolve that, and look for the units elsewhere.
ln -s "$TESTS"/suite/unit/*.tcl "$WORK/tests/unit/"

units=()
for unit in "$@"; do
    [ -e "$TESTS/suite/unit/$unit.tcl" ] || { echo "there is no unit $unit" >&2; exit 1; }
    units+=(--single "unit/$unit")
done

# Job control gives the framework a process group of its own.
export TERM=dumb
read -ra further <<<"${SUITE_ARGUMENTS:-}"
set -m
(cd "$WORK" && exec tclsh tests/test_helper.tcl --clients 2 --durable --skip-leaks --dont-clean --timeout 120 \
    --baseport "${BASE_PORT:-31000}" --portcount 1000 "${further[@]}" "${units[@]}") >"$WORK/output" 2>&1 </dev/null &
runner=$!
set +m
tail --pid="$runner" --lines=+1 --follow --sleep-interval=0.2 "$WORK/output" &
shower=$!
status=0
wait "$runner" || status=$?
wait "$shower" || true

# Without colours (see TERM) the words stand alone.
passed=$(grep -c '^\[ok\]: ' "$WORK/output" || true)
failed=$(grep -cE '^\[(err|exception|TIMEOUT)\]: ' "$WORK/output" || true)
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
