#!/usr/bin/env bash
# Measures recovery and growth of the log, against targets; fails if one is missed.
#
#   scripts/recovery.sh [restart] [growth] [--runs 3] [--dir DIR]
#
# restart   a node that starts with 1 GB of data, beside plain Valkey that loads the same RDB from its own disk
# growth    the disk that the log takes while 5 GB are written over the same keys, with snapshots as they come
#
# DURABILITY_SO and LOGSERVICE name other binaries, SKIP_BUILD=1 builds none, BASE_PORT (27100) moves the ports.
source "$(dirname "$0")/lib.sh"

figures=() runs=3 dir=''
while [ $# -gt 0 ]; do
    case $1 in
    restart | growth) figures+=("$1"); shift ;;
    --runs) runs=${2:?--runs takes a number}; shift 2 ;;
    --dir) dir=${2:?--dir takes a directory}; shift 2 ;;
    *) die "usage: scripts/recovery.sh [restart] [growth] [--runs 3] [--dir DIR]" ;;
    esac
done
if [ ${#figures[@]} -eq 0 ]; then figures=(restart growth); fi

need_build_packages
valkey=$("$ROOT/scripts/valkey.sh")
[ -n "${SKIP_BUILD:-}" ] || (cd "$ROOT" && cargo build --quiet --release)
module=${DURABILITY_SO:-$ROOT/target/release/libvalkey_durability.so}
logservice=${LOGSERVICE:-$ROOT/target/release/logservice}
if [ -z "$dir" ]; then dir=$ROOT/target/recovery; fi
rm -rf "$dir"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
base=${BASE_PORT:-27100}
node_port=$((base + 1)) plain_port=$((base + 2)) log_port=$((base + 10))

node_pid='' plain_pid='' log_pid=''
end_process() { # end_process PID
    if [ -n "$1" ]; then
        kill -9 "$1" 2>/dev/null || true
        wait "$1" 2>/dev/null || true
    fi
}
stop() {
    end_process "$node_pid"
    end_process "$plain_pid"
    end_process "$log_pid"
    node_pid='' plain_pid='' log_pid=''
}
trap 'stop; rm -rf "$dir"' EXIT

cli() { "$valkey/valkey-cli" -p "$@"; } # cli PORT COMMAND...
status() { cli "$log_port" LOG.STATUS main | paste - - | awk -v name="$1" '$1 == name { print $2 }'; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
median() { sort -n | sed -n "$(((runs + 1) / 2))p"; }

wait_for() { # wait_for WHAT TENTHS-OF-SECONDS COMMAND...
    local what=$1 tenths=$2
    shift 2
    for _ in $(seq "$tenths"); do
        if "$@"; then return; fi
        sleep 0.1
    done
    die "$what took more than $((tenths / 10)) s"
}

start_log() { # start_log ARGUMENT...
    "$logservice" --dir "$dir/log" --listen "127.0.0.1:$log_port" --http "127.0.0.1:$((log_port + 1))" \
        --valkey-server "$valkey/valkey-server" "$@" >>"$dir/log.out" 2>&1 &
    log_pid=$!
}
start_node() { # start_node MODE
    mkdir -p "$dir/node"
    "$valkey/valkey-server" --port "$node_port" --dir "$dir/node" --save '' --loadmodule "$module" \
        log "127.0.0.1:$log_port" shard main mode "$1" >>"$dir/node.out" 2>&1 &
    node_pid=$!
}
start_plain() {
    "$valkey/valkey-server" --port "$plain_port" --dir "$dir/plain" --save '' >>"$dir/plain.out" 2>&1 &
    plain_pid=$!
}
answers() { [ "$(cli "$1" EXISTS key:000000000 2>/dev/null)" = 1 ]; }
is_up() { cli "$1" PING 2>/dev/null | grep -qx PONG; }
has_all() { [ "$(cli "$node_port" DURABILITY.LAG)" = 0 ]; }

# write_keys FIRST COUNT BYTES: SETs of values that do not compress to nothing, as fast as they are taken.
write_keys() {
    python3 - "$@" <<'PYTHON' | cli "$node_port" --pipe | grep -q 'errors: 0' || die "writes failed"
import os
import random
import sys

first, count, size = map(int, sys.argv[1:])
pool = os.urandom(1 << 22).translate(bytes(48 + byte % 64 for byte in range(256)))
for start in range(first, first + count, 2000):
    batch = bytearray()
    for key in range(start, min(start + 2000, first + count)):
        at = random.randrange(len(pool) - size)
        batch += b"*3\r\n$3\r\nSET\r\n$13\r\nkey:%09d\r\n$%d\r\n%s\r\n" % (key, size, pool[at:at + size])
    sys.stdout.buffer.write(batch)
PYTHON
}

missed=0
at_most() { # at_most NAME VALUE TARGET
    local verdict=ok
    if ! awk "BEGIN { exit !($2 <= $3) }"; then verdict=MISSED missed=$((missed + 1)); fi
    printf '  %-58s %10s  target <= %-5s %s\n' "$1" "$2" "$3" "$verdict"
}
ratio() { awk "BEGIN { printf \"%.2f\", $1 / $2 }"; }
gb() { awk "BEGIN { printf \"%.2f GB\", $1 / 1e9 }"; }

time_until_it_answers() { # time_until_it_answers PORT START-COMMAND...
    local port=$1 started
    shift
    started=$(now_ms)
    "$@"
    for _ in $(seq 6000); do
        if answers "$port"; then break; fi
        sleep 0.02
    done
    echo $(($(now_ms) - started)) >>"$dir/times.$port"
}

measure_restart() {
    echo "A node restarts with 1 GB of data"
    start_log --snapshot-log-mb 0
    start_node async
    wait_for "starting" 100 is_up "$node_port"
    write_keys 0 2300000 400
    wait_for "shipping" 600 has_all
    cli "$log_port" LOG.SNAPSHOT main >/dev/null
    mkdir -p "$dir/plain"
    cp "$dir"/log/snapshots/*/*.rdb "$dir/plain/dump.rdb"
    for _ in $(seq "$runs"); do
        end_process "$node_pid"
        time_until_it_answers "$plain_port" start_plain
        end_process "$plain_pid"
        plain_pid=''
        time_until_it_answers "$node_port" start_node sync
    done
    printf '  %-58s %10s\n' "RDB" "$(gb "$(stat -c %s "$dir/plain/dump.rdb")")"
    local plain node
    plain=$(median <"$dir/times.$plain_port") node=$(median <"$dir/times.$node_port")
    printf '  %-58s %10s ms (%s)\n' "plain Valkey loads it from its disk" "$plain" "$(paste -sd' ' "$dir/times.$plain_port")"
    printf '  %-58s %10s ms (%s)\n' "the node has it from the log and leads" "$node" "$(paste -sd' ' "$dir/times.$node_port")"
    at_most "ratio" "$(ratio "$node" "$plain")" 1.3
    stop
    rm -rf "$dir/log" "$dir/node" "$dir/plain"
}

# What a day brings, in minutes: 5 GB at 10 MB/s, over and over the same keys.
measure_growth() {
    echo "5 GB are written over 8 million keys, 100 B each, with snapshots as they come"
    start_log
    start_node async
    wait_for "starting" 100 is_up "$node_port"
    "$valkey/valkey-benchmark" -p "$node_port" -t set -d 100 -r 8000000 -c 20 -P 16 --rps 70000 -n 100000000 \
        >/dev/null 2>&1 &
    local writer=$! used most=0 data
    until [ "$(status end)" -gt 5000000000 ]; do
        used=$(du -sB1 "$dir/log" | cut -f1)
        if [ "$used" -gt "$most" ]; then most=$used; fi
        sleep 1
        kill -0 $writer || die "the load ended early"
    done
    end_process $writer
    wait_for "shipping" 600 has_all
    data=$(cli "$node_port" INFO memory | tr -d '\r' | sed -n 's/^used_memory_dataset://p')
    printf '  %-58s %10s\n' "written to the log" "$(gb "$(status end)")" "data set in memory" "$(gb "$data")" \
        "newest snapshot" "$(gb "$(status snapshot_bytes)")" "most disk in use, log and snapshots" "$(gb "$most")"
    printf '  %-58s %10s\n' "snapshots made" "$(grep -c 'made and rehearsed' "$dir/log.out")"
    sed -n 's/.* snapshot at offset \([0-9]*\), \([0-9]*\) bytes, made and rehearsed in \(.*\)/    at \1, \2 bytes: \3/p' "$dir/log.out"
    at_most "most disk in use, to the data set" "$(ratio "$most" "$data")" 3
    stop
}

for figure in "${figures[@]}"; do "measure_$figure"; done
[ "$missed" -eq 0 ] || die "targets missed: $missed"
