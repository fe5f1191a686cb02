#!/usr/bin/env bash
# Measures what durability costs: plain Valkey, `appendfsync always`, async and sync, side by side on this machine, with
# the log on the same disk. Prints medians of interleaved runs and their ratios to plain Valkey.
#
#   scripts/bench.sh [--runs 3] [--dir DIR]
source "$(dirname "$0")/lib.sh"

runs=3 dir=''
while [ $# -gt 0 ]; do
    case $1 in
    --runs) runs=${2:?--runs takes a number}; shift 2 ;;
    --dir) dir=${2:?--dir takes a directory}; shift 2 ;;
    *) die "usage: scripts/bench.sh [--runs 3] [--dir DIR]" ;;
    esac
done

need_build_packages
valkey=$("$ROOT/scripts/valkey.sh")
(cd "$ROOT" && cargo build --quiet --release)
# The disk matters: not /tmp, which may be memory.
if [ -z "$dir" ]; then dir=$ROOT/target/bench; fi
rm -rf "$dir"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

pids=()
stop() {
    if [ ${#pids[@]} -gt 0 ]; then kill "${pids[@]}" 2>/dev/null || true; fi
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT

declare -A port=([plain]=27001 [aof]=27002 [async]=27003 [sync]=27004)
systems=(plain aof async sync)

"$ROOT/target/release/logservice" --dir "$dir/log" --listen 127.0.0.1:27010 --http 127.0.0.1:27011 >"$dir/log.out" 2>&1 &
pids+=($!)
start() { # start NAME ARGUMENT...
    local name=$1
    shift
    mkdir -p "$dir/$name"
    "$valkey/valkey-server" --port "${port[$name]}" --dir "$dir/$name" --save '' --logfile "$dir/$name/out" "$@" &
    pids+=($!)
    for _ in $(seq 100); do
        if "$valkey/valkey-cli" -p "${port[$name]}" PING 2>/dev/null | grep -qx PONG; then return; fi
        sleep 0.1
    done
    tail -n 5 "$dir/$name/out" >&2
    die "$name did not start"
}
module=$ROOT/target/release/libvalkey_durability.so
start plain
start aof --appendonly yes --appendfsync always
start async --loadmodule "$module" log 127.0.0.1:27010 shard async mode async
start sync --loadmodule "$module" log 127.0.0.1:27010 shard sync mode sync

median() { sort -n "$1" | sed -n "$(((runs + 1) / 2))p"; }

# The requests per second of one valkey-benchmark run.
set_rate() { "$valkey/valkey-benchmark" -p "$1" -t set -d 100 -r 100000 --csv "${@:2}" 2>/dev/null | tail -n 1 | cut -d'"' -f4; }

# GETs per second by 50 clients, beside 8 clients that SET all the while.
get_rate_beside_sets() {
    "$valkey/valkey-benchmark" -p "$1" -t set -d 100 -r 100000 -c 8 -n 100000000 >/dev/null 2>&1 &
    local writer=$!
    "$valkey/valkey-benchmark" -p "$1" -t get -d 100 -r 100000 -c 50 -n 150000 --csv 2>/dev/null | tail -n 1 | cut -d'"' -f4
    kill $writer
    wait $writer 2>/dev/null || true
}

# What a run leaves behind (dirty pages, a segment that is being prepared) is not the next one's to pay.
settle() {
    sync -f "$dir"
    sleep 2
}

compare() { # compare TITLE FUNCTION ARGUMENT...
    local title=$1 measure=$2 system run plain rate
    shift 2
    for system in "${systems[@]}"; do : >"$dir/rates.$system"; done
    for run in $(seq "$runs"); do
        for system in "${systems[@]}"; do
            settle
            "$measure" "${port[$system]}" "$@" >>"$dir/rates.$system"
        done
    done
    plain=$(median "$dir/rates.plain")
    printf '%-34s' "$title"
    for system in "${systems[@]}"; do
        rate=$(median "$dir/rates.$system")
        printf ' %11.0f (%4.2f)' "$rate" "$(awk "BEGIN { print $rate / $plain }")"
    done
    echo
}

for system in "${systems[@]}"; do set_rate "${port[$system]}" -c 50 -n 100000 >/dev/null; done
printf '%-34s' "requests/s, medians of $runs"
printf ' %18s' plain 'aof fsync always' async sync
echo
compare 'SET, 400 clients' set_rate -c 400 -n 200000
compare 'SET, 50 clients, pipelines of 16' set_rate -c 50 -P 16 -n 800000
compare 'SET, 50 clients' set_rate -c 50 -n 150000
compare 'GET, 50 clients beside 8 SETting' get_rate_beside_sets
