#!/usr/bin/env bash
# Plays many rounds of faults, several at a time, and keeps what came of each in a table: RESULTS.md beside this script.
#
#   tests/failover/record.sh [--sync 200] [--async 50] [--seconds 60] [--lanes 4] [--seed 1] [--table FILE]
#
# Two cores take four lanes. What failed leaves its directory, which the output names. The last line is "N passed, N failed".
# Takes from the environment what run.sh takes.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
sync=200 async=50 seconds=60 lanes=4 seed=1 table=$HERE/RESULTS.md
while [ $# -gt 0 ]; do
    case $1 in
    --sync | --async | --seconds | --lanes | --seed) declare "${1#--}=${2:?$1 takes a number}"; shift 2 ;;
    --table) table=${2:?--table takes a file}; shift 2 ;;
    *) sed -n '4p' "$0" | cut -c5- >&2; exit 1 ;;
    esac
done

work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
touch "$work/rows"

# Each lane plays its share one by one, on ports of its own.
lane() { # lane NUMBER
    local number=$1 round=0 mode
    for mode in sync async; do
        for current in $(seq "$seed" $((seed + ${!mode} - 1))); do
            round=$((round + 1))
            [ $((round % lanes)) -eq "$number" ] || continue
            "$HERE/run.sh" --mode "$mode" --seed "$current" --seconds "$seconds" --base-port $((29000 + 100 * number)) \
                --record "$work/rows" 2>&1 | grep -v ' passed, \| a round, ' || true
        done
    done
}
(cd "$ROOT" && cargo build --quiet --release --package durability-failover)
for number in $(seq 0 $((lanes - 1))); do lane "$number" & done
wait

sum() { # sum MODE COLUMN
    awk -F'|' -v mode=" $1 " -v column="$2" '$2 == mode { sum += $column } END { print sum + 0 }' "$work/rows"
}
most() { # most MODE COLUMN
    awk -F'|' -v mode=" $1 " -v column="$2" '$2 == mode && $column > most { most = $column } END { print most + 0 }' "$work/rows"
}
passed=$(grep -c '| passed |$' "$work/rows" || true)
failed=$((sync + async - passed))
{
    cat <<TEXT
# Faults for real: the run of record

$(date -u +%Y-%m-%d), commit $(git -C "$ROOT" rev-parse --short HEAD), \`tests/failover/record.sh --sync $sync --async $async --seconds $seconds --lanes $lanes
--seed $seed\`: a shard of three nodes and its log service, 20 clients, leases of 1000 ms, faults for $seconds s in each round, $lanes rounds at a
time on $(nproc) cores. What is judged, and how, is in docs/design/testing.md.

- sync: $(grep -c '^| sync .*| passed |$' "$work/rows" || true) of $sync passed: $(sum sync 17) operations, $(sum sync 18) acknowledged writes of which $(sum sync 22) are missing,
  $(sum sync 19) takeovers, $(sum sync 21) histories, all of them linearizable where passed.
- async: $(grep -c '^| async .*| passed |$' "$work/rows" || true) of $async passed: $(sum async 17) operations, $(sum async 18) acknowledged writes, $(sum async 19) takeovers; $(sum async 22) writes are
  missing, always the youngest of a leader, the oldest of them acknowledged $(most async 23) ms before the last.

Faults are counted; *gap* is the longest time without an acknowledged write in ms, of which most is meant to be (the log or all nodes
are down); *span* is from the oldest missing write to the last one that the same leader acknowledged, in ms.

TEXT
    cat <<'TEXT'
| mode | seed | kill | stop | log cut | log stall | log slow | client cut | client stall | client slow | log kill | handover | kill all | blackout | old RDB | operations | writes | takeovers | gap | histories | missing | span | |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
TEXT
    sort -t'|' -k2,2r -k3,3n "$work/rows"
} >"$table"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
