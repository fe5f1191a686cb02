# How scripts/run.sh runs a cluster of several shards: which nodes and slots are whose, how the nodes become a cluster, and what to do with
# it. Sourced by run.sh; nothing here runs by itself.
# shellcheck shell=bash
# shellcheck disable=SC2154 # What is not assigned here is run.sh's.

# Nodes are numbered shard by shard.
shard_of() { echo $((($1 - 1) / nodes + 1)); } # shard_of NODE
nodes_of() { seq $((($1 - 1) * nodes + 1)) $(($1 * nodes)); } # nodes_of SHARD
first_slot() { echo $((16384 * ($1 - 1) / shards)); } # first_slot SHARD

# The data of a directory is that of the shards with which it was begun.
check_layout() {
    local found='a shard that is no cluster' wanted="$shards shards of $nodes nodes each, from port $port on"
    if [ -e "$dir/cluster" ]; then
        found=$(cat "$dir/cluster")
    elif [ "$shards" -eq 0 ]; then
        return
    elif [ ! -e "$dir/valkey.conf" ]; then
        echo "$wanted" >"$dir/cluster"
        return
    fi
    [ "$found" = "$wanted" ] ||
        die "$dir holds $found: start with the same --shards, --nodes and --port, choose another --dir, or begin anew with --fresh"
}

leader_of() { # leader_of SHARD: the number of the node that leads it; none if no node does
    local number
    for number in $(nodes_of "$1"); do
        if [ "$(role "$number")" = leader ]; then
            echo "$number"
            return
        fi
    done
}

own_slots() { cli "$(port_of "$1")" CLUSTER NODES | awk '/myself/ { for (i = 9; i <= NF; i++) print $i }' | paste -sd ' '; } # own_slots NODE

# Makes the nodes a cluster. Called again and again until it succeeds, and also where they are one: then it changes nothing.
is_cluster_made() {
    local number shard leader
    for number in $(seq 2 "$count"); do
        # A node that knows any other finds all of them by itself.
        if [ "$(cli "$(port_of "$number")" CLUSTER NODES | wc -l)" -lt 2 ]; then
            cli "$(port_of "$number")" CLUSTER MEET 127.0.0.1 "$port" >/dev/null || return 1
        fi
    done
    for shard in $(seq "$shards"); do
        leader=$(leader_of "$shard")
        [ -n "$leader" ] || return 1
        # Only once in the life of the cluster: the log stores which slots a shard has, and slots that have an owner are refused. A shard may
        # have given all of its own away.
        if [ -z "$(own_slots "$leader")" ] && ! cli "$port" CLUSTER INFO | grep -q '^cluster_slots_assigned:16384'; then
            cli "$(port_of "$leader")" CLUSTER ADDSLOTSRANGE "$(first_slot "$shard")" $(($(first_slot $((shard + 1))) - 1)) >/dev/null || return 1
        fi
    done
    for number in $(seq "$count"); do
        cli "$(port_of "$number")" CLUSTER INFO | grep -q '^cluster_state:ok' || return 1
        # All others are replicas, as this node sees it.
        [ "$(cli "$(port_of "$number")" CLUSTER NODES | awk '$3 ~ /slave/ && $3 !~ /(^|,)fail\??(,|$)/' | wc -l)" -ge $((count - shards)) ] || return 1
    done
}

make_cluster() {
    local looks=0
    until is_cluster_made; do
        looks=$((looks + 1))
        if [ $((looks % 30)) -eq 0 ]; then say "the nodes are not a cluster yet: $(cli "$port" CLUSTER INFO | tr -d '\r' | head -n 5 | paste -sd ' ')"; fi
        [ "$(alive_servers | wc -l)" -eq "$count" ] && are_logs_alive || { stop; die "the nodes do not become a cluster (their logs: $dir/node*.out)"; }
        sleep 0.3
    done
}

show_cluster() {
    local shard number
    cat <<TEXT

A durable Valkey cluster of $shards shards with $nodes nodes each is running in mode $(cli "$port" DURABILITY.MODE), data in $dir

TEXT
    for shard in $(seq "$shards"); do
        echo "  shard-$shard, slots $(own_slots "$(leader_of "$shard")")"
        for number in $(nodes_of "$shard"); do show_node "$number"; done
    done
    cat <<TEXT

  Connect:             $valkey/valkey-cli -c -p $port      (to any node: -c follows MOVED to the one that has the key)
  Watch the cluster:   watch -n 0.2 "$valkey/valkey-cli -p $port CLUSTER NODES"
  Watch a shard:       watch -n 0.2 "$valkey/valkey-cli -p $(log_port 1) LOG.STATUS shard-1 | grep -A1 -E '^(leader|epoch|slots|end|node[0-9])'"
                       or all of them at http://127.0.0.1:$(($(log_port 1) + 1))/
TEXT
    if [ "$nodes" -eq 1 ]; then
        cat <<TEXT
  Break it:            kill -9 PID of a node: its slots are away until you start it again, with everything that was
                       acknowledged
TEXT
    else
        cat <<TEXT
  Hand over:           $valkey/valkey-cli -p PORT CLUSTER FAILOVER      (to a follower, which then leads)
  Break it:            kill -9 PID of a leader, or of several at a time: another node of its shard leads within seconds, with
                       everything that was acknowledged, and valkey-cli -c finds it
TEXT
    fi
    if [ "$shards" -gt 1 ]; then
        cat <<TEXT
  Move slots:          $valkey/valkey-cli --cluster reshard 127.0.0.1:$port --cluster-use-atomic-slot-migration
TEXT
    fi
    cat <<TEXT
$(break_logs)

  Start a node again:  $valkey/valkey-server $dir/valkey-2.conf     (the first one: valkey.conf), or all by this script

Ctrl-C stops all.
TEXT
}
