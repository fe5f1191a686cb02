#!/usr/bin/env bash
# Starts a durable Valkey: the log service, and valkey-server with the module. Installs, fetches and builds what is missing.
#
#   scripts/run.sh [--mode sync|async|off] [--port 6379] [--dir DIR] [--fresh]
#
# Stays in the foreground; Ctrl-C stops both cleanly. Started again, it comes back with the data. --fresh begins without.
# The log service listens on PORT+1000 (RESP) and PORT+1001 (HTTP).
source "$(dirname "$0")/lib.sh"

usage() { sed -n '4p' "$0" | cut -c5-; }

mode='' port=6379 dir=$ROOT/data fresh=no
while [ $# -gt 0 ]; do
    case $1 in
    --mode) mode=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --port) port=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --dir) dir=${2:-}; shift 2 || die "usage: $(usage)" ;;
    --fresh) fresh=yes; shift ;;
    -h | --help) usage; exit ;;
    *) die "unknown argument '$1'; usage: $(usage)" ;;
    esac
done
case $mode in '' | sync | async | off) ;; *) die "--mode is sync, async or off, not '$mode'" ;; esac
[[ $port =~ ^[0-9]+$ ]] && [ "$port" -ge 1 ] && [ "$port" -le 64534 ] || die "--port is a number from 1 to 64534, not '$port'"
log_port=$((port + 1000)) http_port=$((port + 1001))

need_build_packages
valkey=$("$ROOT/scripts/valkey.sh")
say "building (a few minutes the first time)"
(cd "$ROOT" && cargo build --quiet --release)
module=$ROOT/target/release/libvalkey_durability.so
logservice=$ROOT/target/release/logservice

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ $fresh = yes ]; then rm -rf "$dir/log" "$dir/node" "$dir/valkey.conf"; fi
mkdir -p "$dir/log" "$dir/node"
if [ ! -e "$dir/valkey.conf" ]; then
    cat >"$dir/valkey.conf" <<CONF
loadmodule $module
durability.log 127.0.0.1:$log_port
durability.shard main
durability.node-id node-1
durability.mode sync

# The log is the truth: this node needs no RDB and no AOF of its own.
save ""
appendonly no
dir $dir/node
CONF
fi

server_pid='' log_pid=''
is_alive() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
stop() {
    trap '' INT TERM
    # The server first: it ships what is left and gives its lease back.
    if is_alive "$server_pid"; then kill -TERM "$server_pid"; fi
    if [ -n "$server_pid" ]; then wait "$server_pid" 2>/dev/null || true; fi
    if is_alive "$log_pid"; then kill -TERM "$log_pid"; fi
    if [ -n "$log_pid" ]; then wait "$log_pid" 2>/dev/null || true; fi
    say "stopped; the data is in $dir"
}
trap 'stop; exit 0' INT TERM

"$logservice" --dir "$dir/log" --listen "127.0.0.1:$log_port" --http "127.0.0.1:$http_port" \
    --valkey-server "$valkey/valkey-server" >>"$dir/log.out" 2>&1 &
log_pid=$!
arguments=(--port "$port" --durability.log "127.0.0.1:$log_port")
if [ -n "$mode" ]; then arguments+=(--durability.mode "$mode"); fi
"$valkey/valkey-server" "$dir/valkey.conf" "${arguments[@]}" >>"$dir/node.out" 2>&1 &
server_pid=$!

cli() { "$valkey/valkey-cli" -p "$port" "$@" 2>/dev/null; }
# Ours, and not another server on that port.
is_ready() { [ "$(cli INFO server | sed -n 's/^process_id:\([0-9]*\).*/\1/p')" = "$server_pid" ] && cli PING | grep -qx PONG; }
until is_ready; do
    is_alive "$log_pid" || { stop; tail -n 5 "$dir/log.out" >&2; die "the log service did not start (its log: $dir/log.out)"; }
    is_alive "$server_pid" || { stop; tail -n 5 "$dir/node.out" >&2; die "valkey-server did not start (its log: $dir/node.out)"; }
    sleep 0.1
done

cat <<TEXT

Durable Valkey is running in mode $(cli DURABILITY.MODE), data in $dir

  Connect:          $valkey/valkey-cli -p $port
  See how it is:    $valkey/valkey-cli -p $port DURABILITY.STATUS
  Its log service:  $valkey/valkey-cli -p $log_port LOG.STATUS main
  Server logs:      $dir/node.out  $dir/log.out

  Try this:  SET a 1 with valkey-cli, then kill -9 $server_pid $log_pid, start this script again, and GET a.

Ctrl-C stops both.
TEXT

# Ends when either does.
wait -n "$server_pid" "$log_pid" || true
is_alive "$server_pid" || say "valkey-server has ended (its log: $dir/node.out)"
is_alive "$log_pid" || say "the log service has ended (its log: $dir/log.out)"
stop
exit 1
