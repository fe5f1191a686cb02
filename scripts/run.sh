#!/usr/bin/env bash
# Starts a durable Valkey: the log service, and valkey-server with the module. Installs, fetches and builds what is missing.
#
#   scripts/run.sh [--shards N] [--nodes 1] [--zones 1|3] [--mode sync|async|off] [--port 6379] [--dir DIR] [--fresh]
#
# Stays in the foreground; Ctrl-C stops all cleanly. Started again, it comes back with the data. --fresh begins without.
# With several nodes (on PORT, PORT+1, ...) one leads, and when it dies another takes over. With --shards the nodes are a Valkey cluster of
# that many shards, each with so many nodes, and the ports go on shard by shard. The port of a node's cluster bus is 10000 more.
# The log service listens on PORT+1000 (RESP) and PORT+1001 (HTTP). With --zones 3 there are three, which keep the same log: the ports of
# service N are PORT+1000+10(N-1) (RESP), one more (HTTP), and two more (its peers).
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/progress.sh"
source "$(dirname "$0")/cluster.sh"

usage() { sed -n '4p' "$0" | cut -c5-; }

shards=0 nodes=1 zones=1 mode='' port=6379 dir=$ROOT/data fresh=no
while [ $# -gt 0 ]; do
    case $1 in
    --shards) shards=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --nodes) nodes=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --zones) zones=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --mode) mode=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --port) port=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --dir) dir=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --fresh) fresh=yes; shift ;;
    -h | --help) usage; exit ;;
    *) die "unknown argument '$1'; usage: $(usage)" ;;
    esac
done
case $mode in '' | sync | async | off) ;; *) die "--mode is sync, async or off, not '$mode'" ;; esac
[[ $port =~ ^[0-9]+$ ]] && [ "$port" -ge 1 ] && [ "$port" -le 64513 ] || die "--port is a number from 1 to 64513, not '$port'"
[[ $nodes =~ ^[1-6]$ ]] || die "--nodes is a number from 1 to 6, not '$nodes'"
[[ $shards =~ ^[0-9]$ ]] || die "--shards is a number from 1 to 9, not '$shards'"
# How many nodes there are in all.
count=$nodes
if [ "$shards" -gt 0 ]; then
    count=$((shards * nodes))
    [ $((port + count)) -le 55536 ] || die "--port is at most $((55536 - count)) with so many nodes, as the bus takes ports that are 10000 more"
    [ "$mode" != off ] || die "without its log no node leads a shard: --mode is sync or async with --shards"
fi
case $zones in 1 | 3) ;; *) die "--zones is 1 or 3, not '$zones'" ;; esac
log_port() { echo $((port + 1000 + 10 * ($1 - 1))); } # log_port ZONE
log_addresses=127.0.0.1:$(log_port 1)
for zone in $(seq 2 "$zones"); do log_addresses+=,127.0.0.1:$(log_port "$zone"); done

# Side by side, as each of the two has parts in which one core has nothing to do.
need_build_packages
job Valkey valkey_state "$ROOT/scripts/valkey.sh"
job "module and log service" cargo_state env CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 \
    cargo build --release --manifest-path "$ROOT/Cargo.toml"
wait_for_jobs "start all"
valkey=$(job_output 0)
end_jobs
module=$ROOT/target/release/libvalkey_durability.so
logservice=$ROOT/target/release/logservice

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ $fresh = yes ]; then
    for lock in "$dir"/log/LOCK "$dir"/log-*/LOCK; do
        if [ -e "$lock" ] && ! flock --nonblock "$lock" true; then
            die "$dir is in use: stop what runs there first, or choose another --dir"
        fi
    done
fi
if [ $fresh = yes ]; then rm -rf "$dir"/log "$dir"/log-* "$dir"/node* "$dir"/valkey*.conf "$dir/snapshots" "$dir/peer-token" "$dir/cluster"; fi
check_layout
if [ "$zones" -gt 1 ] && [ -e "$dir/log/shards" ]; then
    die "$dir holds the log of a single service: start without --zones, choose another --dir, or begin anew with --fresh"
fi
if [ "$zones" -eq 1 ] && [ -e "$dir/log/SERVICE" ]; then
    die "$dir holds the log of three services: start with --zones 3, choose another --dir, or begin anew with --fresh"
fi

# The first node and the first log service have the names that a single one has.
suffix() { if [ "$1" -gt 1 ]; then echo "-$1"; fi; }
port_of() { echo $((port + $1 - 1)); } # port_of NODE
has_failover() { [ "$shards" -gt 0 ] || [ "$nodes" -gt 1 ]; }
node_config() { # node_config NUMBER
    local directory=$dir/node$(suffix "$1") config=$dir/valkey$(suffix "$1").conf node_port shard=main cluster_line=''
    node_port=$(port_of "$1")
    if [ "$shards" -gt 0 ]; then shard=shard-$(shard_of "$1") cluster_line='cluster-enabled yes'; fi
    # As many zones as there are log services: the nodes take turns in them.
    local zone_line=''
    if [ "$zones" -gt 1 ]; then zone_line="durability.zone zone-$((($1 - 1) % zones + 1))"; fi
    mkdir -p "$directory"
    if [ ! -e "$config" ]; then
        cat >"$config" <<CONF
port $node_port
loadmodule $module
durability.log $log_addresses
durability.shard $shard
durability.node-id node-$1
durability.announce 127.0.0.1:$node_port
$zone_line
$cluster_line
durability.failover $(has_failover && echo yes || echo no)
durability.mode sync

# The log is the truth: this node needs no RDB and no AOF of its own.
save ""
appendonly no
dir $directory
CONF
    fi
    echo "$config"
}

server_pids=() log_pids=()
is_alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
alive_logs() {
    local pid
    for pid in "${log_pids[@]}"; do if is_alive "$pid"; then echo "$pid"; fi; done
}
are_logs_alive() { [ -n "$(alive_logs)" ]; }
alive_servers() {
    local pid
    for pid in "${server_pids[@]}"; do if is_alive "$pid"; then echo "$pid"; fi; done
}
stop() {
    local pid
    trap '' INT TERM HUP
    # The servers first: the leader ships what is left and gives its lease back.
    for pid in "${server_pids[@]}"; do if is_alive "$pid"; then kill -TERM "$pid"; fi; done
    for pid in "${server_pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    for pid in "${log_pids[@]}"; do if is_alive "$pid"; then kill -TERM "$pid"; fi; done
    for pid in "${log_pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    say "stopped; the data is in $dir"
}
trap 'stop; exit 0' INT TERM HUP

# Ctrl-C and a terminal that is closed are for this script alone, which ends everybody in order: hence setsid.
start_log() { # start_log ZONE
    local zone_port arguments
    zone_port=$(log_port "$1")
    arguments=(--dir "$dir/log$(suffix "$1")" --listen "127.0.0.1:$zone_port" --http "127.0.0.1:$((zone_port + 1))")
    if [ "$zones" -gt 1 ]; then
        arguments+=(--name "log-$1" --zone "zone-$1" --peers "$peers" --peer-token "$dir/peer-token")
    fi
    setsid "$logservice" "${arguments[@]}" --valkey-server "$valkey/valkey-server" >>"$dir/log$(suffix "$1").out" 2>&1 &
    log_pids+=($!)
}
peers=''
if [ "$zones" -gt 1 ]; then
    if [ ! -e "$dir/peer-token" ]; then (umask 077 && head -c 24 /dev/urandom | base64 >"$dir/peer-token"); fi
    for zone in $(seq "$zones"); do peers+=${peers:+,}log-$zone=127.0.0.1:$(($(log_port "$zone") + 2)); done
fi
for zone in $(seq "$zones"); do start_log "$zone"; done
# Three empty services become a cluster once, when somebody says so. Said again, it changes nothing.
init_cluster() {
    local looks=0 answer=''
    until answer=$("$valkey/valkey-cli" -p "$(log_port 1)" LOG.CLUSTER INIT 2>&1) && [ "$answer" = OK ]; do
        looks=$((looks + 1))
        [ $looks -lt 300 ] || { stop; die "the three log services do not become a cluster: $answer (their logs: $dir/log*.out)"; }
        are_logs_alive || { stop; tail -n 5 "$dir/log.out" >&2; die "the log services did not start (their logs: $dir/log*.out)"; }
        sleep 0.1
    done
}
if [ "$zones" -gt 1 ]; then init_cluster; fi
for number in $(seq "$count"); do
    node_port=$(port_of "$number")
    arguments=(--port "$node_port" --durability.log "$log_addresses" --durability.announce "127.0.0.1:$node_port")
    if has_failover; then arguments+=(--durability.failover yes); fi
    if [ -n "$mode" ]; then arguments+=(--durability.mode "$mode"); fi
    setsid "$valkey/valkey-server" "$(node_config "$number")" "${arguments[@]}" >>"$dir/node$(suffix "$number").out" 2>&1 &
    server_pids+=($!)
done

cli() { "$valkey/valkey-cli" -p "$@" 2>/dev/null; } # cli PORT COMMAND...
# Ours, and not another server on that port.
is_ready() { # is_ready NUMBER
    local node_port
    node_port=$(port_of "$1")
    [ "$(cli "$node_port" INFO server | sed -n 's/^process_id:\([0-9]*\).*/\1/p')" = "${server_pids[$1 - 1]}" ] &&
        # A follower of a cluster refuses all until it is a replica there.
        { [ "$shards" -gt 0 ] || cli "$node_port" PING | grep -qx PONG; }
}
role() { cli "$(port_of "$1")" INFO durability | tr -d '\r' | sed -n 's/^durability_role://p'; } # role NUMBER
has_role() { case $(role "$1") in leader | follower | off) true ;; *) false ;; esac; }
last_error() { cli "$(port_of "$1")" INFO durability | tr -d '\r' | sed -n 's/^durability_last_error://p'; } # last_error NUMBER
for number in $(seq "$count"); do
    looks=0
    until is_ready "$number" && has_role "$number"; do
        # What keeps it is told every ten seconds.
        looks=$((looks + 1))
        if [ $((looks % 100)) -eq 0 ]; then say "node-$number does not serve yet: $(last_error "$number")"; fi
        are_logs_alive || { stop; tail -n 5 "$dir/log.out" >&2; die "the log service did not start (its log: $dir/log.out)"; }
        is_alive "${server_pids[number - 1]}" || {
            stop
            tail -n 5 "$dir/node$(suffix "$number").out" >&2
            die "valkey-server did not start (its log: $dir/node$(suffix "$number").out)"
        }
        sleep 0.1
    done
done

break_logs() {
    if [ "$zones" -eq 1 ]; then
        cat <<TEXT
                       kill -9 ${log_pids[0]} is the log service, whose outage no node survives for longer than its lease
TEXT
        return
    fi
    for zone in $(seq "$zones"); do
        echo "                       kill -9 ${log_pids[zone - 1]} is the log service of zone $zone, port $(log_port "$zone"), log $dir/log$(suffix "$zone").out"
    done
    cat <<TEXT
                       Any one of them may die, with a node: writes wait for a second, or about 4 s if that node leads, and
                       nothing is lost. With two dead, writes wait. This script starts all again
  The copies:          $valkey/valkey-cli -p $(log_port 1) LOG.CLUSTER STATUS
TEXT
}

show_node() { # show_node NUMBER
    echo "  node-$1  $(role "$1")  port $(port_of "$1")  pid ${server_pids[$1 - 1]}  log $dir/node$(suffix "$1").out"
}
show_nodes() {
    cat <<TEXT

A durable Valkey of $nodes nodes is running in mode $(cli "$port" DURABILITY.MODE), data in $dir

TEXT
    for number in $(seq "$nodes"); do show_node "$number"; done
    cat <<TEXT

  Watch the shard:     watch -n 0.2 "$valkey/valkey-cli -p $(log_port 1) LOG.STATUS main | grep -A1 -E '^(leader|epoch|end|node[0-9])'"
  Write to the leader: $valkey/valkey-cli -p PORT SET a 1      (other nodes answer READONLY, and GET)
  Hand over:           $valkey/valkey-cli -p PORT DURABILITY.FAILOVER
  Break it:            kill -9 PID of the leader, or kill -STOP and later kill -CONT: another node leads within seconds,
                       with everything that was acknowledged
$(break_logs)

  Start a node again:  $valkey/valkey-server $dir/valkey-2.conf     (the first one: valkey.conf), or all by this script

Ctrl-C stops all.
TEXT
}

if [ "$count" -gt 1 ] || [ "$shards" -gt 0 ]; then
    if [ "$shards" -gt 0 ]; then
        make_cluster
        show_cluster
    else
        show_nodes
    fi
    while are_logs_alive; do
        mapfile -t alive < <(alive_servers)
        if [ ${#alive[@]} -eq 0 ]; then break; fi
        mapfile -t -O "${#alive[@]}" alive < <(alive_logs)
        wait -n "${alive[@]}" || true
    done
    [ -n "$(alive_servers)" ] || say "all nodes have ended (their logs: $dir/node*.out)"
    are_logs_alive || say "the log service has ended (its log: $dir/log.out)"
    stop
    exit 1
fi
server_pid=${server_pids[0]}
cat <<TEXT

Durable Valkey is running in mode $(cli "$port" DURABILITY.MODE), data in $dir

  Connect:          $valkey/valkey-cli -p $port
  See how it is:    $valkey/valkey-cli -p $port DURABILITY.STATUS
  Its log service:  $valkey/valkey-cli -p $(log_port 1) LOG.STATUS main
  Server logs:      $dir/node.out  $dir/log.out

  Try this:  SET a 1 with valkey-cli, then kill -9 $server_pid ${log_pids[*]}, start this script again, and GET a.

Ctrl-C stops all.
TEXT

# Ends when either does.
while is_alive "$server_pid" && are_logs_alive; do
    mapfile -t alive < <(alive_logs)
    wait -n "$server_pid" "${alive[@]}" || true
done
is_alive "$server_pid" || say "valkey-server has ended (its log: $dir/node.out)"
are_logs_alive || say "the log service has ended (its log: $dir/log.out)"
stop
exit 1
