# A shard of several nodes, each a server of its own, and ways to harm them. Nodes are named n0, n1, ...; n0 is the innermost server.

# Starts a log service and `count` nodes that follow it, and runs `code` for as long as they run.
proc shard_of {count options code} {
    new_log
    start_log
    set ::shard_options [dict merge {failover yes lease-ms 1000} $options]
    start_nodes [expr {$count - 1}] $code
    kill_log
}

proc start_nodes {number code} {
    if {$number < 0} {
        wait_for_leader
        return [uplevel #0 $code]
    }
    set own [dict create node-id n$number announce $::host:[expr {10000 + $number}]]
    if {[dict exists $::shard_options n$number]} {
        set own [dict merge $own [dict get $::shard_options n$number]]
    }
    set shared [dict filter $::shard_options script {name value} {expr {![string match {n[0-9]} $name]}}]
    start_server [server_options [dict merge $shared $own]] [list start_nodes [expr {$number - 1}] $code]
}

# The level of a node of that name, as `r`, `srv` and `figure` take it.
proc level {node} {
    expr {-[string range $node 1 end]}
}

proc node_count {} {
    llength $::servers
}

proc nodes {} {
    set nodes {}
    for {set number 0} {$number < [node_count]} {incr number} {lappend nodes n$number}
    return $nodes
}

# The role of a node, also if it does not run.
proc role_of {node} {
    if {[catch {
        set client [valkey $::host [srv [level $node] port]]
        set role [getInfoProperty [$client info durability] durability_role]
        $client close
    }]} {return down}
    return $role
}

proc figure_of {node name} {
    set client [valkey $::host [srv [level $node] port]]
    set figure [getInfoProperty [$client info durability] durability_$name]
    $client close
    return $figure
}

proc current_leader {{except {}}} {
    foreach node [nodes] {
        if {$node ni $except && [role_of $node] eq "leader"} {return $node}
    }
}

# Waits until a node leads that is none of `except`, and returns it.
proc wait_for_leader {{except {}}} {
    wait_for_condition 2000 10 {[current_leader $except] ne ""} else {
        fail "nobody leads: [lmap node [nodes] {list $node [role_of $node]}]"
    }
    current_leader $except
}

proc wait_for_role {role node} {
    wait_for_condition 2000 10 {[role_of $node] eq $role} else {
        fail "$node is [role_of $node], not $role: [figure_of $node last_error]"
    }
}

# Waits until one leads and all others follow. Returns the leader.
proc wait_for_shard {} {
    set leader [wait_for_leader]
    foreach node [nodes] {
        if {$node ne $leader} {wait_for_role follower $node}
    }
    return $leader
}

# Until `node` has heard of `other`, as one that follows.
proc wait_until_known {node other} {
    wait_for_condition 500 10 {[regexp "id=$other,\[^\r\n\]*role=follower" [on $node info durability]]} else {
        fail "$node does not know $other"
    }
}

# Hands over to that node unless it leads.
proc make_leader {node} {
    set leader [wait_for_shard]
    if {$leader ne $node} {
        wait_until_known $leader $node
        assert_equal OK [on $leader durability.failover to $node]
        wait_for_role leader $node
    }
    wait_for_shard
}

# A command on a connection of its own.
proc on {node args} {
    set client [valkey $::host [srv [level $node] port]]
    set failed [catch {$client {*}$args} reply]
    catch {$client close}
    return -code $failed $reply
}

proc kill_node {node} {
    kill_hard [srv [level $node] pid]
}

proc restart_node {node} {
    restart_server [level $node] true false
}

# Where it keeps its files.
proc directory_of {node} {
    dict get [dict get [lindex $::servers end+[level $node]] config] dir
}

proc stop_node {node} {
    exec kill -STOP [srv [level $node] pid]
}

proc continue_node {node} {
    exec kill -CONT [srv [level $node] pid]
}

# Until all nodes hold the same as the leader.
proc assert_same_data {} {
    set leader [current_leader]
    wait_for_condition 1000 10 {
        [llength [lsort -unique [lmap node [nodes] {on $node debug digest}]]] == 1
    } else {
        fail "nodes differ: [lmap node [nodes] {list $node [on $node debug digest] [on $node dbsize]}]"
    }
}
