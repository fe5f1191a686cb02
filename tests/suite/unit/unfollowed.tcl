# A node that had no log for a while, and comes back when others have led: what it has not written itself it can give up by itself.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# Its mode is off, and the other one has led and written since. Returns that one.
proc leave_log {node key} {
    on $node durability.mode off
    set other [lindex [lsearch -all -inline -not -exact [nodes] $node] 0]
    wait_for_role leader $other
    on $other set $key value
    return $other
}

shard_of 2 {} {
    test "A leader whose mode was off follows again by itself if nothing was written there" {
        set leader [wait_for_shard]
        on $leader set key before
        set other [leave_log $leader since-idle]
        assert_equal {} [on $leader get since-idle]
        on $leader durability.mode sync
        wait_for_role follower $leader
        wait_for_condition 3000 10 {[on $leader get since-idle] eq "value"} else {fail "it does not take the log's data"}
        assert_equal $other [current_leader]
        assert_same_data
    }

    test "What a node without its log wrote past its stream is gone when it follows again by itself" {
        set leader [wait_for_shard]
        set other [leave_log $leader since-hidden]
        # Moves no offset, and nobody completes the stream now.
        on $leader eval "server.set_repl(server.REPL_NONE); return server.call('set', 'hidden', 'v')" 0
        assert_equal v [on $leader get hidden]
        on $leader durability.mode sync
        wait_for_role follower $leader
        wait_for_condition 3000 10 {[on $leader get since-hidden] eq "value"} else {fail "it does not take the log's data"}
        assert_equal {} [on $leader get hidden]
        assert_equal $other [current_leader]
        assert_same_data
    }

    test "A follower whose mode was off follows again by itself if nothing was written there" {
        set leader [wait_for_shard]
        set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
        on $other durability.mode off
        wait_for_condition 3000 10 {[s [level $other] role] eq "master"} else {fail "the server still follows its log"}
        on $leader set since-following value
        on $other durability.mode async
        wait_for_role follower $other
        wait_for_condition 3000 10 {[on $other get since-following] eq "value"} else {fail "it does not take the log's data"}
        on $other durability.mode sync
        assert_same_data
    } {}

    test "One that wrote meanwhile keeps that until an operator's word, and says which" {
        set leader [wait_for_shard]
        set other [leave_log $leader since-written]
        on $leader set only-here value
        on $leader durability.mode sync
        wait_for_role refused $leader
        set log_id [dict get [log_service LOG.STATUS $::shard] log_id]
        assert_match "*did not follow while this node had no log*DURABILITY.ACCEPT-LOG $log_id takes*" [figure_of $leader last_error]
        assert_error "ERR*DURABILITY.ACCEPT-LOG $log_id takes*" {on $leader get only-here}
        assert_error "ERR the log has another id: $log_id" {on $leader durability.accept-log other}
        assert_error "ERR*others have led*" {on $leader durability.accept-log $log_id seed}
        # The log is not contradicted, so nobody is kept from leading.
        assert_equal {} [dict get [log_service LOG.STATUS $::shard] contradicted_by]
        on $leader durability.mode off
        assert_equal value [on $leader get only-here]
        on $leader durability.mode sync
        wait_for_role refused $leader
        assert_equal OK [on $leader durability.accept-log $log_id]
        wait_for_role follower $leader
        assert_equal {} [on $leader get only-here]
        wait_for_condition 3000 10 {[on $leader get since-written] eq "value"} else {fail "it does not take the log's data"}
        assert_equal {} [figure_of $leader last_error]
        assert_equal $other [current_leader]
        assert_same_data
        make_leader $leader
    }

    test "One that is told to have no log and to have it again while it catches up goes on by itself" {
        set leader [wait_for_shard]
        set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
        on $leader set in-snapshot value
        log_service LOG.SNAPSHOT $::shard
        on $other durability.mode off
        wait_for_condition 3000 10 {[string match *role:master* [on $other info replication]]} else {
            fail "the server still follows its log"
        }
        on $leader set since-paused value
        # It takes the snapshot, and applies nothing of what follows it.
        on $other client pause 600000 write
        on $other durability.mode async
        wait_for_condition 3000 10 {[string match */whole [lindex [on $other config get primaryuser] 1]]} else {
            fail "the server is not linked to its log"
        }
        assert_equal attaching [role_of $other]
        # In one packet: between them the server does nothing else.
        set client [valkey $::host [srv [level $other] port] 1]
        $client write "durability.mode off\r\ndurability.mode async\r\n"
        $client flush
        assert_equal {OK OK} [list [$client read] [$client read]]
        $client close
        on $other client unpause
        wait_for_role follower $other
        wait_for_condition 3000 10 {[on $other get since-paused] eq "value"} else {fail "it does not take the log's data"}
        on $other durability.mode sync
        assert_same_data
    }
}

# Leases that never expire, so that nothing here has to be done in time.
shard_of 2 {failover no mode async test-module {}} {
    foreach {what command} {
        "that its log did not get" {set only-here value}
        "past its stream" {tm.call_silent only-here value}
    } {
        test "What a leader wrote $what before its mode became off is kept until an operator's word" {
            set leader [wait_for_shard]
            set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
            on $leader set key value
            wait_for_condition 3000 10 {[figure_of $leader pending_bytes] == 0} else {fail "the log does not get all"}
            set epoch [figure_of $leader epoch]
            kill_log
            on $leader {*}$command
            on $leader durability.mode off
            wait_for_condition 3000 10 {[figure_of $leader epoch] == 0} else {fail "the term does not end"}
            start_log
            assert_equal OK [log_service LOG.RELEASE $::shard $epoch FORCE]
            wait_for_role leader $other
            on $leader durability.mode async
            wait_for_role refused $leader
            set log_id [dict get [log_service LOG.STATUS $::shard] log_id]
            assert_match "*DURABILITY.ACCEPT-LOG $log_id takes*" [figure_of $leader last_error]
            on $leader durability.mode off
            assert_equal value [on $leader get only-here]
            on $leader durability.mode async
            wait_for_role refused $leader
            assert_equal OK [on $leader durability.accept-log $log_id]
            wait_for_role follower $leader
            assert_same_data
            assert_equal {} [on $leader get only-here]
        }
    }
}
