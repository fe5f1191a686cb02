#!/usr/bin/env bash
# Plays many rounds of faults, several at a time, and keeps what came of each in a table: RESULTS.md beside this script.
#
#   tests/failover/record.sh [--services 1] [--shards 1] [--sync 200] [--async 50] [--seconds 60] [--lanes 4] [--seed 1] [--base-port 29000] [--table FILE]
#
# With --services 3 three log services keep the log, and the table is RESULTS-SERVICES.md; with --shards 3 it is a cluster, and RESULTS-CLUSTER.md.
# Two cores take four lanes. What failed leaves its directory, which the output names. The last line is "N passed, N failed".
# Takes from the environment what run.sh takes.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(dirname "$(dirname "$HERE")")
services=1 shards=1 sync=200 async=50 seconds=60 lanes=4 seed=1 base_port=29000 table=
while [ $# -gt 0 ]; do
    case $1 in
    --services | --shards | --sync | --async | --seconds | --lanes | --seed) declare "${1#--}=${2:?$1 takes a number}"; shift 2 ;;
    --base-port) base_port=${2:?--base-port takes a number}; shift 2 ;;
    --table) table=${2:?--table takes a file}; shift 2 ;;
    *) sed -n '4p' "$0" | cut -c5- >&2; exit 1 ;;
    esac
done
if [ "$shards" -gt 1 ]; then
    table=${table:-$HERE/RESULTS-CLUSTER.md} subject="a cluster of $shards shards with two nodes each"
elif [ "$services" -gt 1 ]; then
    table=${table:-$HERE/RESULTS-SERVICES.md} subject="a shard of three nodes"
else
    table=${table:-$HERE/RESULTS.md} subject="a shard of three nodes"
fi
kept_by="$([ "$services" -eq 1 ] && echo "one log service" || echo "three log services")"

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
            "$HERE/run.sh" --mode "$mode" --seed "$current" --seconds "$seconds" --base-port $((base_port + 100 * number)) \
                --services "$services" --shards "$shards" --record "$work/rows" 2>&1 | grep -v ' passed, \| a round, ' || true
        done
    done
}
(cd "$ROOT" && cargo build --quiet --release --workspace --bin durability-failover)
headings=$("$HERE/run.sh" --services "$services" --shards "$shards" --headings)
# The first column after the faults, as awk counts them.
operations=$(head -n 1 <<<"$headings" | tr '|' '\n' | grep -n operations | cut -d: -f1)
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
--seed $seed --services $services --shards $shards\`: $subject and $kept_by, 20 clients or more, leases of 1000 ms, faults for $seconds s in each round, $lanes rounds at a
time on $(nproc) cores. What is judged, and how, is in docs/design/testing.md.

- sync: $(grep -c '^| sync .*| passed |$' "$work/rows" || true) of $sync passed: $(sum sync $operations) operations, $(sum sync $((operations + 1))) acknowledged writes of which $(sum sync $((operations + 5))) are missing,
  $(sum sync $((operations + 2))) takeovers, $(sum sync $((operations + 4))) histories, all of them linearizable where passed.
- async: $(grep -c '^| async .*| passed |$' "$work/rows" || true) of $async passed: $(sum async $operations) operations, $(sum async $((operations + 1))) acknowledged writes, $(sum async $((operations + 2))) takeovers; $(sum async $((operations + 5))) writes are
  missing, always the youngest of a leader, the oldest of them acknowledged $(most async $((operations + 6))) ms before the last.

Faults are counted; *gap* is the longest time without an acknowledged write in ms, of which most is meant to be (the log or all nodes
are down); *span* is from the oldest missing write to the last one that the same leader acknowledged, in ms.

TEXT
    if [ "$services" -gt 1 ]; then
        cat <<'TEXT'
All log services are killed in *log kill* and *blackout*. At the end of each round everything is stopped, the disks of two services are thrown
away, and what is judged is what the third one had (`tests/failover/src/lone_copy.rs`).

TEXT
    fi
    if [ "$shards" -gt 1 ]; then
        cat <<'TEXT'
A fault is that of a shard, but *blackout* and those of log services. Each lap of a history has a slot of its own. Each shard has a journal in the
beginning, which moves if its slot does; *gap* is the longest of any journal.

TEXT
    fi
    echo "$headings"
    sort -t'|' -k2,2r -k3,3n "$work/rows"
} >"$table"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
