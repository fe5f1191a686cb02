# A real Sentinel beside a shard: whatever it sends the nodes, there is never more than one that takes writes, and that is whom the
# log chooses.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# Starts a Sentinel that monitors an address as `watched`, and believes that the others are replicas of it.
proc start_sentinel {primary replicas} {
    set port [find_available_port $::baseport $::portcount]
    set directory [file normalize [tmpdir sentinel]]
    set file [open $directory/sentinel.conf w]
    puts $file "port $port\ndir $directory\nsentinel monitor watched $::host $primary 1"
    puts $file "sentinel down-after-milliseconds watched 1000\nsentinel failover-timeout watched 3000"
    foreach replica $replicas {puts $file "sentinel known-replica watched $::host $replica"}
    close $file
    set pid [exec $::env(VALKEY_BIN_DIR)/valkey-server $directory/sentinel.conf --sentinel >> $directory/output 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid $directory/output $::curfile]
    wait_for_condition 3000 10 {[ping_server $::host $port]} else {
        fail "the Sentinel does not start: [exec cat $directory/output]"
    }
    set ::sentinel [dict create pid $pid port $port output $directory/output]
}

proc stop_sentinel {} {
    kill_hard [dict get $::sentinel pid]
    send_data_packet $::test_server_fd server-killed [dict get $::sentinel pid]
}

proc sentinel {args} {
    set client [valkey $::host [dict get $::sentinel port]]
    set failed [catch {$client {*}$args} reply]
    $client close
    return -code $failed $reply
}

proc count_events {event} {
    regexp -all -line -- "^.* [string map {+ \\+} $event]( .*)?\$" [exec cat [dict get $::sentinel output]]
}

# The nodes that take a write now.
proc writable {} {
    set found {}
    foreach node [nodes] {
        if {![catch {on $node set probe $node} reply]} {lappend found $node}
    }
    return $found
}

# Looks all the time that no two nodes take writes, until `condition` holds.
proc wait_with_one_writer {condition what} {
    set deadline [expr {[clock seconds] + 90}]
    while {![uplevel 1 [list expr $condition]]} {
        set found [writable]
        assert_lessthan_equal [llength $found] 1
        if {[clock seconds] > $deadline} {fail "$what: roles [lmap node [nodes] {role_of $node}], [exec tail -n 20 [dict get $::sentinel output]]"}
        after 20
    }
}

# A transaction as Sentinel sends it, with which it makes a node another one's replica, or a primary.
proc reconfigure {node replicaof} {
    set client [valkey $::host [srv [level $node] port]]
    set replies {}
    foreach command [list multi "slaveof $replicaof" "config rewrite" "client kill type normal" "client kill type pubsub" exec] {
        catch {$client {*}$command} reply
        lappend replies $reply
    }
    $client close
    return $replies
}

shard_of 2 {} {
    test "What a Sentinel sends to make a node a primary, or a replica, is refused as a whole, with what to do" {
        set leader [wait_for_shard]
        set follower [lindex [lsearch -all -inline -not [nodes] $leader] 0]
        foreach node [list $leader $follower] {
            set bystander [valkey $::host [srv [level $node] port]]
            foreach to [list "no one" "$::host [srv [level $leader] port]"] {
                set replies [reconfigure $node $to]
                assert_match {*this node is led by its log*} [lindex $replies 1]
                assert_match {EXECABORT*} [lindex $replies end]
            }
            assert_error {ERR this node is led by its log*Sentinel*} {on $node slaveof no one}
            assert_error {ERR this node is led by its log*} {on $node failover}
            assert_error {ERR this node is led by its log*} {on $node failover abort}
            # Not killed.
            assert_equal PONG [$bystander ping]
            $bystander close
        }
        assert_equal $leader [wait_for_shard]
    }

    test "A Sentinel that fails over, told to or because the leader dies, brings about nothing: the shard does" {
        set leader [wait_for_shard]
        set follower [lindex [lsearch -all -inline -not [nodes] $leader] 0]
        start_sentinel [srv [level $leader] port] [list [srv [level $follower] port]]
        # It sees the other node follow somebody else, and wants to mend that.
        wait_with_one_writer {[count_events +fix-slave-config] > 0} "the Sentinel does not see the follower"
        wait_with_one_writer {![catch {sentinel sentinel failover watched}]} "the Sentinel does not fail over"
        wait_with_one_writer {[count_events +failover-state-send-slaveof-noone] > 0} "the Sentinel promotes nobody"
        # It gives up.
        wait_with_one_writer {[count_events -failover-abort-slave-timeout] > 0} "the Sentinel does not give up"
        assert_equal $leader [current_leader]
        wait_for_role follower $follower
        wait_for_condition 3000 10 {![catch {on $leader set before 1}]} else {fail "the leader takes no write"}

        kill_node $leader
        wait_with_one_writer {[role_of $follower] eq "leader"} "nobody leads"
        wait_with_one_writer {[count_events +odown] > 0} "the Sentinel does not notice"
        assert_equal 1 [on $follower get before]
        restart_node $leader
        wait_with_one_writer {[role_of $leader] eq "follower"} "the node does not follow"
        assert_equal [list $follower] [writable]
        stop_sentinel
        wait_for_shard
        assert_same_data
    }
}

shard_of 2 {failover no} {
    test "With durability.failover no as well: nobody else leads when the leader is gone, whatever a Sentinel sends" {
        set leader [wait_for_shard]
        set follower [lindex [lsearch -all -inline -not [nodes] $leader] 0]
        on $leader set before 1
        start_sentinel [srv [level $leader] port] [list [srv [level $follower] port]]
        wait_with_one_writer {[count_events +slave] > 0 || [count_events +fix-slave-config] > 0} "the Sentinel does not see the follower"
        kill_node $leader
        wait_for_condition 9000 10 {[count_events +failover-state-send-slaveof-noone] > 0} else {
            fail "the Sentinel promotes nobody: [exec tail -n 20 [dict get $::sentinel output]]"
        }
        wait_for_condition 9000 10 {[count_events -failover-abort-slave-timeout] > 0} else {fail "the Sentinel does not give up"}
        assert_equal {} [writable]
        assert_equal follower [role_of $follower]
        assert_equal 1 [on $follower get before]
        restart_node $leader
        wait_for_role leader $leader
        assert_equal [list $leader] [writable]
        stop_sentinel
    }
}

shard_of 2 {allow-replicaof yes} {
    test "With durability.allow-replicaof yes a Sentinel may take a leader away from its log, but no two nodes take writes" {
        set leader [wait_for_shard]
        set follower [lindex [lsearch -all -inline -not [nodes] $leader] 0]
        start_sentinel [srv [level $leader] port] [list [srv [level $follower] port]]
        wait_with_one_writer {[count_events +fix-slave-config] > 0} "the Sentinel does not see the follower"
        # What it sends a follower is refused as a whole all the same: it would keep settings that are the log's.
        assert_equal follower [role_of $follower]
        wait_with_one_writer {![catch {sentinel sentinel failover watched}]} "the Sentinel does not fail over"
        wait_with_one_writer {[count_events +failover-state-send-slaveof-noone] > 0} "the Sentinel promotes nobody"
        wait_with_one_writer {[count_events +failover-end] > 0 || [count_events -failover-abort-slave-timeout] > 0} "the Sentinel does not end"
        assert_equal follower [role_of $follower]
        stop_sentinel

        # As one would that took the other node for the primary.
        set replies [reconfigure $leader "$::host [srv [level $follower] port]"]
        assert_equal {OK OK} [lrange [lindex $replies end] 0 1]
        wait_for_role replica $leader
        wait_with_one_writer {[role_of $follower] eq "leader"} "nobody leads"
        assert_equal [list $follower] [writable]
    }
}

shard_of 2 {} {
    test "A Sentinel that takes the log service for a primary does no harm, also when that is away" {
        set leader [wait_for_shard]
        start_sentinel [log_option port] {}
        # It asks it for INFO, subscribes to it, and tells of itself there, again and again.
        wait_with_one_writer {[llength [log_service sentinel replicas $::shard]] == 1} "the log service does not answer"
        set link [lindex [sentinel sentinel masters] 0]
        assert_equal master [dict get $link flags]
        kill_log
        wait_with_one_writer {[count_events +odown] > 0} "the Sentinel does not notice"
        wait_with_one_writer {[count_events -failover-abort-no-good-slave] > 0} "the Sentinel does not give up"
        start_log
        wait_with_one_writer {[count_events -odown] > 0} "the Sentinel does not see it again"
        stop_sentinel
        wait_for_shard
        assert_same_data
    }
}
