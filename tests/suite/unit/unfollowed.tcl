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
}
