#!/usr/bin/env bash
# Runs the core of the integration suite against servers that others have built: each version of servers.txt, which fetch.sh gets.
#
#   tests/versions/run.sh [--short] [VERSION...]      all versions unless some are named
# --short: two units each, as a step of scripts/test.sh. Units that need TLS are left out: these servers are built without.
# Takes from the environment what tests/run-suite.sh takes; VALKEY_BIN_DIR is where the clients come from.
# The last line is "N passed, N failed". Fails if a test failed, if none ran, or if a server cannot be had.
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"
export VALKEY_SOURCE=${VALKEY_SOURCE:-$("$ROOT/scripts/valkey.sh" --source)}

# The gate, the way of a write and of a read; a start from the log; what is known of the server's internals; nodes that take over.
units=(writes reads blocking scripts messages not_held watched_keys modes start versions
    attach restart loading following databases expiry deposed failover)
if [ "${1:-}" = --short ]; then
    units=(writes restart)
    shift
fi
for at in "${!units[@]}"; do
    [ -e "$ROOT/tests/suite/unit/${units[at]}.tcl" ] || { echo "there is no unit ${units[at]}" >&2; exit 1; }
done

versions=("$@")
[ $# -gt 0 ] || mapfile -t versions < <(awk '!/^#/ { print $1 }' "$HERE/servers.txt")

output=$(mktemp)
trap 'rm -f "$output"' EXIT
all_passed=0 all_failed=0
for version in "${versions[@]}"; do
    if ! directory=$("$HERE/fetch.sh" "$version"); then
        all_failed=$((all_failed + 1))
        continue
    fi
    "$directory/valkey-server" --version
    started=$SECONDS status=0
    configs=$(awk -v version="$version" '$1 == version { for (at = 5; at < NF; at += 2) printf "--config %s %s ", $at, $(at + 1) }' "$HERE/servers.txt")
    SUITE_ARGUMENTS=$configs VALKEY_BIN_DIR=$directory "$ROOT/tests/run-suite.sh" "${units[@]}" >"$output" 2>&1 || status=$?
    counts=$(tail -n 1 "$output" | sed -n 's/^\([0-9]\+\) passed, \([0-9]\+\) failed$/\1 \2/p')
    read -r passed failed <<<"${counts:-0 1}"
    [ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || failed=1
    # Only where something is to be found out.
    if [ "$failed" -gt 0 ]; then sed -e '$d' -e '/^\[ok\]: /d' "$output"; fi
    echo "Valkey $version: $passed passed, $failed failed, in $((SECONDS - started)) s"
    all_passed=$((all_passed + passed)) all_failed=$((all_failed + failed))
done
echo "$all_passed passed, $all_failed failed"
[ "$all_failed" -eq 0 ] && [ "$all_passed" -gt 0 ]
