#!/usr/bin/env bash
# Compares a leader with a node that has nothing but its stream, after generated sequences of commands. See run.py --help.
# Without arguments: the step of scripts/test.sh. Takes from the environment, as absolute paths: DURABILITY_SO, LOGSERVICE, VALKEY_BIN_DIR.
#
#   run.sh                                      what is known, and a fixed number of sequences, with and without the module
#   run.sh --self-check                         succeeds if changes that are kept out of the stream are found
#   run.sh --plain --sequences 100000           the long run: a plain leader
#   run.sh --sequences 100000 --rebuild-every 200   the same with the module; nodes are rebuilt from snapshots as well
set -euo pipefail

source "$(dirname "$0")/../binaries.sh"

oracle() { python3 "$HERE/run.py" "$@"; }
with_module=(--module "$DURABILITY_SO" --logservice "$LOGSERVICE")

case ${1:-} in
"")
    passed=0 failed=0
    for run in "--pinned" "${with_module[*]} --pinned" "--sequences 4000" "${with_module[*]} --sequences 1500 --rebuild-every 150" \
        "${with_module[*]} --first 2000 --sequences 250 --node-behind"; do
        # shellcheck disable=SC2086
        output=$(oracle --show 0 $run) || true
        sed '$d' <<<"$output" # what is summed up below is not counted twice
        counts=$(tail -n 1 <<<"$output" | sed -n 's/^\([0-9]\+\) passed, \([0-9]\+\) failed$/\1 \2/p')
        [ -n "$counts" ] || counts="0 1"
        passed=$((passed + ${counts% *})) failed=$((failed + ${counts#* }))
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    ;;
--self-check) oracle --self-check ;;
--plain) shift; oracle "$@" ;;
*) oracle "${with_module[@]}" "$@" ;;
esac
