#!/usr/bin/env bash
# Measures what durability costs: plain Valkey, `appendfsync always`, async, sync, and sync with a lease that expires (failover
# yes), side by side on this machine, with the log on the same disk. Prints medians of interleaved runs and their ratios to plain Valkey.
#
#   scripts/bench.sh [--async|--log|--zones|--cluster] [--runs 3] [--dir DIR]
#   scripts/bench.sh --report [--short] [--keys N] [--runs 3] [--seconds 2] [--out DIR] [--dir DIR]
#
# --report compares all of these, a replica, AOF and three log services, at fixed rates and without, and writes a report with pictures
# into docs/bench/: see docs/bench/README.md.
#
# --async compares only async mode, and with what it replaces: plain Valkey with one ordinary replica. Throughput and
# latencies are held against targets; fails if one is missed.
#
# --log measures the log's storage alone, without any server: appends against plain synchronous writing in the same directory,
# and reading back, and both encrypted, against targets; fails if one is missed.
#
# --zones compares a single log service with three of them on this machine, in sync mode: throughput, the latency of one SET at a time,
# and the processor time of each service for each SET. Fails if a target is missed.
#
# --cluster compares a shard in cluster mode, which has all slots, with one outside it: plain, and in sync mode with a lease. Throughput, latency
# and the processor time of the server for each SET. Fails if sync mode misses a target.
#
# DURABILITY_SO and LOGSERVICE name other binaries, SKIP_BUILD=1 builds none, BASE_PORT (27000) moves the ports.
source "$(dirname "$0")/lib.sh"

if [ "${1:-}" = --report ]; then
    shift
    need_build_packages
    [ -n "${SKIP_BUILD:-}" ] || (cd "$ROOT" && cargo build --release --workspace)
    exec "$ROOT/tests/bench/run.sh" "$@"
fi

runs=3 dir='' only=''
while [ $# -gt 0 ]; do
    case $1 in
    --async) only=async; shift ;;
    --log) only=log; shift ;;
    --zones) only=zones; shift ;;
    --cluster) only=cluster; shift ;;
    --runs) runs=${2:?--runs takes a number}; shift 2 ;;
    --dir) dir=${2:?--dir takes a directory}; shift 2 ;;
    *) die "usage: scripts/bench.sh [--async|--log|--zones|--cluster] [--runs 3] [--dir DIR], or --report --help" ;;
    esac
done

need_build_packages
if [ "$only" = log ]; then
    if [ -z "$dir" ]; then dir=$ROOT/target/bench-log; fi
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [ -n "${SKIP_BUILD:-}" ] || (cd "$ROOT" && cargo build --quiet --release --workspace --example store_bench)
    exec "${CARGO_TARGET_DIR:-$ROOT/target}/release/examples/store_bench" "$dir" "$runs"
fi
valkey=$("$ROOT/scripts/valkey.sh")
[ -n "${SKIP_BUILD:-}" ] || (cd "$ROOT" && cargo build --quiet --release)
module=${DURABILITY_SO:-$ROOT/target/release/libvalkey_durability.so}
logservice=${LOGSERVICE:-$ROOT/target/release/logservice}
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

base=${BASE_PORT:-27000}
log=127.0.0.1:$((base + 10))
declare -A port=([plain]=$((base + 1)) [aof]=$((base + 2)) [async]=$((base + 3)) [sync]=$((base + 4))
    [plain-cluster]=$((base + 12)) [lease-cluster]=$((base + 13))
    [primary]=$((base + 5)) [replica]=$((base + 6)) [lease]=$((base + 7)) [one]=$((base + 8)) [three]=$((base + 9)))

"$logservice" --dir "$dir/log" --listen "$log" --http "127.0.0.1:$((base + 11))" \
    --valkey-server "$valkey/valkey-server" >"$dir/log.out" 2>&1 &
pids+=($!)
single_pid=$!
declare -A server_pid
start() { # start NAME ARGUMENT...
    local name=$1
    shift
    mkdir -p "$dir/$name"
    "$valkey/valkey-server" --port "${port[$name]}" --dir "$dir/$name" --save '' --logfile "$dir/$name/out" "$@" &
    pids+=($!)
    server_pid[$name]=$!
    for _ in $(seq 100); do
        if cli "$name" PING 2>/dev/null | grep -qx PONG; then return; fi
        sleep 0.1
    done
    tail -n 5 "$dir/$name/out" >&2
    die "$name did not start"
}
cli() { "$valkey/valkey-cli" -p "${port[$1]}" "${@:2}"; }       # cli NAME COMMAND...
info() { cli "$1" INFO "$2" | tr -d '\r' | sed -n "s/^$3://p"; } # info NAME SECTION FIELD

# What valkey-benchmark says of one kind of request, as a line of CSV.
benchmark() { "$valkey/valkey-benchmark" -p "${port[$1]}" -d 100 -r 100000 --csv "${@:2}" 2>/dev/null | tail -n 1; }
median() { sort -n | sed -n "$(((runs + 1) / 2))p"; }
ratio() { awk "BEGIN { printf \"%.2f\", $1 / $2 }"; }

# What a run leaves behind (dirty pages, a segment that is being prepared) is not the next one's to pay.
settle() {
    sync -f "$dir"
    sleep 2
}

# The requests per second of one run that SETs.
set_rate() { benchmark "$1" -t set "${@:2}" | cut -d'"' -f4; }

# GETs per second by 50 clients, beside 8 clients that SET all the while.
get_rate_beside_sets() {
    "$valkey/valkey-benchmark" -p "${port[$1]}" -t set -d 100 -r 100000 -c 8 -n 100000000 >/dev/null 2>&1 &
    local writer=$!
    benchmark "$1" -t get -c 50 -n 150000 | cut -d'"' -f4
    kill $writer
    wait $writer 2>/dev/null || true
}

compare() { # compare TITLE FUNCTION ARGUMENT...
    local title=$1 measure=$2 system run plain rate
    shift 2
    for system in "${systems[@]}"; do : >"$dir/rates.$system"; done
    for run in $(seq "$runs"); do
        for system in "${systems[@]}"; do
            settle
            "$measure" "$system" "$@" >>"$dir/rates.$system"
        done
    done
    plain=$(median <"$dir/rates.plain")
    printf '%-34s' "$title"
    for system in "${systems[@]}"; do
        rate=$(median <"$dir/rates.$system")
        printf ' %11.0f (%s)' "$rate" "$(ratio "$rate" "$plain")"
    done
    echo
}

compare_all() {
    local systems=(plain aof async sync lease) system
    start plain
    start aof --appendonly yes --appendfsync always
    start async --loadmodule "$module" log "$log" shard async mode async
    start sync --loadmodule "$module" log "$log" shard sync mode sync
    start lease --loadmodule "$module" log "$log" shard lease mode sync failover yes
    for system in "${systems[@]}"; do set_rate "$system" -c 50 -n 100000 >/dev/null; done

    printf '%-34s' "requests/s, medians of $runs"
    printf ' %18s' plain 'aof fsync always' async sync 'sync, failover'
    echo
    compare 'SET, 400 clients' set_rate -c 400 -n 200000
    compare 'SET, 50 clients, pipelines of 16' set_rate -c 50 -P 16 -n 800000
    compare 'SET, 50 clients' set_rate -c 50 -n 150000
    compare 'GET, 50 clients beside 8 SETting' get_rate_beside_sets
}

# The replica and the log have everything: what they still had to do would be paid by the other one's next run.
wait_for_followers() {
    for _ in $(seq 300); do
        if [ "$(info primary replication master_repl_offset)" = "$(info replica replication slave_repl_offset)" ] &&
            [ "$(cli async DURABILITY.LAG)" = 0 ]; then return; fi
        sleep 0.1
    done
    die "the replica or the log did not catch up within 30 s"
}

missed=0
figure() { # figure NAME COLUMN-OF-RUNS FORMAT COMPARISON TARGET
    local name=$1 column=$2 format=$3 comparison=$4 target=$5 primary async ratio verdict=ok
    primary=$(cut -d' ' -f"$column" "$dir/runs.primary" | median)
    async=$(cut -d' ' -f"$column" "$dir/runs.async" | median)
    ratio=$(ratio "$async" "$primary")
    # What is compared is what is printed.
    if ! awk "BEGIN { exit !($ratio $comparison $target) }"; then
        verdict=MISSED missed=$((missed + 1))
    fi
    printf "  %-32s %18$format %18$format %8s   %s %-5s %s\n" "$name" "$primary" "$async" "$ratio" "$comparison" "$target" "$verdict"
}

compare_with_replica() { # compare_with_replica TITLE ARGUMENT...
    local title=$1 system run
    shift
    for system in primary async; do : >"$dir/runs.$system"; done
    for run in $(seq "$runs"); do
        for system in primary async; do
            wait_for_followers
            settle
            # Requests a second, p50 and p99.
            benchmark "$system" "$@" | awk -F'"' '{ print $4, $10, $14 }' >>"$dir/runs.$system"
        done
    done
    echo "$title"
    figure 'requests/s' 1 .0f '>=' 0.95
    figure 'p50, ms' 2 .3f '<=' 1.1
    figure 'p99, ms' 3 .3f '<=' 1.1
}

compare_async() {
    local system
    start primary --repl-diskless-sync-delay 0
    start replica --replicaof 127.0.0.1 "${port[primary]}"
    start async --loadmodule "$module" log "$log" shard async mode async
    for system in primary async; do set_rate "$system" -c 50 -n 100000 >/dev/null; done

    printf '%-34s %18s %18s %8s   %s\n' "medians of $runs" 'plain and replica' async ratio target
    compare_with_replica 'SET, 50 clients' -t set -c 50 -n 150000
    compare_with_replica 'SET, 50 clients, pipelines of 16' -t set -c 50 -P 16 -n 800000
    compare_with_replica 'GET, 50 clients' -t get -c 50 -n 150000
    compare_with_replica 'GET, 50 clients, pipelines of 16' -t get -c 50 -P 16 -n 800000
    [ "$(info primary stats sync_full)" = 1 ] || die "the replica lost its primary: these figures do not count"
    [ "$(info async durability durability_refusals)" = 0 ] || die "writes were refused: these figures do not count"
    [ "$missed" -eq 0 ] || die "targets missed: $missed"
}

service_pids=()
start_three() {
    local number peers='' zone_port
    mkdir -p "$dir/snapshots"
    (umask 077 && echo 'what the services know of each other' >"$dir/peer-token")
    for number in 1 2 3; do peers+=${peers:+,}log-$number=127.0.0.1:$((base + 12 + 10 * number)); done
    three_logs=''
    for number in 1 2 3; do
        zone_port=$((base + 10 + 10 * number))
        three_logs+=${three_logs:+,}127.0.0.1:$zone_port
        "$logservice" --dir "$dir/log-$number" --listen "127.0.0.1:$zone_port" --http "127.0.0.1:$((zone_port + 1))" \
            --name "log-$number" --zone "zone-$number" --peers "$peers" --peer-token "$dir/peer-token" \
            --snapshots "file://$dir/snapshots" --valkey-server "$valkey/valkey-server" >"$dir/log-$number.out" 2>&1 &
        pids+=($!)
        service_pids+=($!)
    done
    for _ in $(seq 100); do
        if "$valkey/valkey-cli" -p $((base + 20)) LOG.CLUSTER INIT 2>/dev/null | grep -qx OK; then return; fi
        sleep 0.1
    done
    tail -n 5 "$dir"/log-*.out >&2
    die "the three log services did not become a cluster"
}

# Processor time of a process with all its threads, in seconds.
cpu_seconds() { awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) / hz }' "/proc/$1/stat"; }
# Which of the three services decides over the log: its number from 0 on.
decider() {
    local number
    for number in 0 1 2; do
        # Read to its end: a pipe that is closed early counts as a failure.
        if [ "$("$valkey/valkey-cli" -p $((base + 20 + 10 * number)) LOG.STATUS three | sed -n '/^standing$/{n;p;}')" = decides ]; then
            echo "$number"
            return
        fi
    done
    die "no service decides"
}

# One run of SETs: requests a second, p50 and p99 in ms, and the µs of processor time for each SET of the service that decides (of the
# single one), and of all services.
measure_zones() { # measure_zones SYSTEM REQUESTS ARGUMENT...
    local system=$1 requests=$2 line
    shift 2
    local -a log_pids=("$single_pid")
    if [ "$system" = three ]; then
        log_pids=("${service_pids[$(decider)]}" "${service_pids[@]}")
    fi
    local pid before=() after=()
    for pid in "${log_pids[@]}"; do before+=("$(cpu_seconds "$pid")"); done
    line=$(benchmark "$system" -t set -n "$requests" "$@")
    for pid in "${log_pids[@]}"; do after+=("$(cpu_seconds "$pid")"); done
    awk -F'"' -v requests="$requests" -v before="${before[*]}" -v after="${after[*]}" '{
        count = split(before, from, " "); split(after, to, " ")
        for (i = 1; i <= count; i++) used[i] = (to[i] - from[i]) * 1e6 / requests
        for (i = 2; i <= count; i++) all += used[i]
        print $4, $10, $14, used[1], (count > 1 ? all : used[1])
    }' <<<"$line"
}

compare_zones_of() { # compare_zones_of TITLE RATE-TARGET P50-TARGET REQUESTS ARGUMENT...
    local title=$1 target=$2 limit=$3 requests=$4 system run
    shift 4
    for system in one three; do : >"$dir/runs.$system"; done
    for run in $(seq "$runs"); do
        for system in one three; do
            settle
            measure_zones "$system" "$requests" "$@" >>"$dir/runs.$system"
        done
    done
    echo "$title"
    local names=('requests/s' 'p50, ms' 'p99, ms' 'decides: µs of CPU / SET' 'all: µs of CPU / SET') column one three verdict
    for column in 1 2 3 4 5; do
        one=$(cut -d' ' -f"$column" "$dir/runs.one" | median)
        three=$(cut -d' ' -f"$column" "$dir/runs.three" | median)
        verdict=''
        if [ "$column" = 1 ] && [ "$target" != - ]; then
            verdict=">= $target"
            awk "BEGIN { exit !($three >= $target * $one) }" || { verdict+=' MISSED' missed=$((missed + 1)); }
        elif [ "$column" = 2 ] && [ "$limit" != - ]; then
            verdict="<= 1.5 x one + 0.3 ms"
            awk "BEGIN { exit !($three <= 1.5 * $one + 0.3) }" || { verdict+=' MISSED' missed=$((missed + 1)); }
        fi
        printf '  %-32s %12.2f %12.2f %8s   %s\n' "${names[$((column - 1))]}" "$one" "$three" "$(ratio "$three" "$one")" "$verdict"
    done
}

compare_zones() {
    start_three
    start one --loadmodule "$module" log "$log" shard one mode sync
    start three --loadmodule "$module" log "$three_logs" shard three mode sync
    local system
    for system in one three; do set_rate "$system" -c 50 -n 100000 >/dev/null; done
    printf '%-34s %12s %12s %8s   %s\n' "medians of $runs" 'one service' 'three' ratio target
    compare_zones_of 'SET, 400 clients' 0.75 - 200000 -c 400
    compare_zones_of 'SET, 50 clients' - - 100000 -c 50
    compare_zones_of 'SET, 50 clients, pipelines of 16' 0.6 - 800000 -c 50 -P 16
    compare_zones_of 'SET, one client' - limit 5000 -c 1
    [ "$missed" -eq 0 ] || die "targets missed: $missed"
}

start_in_cluster() { # start_in_cluster NAME ARGUMENT...
    start "$1" --cluster-enabled yes --cluster-port $((${port[$1]} + 20)) "${@:2}"
    for _ in $(seq 100); do
        if cli "$1" CLUSTER ADDSLOTSRANGE 0 16383 | grep -qx OK; then break; fi
        sleep 0.1
    done
    for _ in $(seq 100); do
        if cli "$1" CLUSTER INFO | grep -q cluster_state:ok; then return; fi
        sleep 0.1
    done
    die "$1 is not a whole cluster"
}

# One run of SETs: requests a second, p50 and p99 in ms, and the µs of processor time of the server for each SET.
measure_server() { # measure_server SYSTEM REQUESTS ARGUMENT...
    local system=$1 requests=$2 line before after
    shift 2
    before=$(cpu_seconds "${server_pid[$system]}")
    line=$(benchmark "$system" -t set -n "$requests" "$@")
    after=$(cpu_seconds "${server_pid[$system]}")
    awk -F'"' -v used="$(awk "BEGIN { print ($after - $before) * 1e6 / $requests }")" '{ print $4, $10, $14, used }' <<<"$line"
}

compare_cluster_of() { # compare_cluster_of TITLE REQUESTS ARGUMENT...
    local title=$1 requests=$2 system run
    shift 2
    for system in plain plain-cluster lease lease-cluster; do : >"$dir/runs.$system"; done
    for run in $(seq "$runs"); do
        for system in plain plain-cluster lease lease-cluster; do
            settle
            measure_server "$system" "$requests" "$@" >>"$dir/runs.$system"
        done
    done
    echo "$title"
    local names=('requests/s' 'p50, ms' 'p99, ms' 'server: µs of CPU / SET') column alone cluster verdict
    for column in 1 2 3 4; do
        printf '  %-32s' "${names[$((column - 1))]}"
        for system in plain lease; do
            alone=$(cut -d' ' -f"$column" "$dir/runs.$system" | median)
            cluster=$(cut -d' ' -f"$column" "$dir/runs.$system-cluster" | median)
            printf ' %12.2f %12.2f %6s' "$alone" "$cluster" "$(ratio "$cluster" "$alone")"
        done
        verdict=''
        case $column in
        1) verdict='>= 0.95' && { awk "BEGIN { exit !($cluster >= $alone / 1.05) }" || verdict+=' MISSED'; } ;;
        2) verdict='<= 1.05' && { awk "BEGIN { exit !($cluster <= $alone * 1.05) }" || verdict+=' MISSED'; } ;;
        esac
        if [[ $verdict = *MISSED ]]; then missed=$((missed + 1)); fi
        printf '   %s\n' "$verdict"
    done
}

compare_cluster() {
    start plain
    start_in_cluster plain-cluster
    start lease --loadmodule "$module" log "$log" shard lease mode sync failover yes
    start_in_cluster lease-cluster --loadmodule "$module" log "$log" shard lease-cluster mode sync failover yes
    local system
    for system in plain plain-cluster lease lease-cluster; do set_rate "$system" -c 50 -n 100000 >/dev/null; done
    printf '%-34s %12s %12s %6s %12s %12s %6s   %s\n' "medians of $runs" plain 'in cluster' ratio sync 'in cluster' ratio target
    compare_cluster_of 'SET, 400 clients' 200000 -c 400
    compare_cluster_of 'SET, 50 clients' 100000 -c 50
    compare_cluster_of 'SET, 50 clients, pipelines of 16' 800000 -c 50 -P 16
    compare_cluster_of 'SET, one client' 5000 -c 1
    [ "$missed" -eq 0 ] || die "targets missed: $missed"
}

case $only in
cluster) compare_cluster ;;
async) compare_async ;;
zones) compare_zones ;;
*) compare_all ;;
esac
