"""What Valkey's cluster suite needs, so that each of its nodes has a log.

A server's shard of the log is named by its configuration. The suite starts all nodes alike, and tells which of them replicate others by CLUSTER
REPLICATE, which the module refuses. So where the suite starts a cluster of primaries with replicas, the replicas are given the shards of their
primaries from the start, and instead of CLUSTER REPLICATE the suite waits until they are replicas. A server that it starts by itself has a
shard of its own."""

# The shard of a server that none was given to is named by its directory, so it is the same after a restart. Leases outlast a node that the suite
# stops to have the others notice it, as they do in a cluster without the module. A replica counts as available when something has come to it: in
# a shard that nothing was written to that is the first ping, which the suite would wait 10 s for.
SERVER = """#!/bin/bash
if [ -f "${{1:-}}" ] && grep -q '^loadmodule .*{module}' "$1"; then
    value() {{ sed -n "s/^$1 //p" "$2" | tail -n 1; }}
    more=()
    if ! grep -q '^durability.shard ' "$1"; then
        directory=$(value dir "$1" | tr -cd '[:alnum:]._-' | tail -c 50)
        more+=(--durability.shard "suite-$directory")
    fi
    port=$(value port "$1")
    if grep -q '^cluster-enabled yes' "$1"; then
        more+=(--durability.allow-replicaof no --durability.failover yes --durability.lease-ms 10000)
        more+=(--durability.node-id "node-$port" --durability.announce "127.0.0.1:$port" --repl-ping-replica-period 1)
    fi
    exec -a "$0" {server} "$@" "${{more[@]}}"
fi
exec -a "$0" {server} "$@"
"""

# Put at the end of the suite's own tests/support/cluster_util.tcl. Server R 0 is the one that the suite starts last. So replicas, which start
# first, may not lead until their primaries do.
HOOK = """
if {$::env(SUITE_MODE) ne {none}} {
set ::durability_cluster {}
if {![info exists ::durability_clusters]} { set ::durability_clusters 0 }

# Nodes that follow need CLUSTER MEET only. With config epochs of their own, above their leader's, nodes that hear of it late would take what they
# say as replicas for old.
proc durability_is_needless {number args} {
    lassign $::durability_cluster masters
    expr {$masters ne {} && [lrange $args 0 1] eq {CLUSTER SET-CONFIG-EPOCH} && $number >= $masters}
}

# A node that ceases to lead, or stood still for longer than its lease, closes its clients. Applications connect again, and the suite does not.
# A node that has just begun to follow answers CLUSTERDOWN until the cluster knows it as a replica, and one that has just started does not lead
# yet. Applications and operators ask again.
proc durability_ask_again {} {
    if {[info commands R_alike] ne {}} return
    foreach {name level} {R {expr {-[lindex $args 0]}} s {expr {[string is integer [lindex $args 0]] ? [lindex $args 0] : 0}}} {
        rename $name ${name}_alike
        proc $name args [string map [list NAME ${name}_alike LEVEL $level] {
            if {[durability_is_needless {*}$args]} { return OK }
            for {set tries 0} {[catch {NAME {*}$args} answer how] && $tries < 50} {incr tries} {
                if {[string match {CLUSTERDOWN durability: *} $answer] || [string match {ERR durability: this node does not lead *} $answer]} {
                    after 100
                } elseif {![string match {I/O error*} $answer] || [catch {reconnect [LEVEL]}]} {
                    break
                }
            }
            return -options $how $answer
        }]
    }
}

# Units may read this file again.
catch { rename start_cluster_alike {} }
rename start_cluster start_cluster_alike
if {[info commands start_server_alike] eq {}} { rename start_server start_server_alike }

proc start_cluster {masters replicas options code args} {
    set nodes [expr {$masters + $replicas}]
    # This one leaves the last node alone.
    set members [expr {[lindex $args 1] eq {split_slot_replica_allocation} ? $nodes - 1 : $nodes}]
    set ::durability_cluster [list $masters $members $nodes [llength $::servers] [incr ::durability_clusters]]
    uplevel 1 [list start_cluster_alike $masters $replicas $options $code {*}$args]
}

proc start_server {options {code undefined}} {
    durability_ask_again
    lassign $::durability_cluster masters members nodes first cluster
    if {$masters ne {}} {
        set number [expr {$first + $nodes - 1 - [llength $::servers]}]
        if {0 <= $number && $number < $members} {
            set own [list durability.shard suite-[pid]-$cluster-[expr {$number % $masters}]]
            if {$number >= $masters} { lappend own durability.priority 0 }
            lappend options overrides $own
        }
    }
    uplevel 1 [list start_server_alike $options $code]
}

proc durability_wait_for_replicas {masters replicas} {
    for {set number $masters} {$number < $masters + $replicas} {incr number} {
        set primary [R [expr {$number % $masters}] CLUSTER MYID]
        wait_for_condition 1000 50 {
            [dict get [cluster_get_myself $number] slaveof] eq $primary && [s -$number master_link_status] eq {up}
        } else {
            fail "R $number does not become a replica of its shard's leader"
        }
    }
    for {set number $masters} {$number < $masters + $replicas} {incr number} {
        R $number CONFIG SET durability.priority 100
        exec sed -i {s/^durability.priority 0$/durability.priority 100/} [dict get [lindex $::servers end-$number] config_file]
    }
    set ::durability_cluster {}
}
proc default_replica_allocation {masters replicas} { durability_wait_for_replicas $masters $replicas }
proc cluster_allocate_replicas {masters replicas} { durability_wait_for_replicas $masters $replicas }
}
"""
