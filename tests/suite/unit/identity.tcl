# A log has an identity: nodes neither follow nor feed another log in its place, nor an older copy of it, without an operator's word.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# --- Ways to exchange the storage of the log service, which must not run meanwhile ---------------------------------------

proc copy_of_log {name} {
    set copy [log_option directory].$name
    file delete -force $copy
    file copy [log_option directory] $copy
}

proc use_copy {name} {
    file delete -force [log_option directory]
    file copy [log_option directory].$name [log_option directory]
}

proc use_empty_log {} {
    file delete -force [log_option directory]
    file mkdir [log_option directory]
}

# Runs `code` while the log service does not run.
proc while_log_is_down {code} {
    kill_log
    uplevel 1 $code
    start_log
}

# The directory of another log of the same shard, with so many bytes that the leader of that epoch wrote. A log service makes it that does
# not run any more.
proc longer_log {epoch bytes} {
    set right $::log_service
    new_log
    start_log
    for {set granted 0} {$granted < $epoch} {incr granted} {
        lassign [log_service LOG.ACQUIRE $::shard other 127.0.0.1:1 0 0] led
    }
    assert_equal $epoch $led
    log_service LOG.BEGIN $::shard $epoch [string repeat a 40] 0
    log_service LOG.APPEND $::shard $epoch 0 [string repeat x $bytes]
    kill_log
    set directory [log_option directory]
    set ::log_service $right
    return $directory
}

proc keys_of {node} {
    set keys 0
    regexp {keys=(\d+)} [on $node info keyspace] _ keys
    return $keys
}

proc write_keys {node prefix count} {
    for {set i 0} {$i < $count} {incr i} {on_same $node set $prefix:$i value}
}

# Commands on one connection.
proc on_same {node args} {
    if {![info exists ::same] || [lindex $::same 0] ne $node} {
        catch {[lindex $::same 1] close}
        set ::same [list $node [valkey $::host [srv [level $node] port]]]
    }
    [lindex $::same 1] {*}$args
}

proc leave_same {} {
    catch {[lindex $::same 1] close}
    unset -nocomplain ::same
}

proc wait_for_keys {node count} {
    wait_for_condition 1000 10 {[keys_of $node] == $count} else {fail "$node has [keys_of $node] keys, not $count"}
}

proc log_field {name} {
    dict get [log_service LOG.STATUS $::shard] $name
}

proc others_than {leader} {
    lsearch -all -inline -not -exact [nodes] $leader
}

# A leader with 100 keys, of which there is a copy called `old`, and with 1000 more that all nodes have, in a copy called `right`.
# Returns the leader.
proc shard_with_an_old_copy {} {
    set leader [wait_for_shard]
    on $leader flushall
    write_keys $leader before 100
    leave_same
    while_log_is_down {copy_of_log old}
    set leader [wait_for_shard]
    write_keys $leader after 1000
    leave_same
    foreach node [nodes] {wait_for_keys $node 1100}
    # What followers have applied they have also told.
    wait_for_condition 500 10 {[regexp -all {lag_bytes=0,} [log_service LOG.STATUS $::shard]] == [node_count]} else {
        fail "not all nodes have told what they have"
    }
    return $leader
}

# --- Rolled back ------------------------------------------------------------------------------------------------------

# A leader's lease outlasts the time in which its log's files are copied.
shard_of 2 {lease-ms 3000} {
    test "A follower that has more than a log which was rolled back drops nothing, and nobody leads" {
        set leader [shard_with_an_old_copy]
        set other [others_than $leader]
        kill_node $leader
        while_log_is_down {
            copy_of_log right
            use_copy old
        }
        wait_for_role refused $other
        assert_match "*was rolled back*DURABILITY.ACCEPT-LOG [log_field log_id] SEED*" [figure_of $other last_error]
        assert_error "ERR*was rolled back*" {on $other get before:1}
        assert_equal 1100 [keys_of $other]
        wait_for_condition 500 10 {[string match "$other at *GAP*" [log_field contradicted_by]]} else {
            fail "the log service does not tell: [log_field contradicted_by]"
        }
        # One that knows nothing does not lead in its place.
        restart_node $leader
        wait_for_condition 1000 10 {[string match "*so says node $other*LOG.ACCEPT*" [figure_of $leader last_error]]} else {
            fail "it says [figure_of $leader last_error]"
        }
        assert_equal {} [current_leader]
        assert_equal 1100 [keys_of $other]
        set ::roles [list $leader $other]
    }

    test "When the right log is put back, nodes go on by themselves" {
        while_log_is_down {use_copy right}
        wait_for_shard
        foreach node [nodes] {wait_for_keys $node 1100}
        assert_equal {} [figure_of [lindex $::roles 1] log_contradiction]
        assert_equal {} [log_field contradicted_by]
        on [current_leader] set after:put-back value
        assert_same_data
    }

    test "An operator can start a log that was rolled back anew from a node's data" {
        set leader [shard_with_an_old_copy]
        set other [others_than $leader]
        kill_node $leader
        while_log_is_down {use_copy old}
        wait_for_role refused $other
        assert_error "ERR the log has another id: [log_field log_id]" {on $other durability.accept-log other seed}
        assert_error "ERR usage:*" {on $other durability.accept-log [log_field log_id] other}
        assert_equal OK [on $other durability.accept-log [log_field log_id] seed]
        wait_for_role leader $other
        assert_equal 1100 [keys_of $other]
        assert_equal value [on $other get after:999]
        restart_node $leader
        wait_for_shard
        wait_for_keys $leader 1100
        assert_same_data
        assert_error "ERR nothing is to be accepted*" {on $other durability.accept-log [log_field log_id]}
    }

    test "An operator can accept a log that was rolled back: nodes take what it has" {
        set leader [shard_with_an_old_copy]
        set other [others_than $leader]
        kill_node $leader
        while_log_is_down {use_copy old}
        wait_for_role refused $other
        assert_equal OK [on $other durability.accept-log [log_field log_id]]
        wait_for_leader $leader
        assert_equal 100 [keys_of $other]
        restart_node $leader
        wait_for_shard
        assert_same_data
    }

    test "A node that knows nothing leads a log that others contradict if an operator says so to the log service" {
        set leader [shard_with_an_old_copy]
        set other [others_than $leader]
        kill_node $leader
        while_log_is_down {use_copy old}
        wait_for_role refused $other
        restart_node $leader
        assert_error "OTHERLOG [log_field log_id] *" {log_service LOG.ACCEPT $::shard other}
        assert_equal OK [log_service LOG.ACCEPT $::shard [log_field log_id]]
        wait_for_role leader $leader
        assert_equal 100 [keys_of $leader]
        assert_equal refused [role_of $other]
        assert_equal 1100 [keys_of $other]
        assert_equal OK [on $other durability.accept-log [log_field log_id]]
        wait_for_shard
        assert_same_data
    }

    # --- Empty --------------------------------------------------------------------------------------------------------

    test "Followers of a log that comes back empty keep their data, and nobody begins it" {
        set leader [wait_for_shard]
        on $leader flushall
        write_keys $leader key 1000
        leave_same
        set other [others_than $leader]
        wait_for_keys $other 1000
        kill_node $leader
        while_log_is_down use_empty_log
        wait_for_role refused $other
        assert_match "*OTHERLOG*" [figure_of $other log_contradiction]
        verify_log_message [level $other] "*refusing clients until an operator acts*OTHERLOG*" 0
        restart_node $leader
        wait_for_condition 1000 10 {[string match "*so says node $other*" [figure_of $leader last_error]]} else {
            fail "it says [figure_of $leader last_error]"
        }
        assert_equal 0 [log_field seeded]
        assert_equal 1000 [keys_of $other]
        assert_match "*THIS MAY BE THE WRONG LOG*" [exec cat [log_option directory].output]
    }

    test "An empty log that an operator accepts starts from the node's data" {
        foreach node [nodes] {if {[role_of $node] eq "refused"} {set other $node}}
        assert_equal OK [on $other durability.accept-log [log_field log_id]]
        wait_for_role leader $other
        assert_equal 1000 [keys_of $other]
        wait_for_shard
        foreach node [nodes] {wait_for_keys $node 1000}
        assert_same_data
    }

    # --- The leader is idle -------------------------------------------------------------------------------------------

    test "A log that is rolled back under an idle leader is noticed without a write" {
        set leader [shard_with_an_old_copy]
        while_log_is_down {
            copy_of_log right
            use_copy old
        }
        foreach node [nodes] {wait_for_role refused $node}
        foreach node [nodes] {assert_equal 1100 [keys_of $node]}
        while_log_is_down {use_copy right}
        wait_for_shard
        foreach node [nodes] {wait_for_keys $node 1100}
    }
}

durable_server {} {
    test "A log that is rolled back under an idle leader whose lease never expires is noticed without a write" {
        r set before value
        wait_until_durable
        while_log_is_down {copy_of_log old}
        r set after value
        wait_until_durable
        while_log_is_down {use_copy old}
        wait_for_role refused n0
        assert_error "ERR*was rolled back*" {on n0 get after}
        assert_equal 2 [keys_of n0]
    }
}

durable_server {} {
    test "A node that has accepted a log which was rolled back does not free the lease of its epoch, which another node has there" {
        r set before value
        wait_until_durable
        while_log_is_down {copy_of_log old}
        wait_until_leading
        r durability.mode off
        r durability.mode sync
        wait_until_leading
        r set after value
        wait_until_durable
        set epoch [figure epoch]
        # It finds that the log went back when another node leads already.
        pause_process [srv 0 pid]
        while_log_is_down {use_copy old}
        lassign [hold_lease] held
        assert_equal $epoch $held
        resume_process [srv 0 pid]
        wait_for_role refused n0
        assert_equal OK [on n0 durability.accept-log [log_field log_id]]
        wait_for_role follower n0
        catch {on n0 shutdown nosave now}
        wait_for_condition 3000 10 {![is_alive [srv 0 pid]]} else {fail "the server does not end"}
        assert_equal [list $epoch somebody] [list [log_field epoch] [log_field leader]]
    }
}

# --- Exchanged ----------------------------------------------------------------------------------------------------------

foreach mode {sync async} {
    durable_server [list mode $mode] {
        test "A longer log of the same shard and epoch in place of the right one acknowledges nothing ($mode)" {
            r set before value
            wait_until_durable
            set other [longer_log [figure epoch] 100000]
            while_log_is_down {
                file delete -force [log_option directory]
                file copy $other [log_option directory]
            }
            set acknowledged 0
            for {set i 0} {$i < 50} {incr i} {
                if {![catch {on n0 set key:$i value} reply] && $reply eq "OK"} {incr acknowledged}
            }
            if {$mode eq "sync"} {assert_equal 0 $acknowledged}
            wait_for_role refused n0
            assert_match "*OTHERLOG*" [figure_of n0 log_contradiction]
            assert_equal 100000 [log_field end]
        }
    }
}

durable_server {} {
    test "What a log holds in place of a leader's bytes is refused until an operator's word arrives, and led by nobody" {
        on n0 set before value
        wait_until_durable
        # As if it had been exchanged between two appends.
        log_service LOG.APPEND $::shard [figure epoch] [log_field end] [string repeat x 1000]
        catch {on n0 set after value}
        wait_for_role refused n0
        assert_equal 2 [keys_of n0]
        set id [log_field log_id]
        assert_match "*restart this server*DURABILITY.ACCEPT-LOG $id SEED*" [figure_of n0 last_error]
        wait_for_condition 500 10 {[string match "* at *GAP*other bytes*" [log_field contradicted_by]]} else {
            fail "the log service does not tell: [log_field contradicted_by]"
        }
        set acquire [list LOG.ACQUIRE $::shard other 127.0.0.1:1 [log_field end] 0]
        # Looking again does not end it.
        for {set i 0} {$i < 15} {incr i} {
            assert_error "OTHERLOG *so says node*" {log_service {*}$acquire}
            after 100
        }
        # A word that does not arrive changes nothing.
        while_log_is_down {
            assert_equal OK [on n0 durability.accept-log $id seed]
            wait_for_log_messages 0 [list "*the log $id is not accepted*"] 0 100 100
        }
        wait_for_condition 500 10 {[string match "* at *" [log_field contradicted_by]]} else {fail "it contradicts no more"}
        assert_equal refused [role_of n0]
        on n0 config set durability.mode off
        wait_for_condition 500 10 {[role_of n0] ne "refused"} else {fail "it has a log"}
        on n0 config set durability.mode sync
        wait_for_role refused n0
        assert_equal 2 [keys_of n0]
        assert_equal OK [on n0 durability.accept-log $id seed]
        wait_for_role leader n0
        assert_equal value [on n0 get after]
        assert_equal {} [log_field contradicted_by]
    }
}

# --- An operator takes the lease from a leader that lives ------------------------------------------------------------------

shard_of 2 {lease-ms 10000} {
    test "LOG.RELEASE grants the lease to nobody else before the leader answers nobody any more" {
        set leader [wait_for_shard]
        set other [others_than $leader]
        on $leader set key old
        wait_for_condition 500 10 {[on $other get key] eq "old"} else {fail "no write arrives"}
        set reader [valkey $::host [srv [level $leader] port] 1]
        $reader ping
        assert_equal PONG [read_reply $reader]
        set epoch [log_field epoch]
        stop_node $leader
        # It is read when the node goes on, which may still answer then.
        $reader get key
        set operator [valkey $::host [log_option port] 1]
        $operator LOG.RELEASE $::shard $epoch
        assert {![is_readable $operator 1000]}
        assert_equal follower [role_of $other]
        assert_equal $epoch [log_field epoch]
        continue_node $leader
        assert_equal OK [read_reply $operator]
        $operator close
        catch {$reader read} answer
        assert {$answer eq "old" || [string match "*I/O error*" $answer]}
        catch {$reader close}
        wait_for_leader
        assert_morethan [log_field epoch] $epoch
        wait_for_shard
    }

    test "LOG.RELEASE of a leader that is gone answers when its lease has passed, and with FORCE at once" {
        set leader [wait_for_shard]
        foreach node [nodes] {on $node config set durability.lease-ms 2000}
        wait_for_condition 500 10 {[log_field lease_ms] == 2000} else {fail "no shorter lease"}
        set epoch [log_field epoch]
        stop_node $leader
        set began [clock milliseconds]
        assert_equal OK [log_service LOG.RELEASE $::shard $epoch]
        assert_morethan [expr {[clock milliseconds] - $began}] 1000
        set next [wait_for_leader $leader]
        continue_node $leader
        wait_for_shard
        foreach node [nodes] {on $node config set durability.lease-ms 60000}
        wait_for_condition 500 10 {[log_field lease_ms] == 60000} else {fail "no longer lease"}
        kill_node $next
        assert_equal OK [log_service LOG.RELEASE $::shard [log_field epoch] FORCE]
        wait_for_leader $next
        restart_node $next
        wait_for_shard
    }
}

durable_server {} {
    test "LOG.RELEASE asks for FORCE if a leader does not answer whose lease never expires" {
        exec kill -STOP [srv 0 pid]
        assert_error "LEASED *never expires*LOG.RELEASE $::shard 1 FORCE" {log_service LOG.RELEASE $::shard 1}
        exec kill -CONT [srv 0 pid]
        # It is told when it goes on, and leads again.
        wait_for_condition 500 10 {[log_field epoch] == 2} else {fail "it leads in epoch [log_field epoch]"}
        reconnect
        wait_until_leading
        assert_equal OK [r set key value]
    }
}
