# What the module does beside clients' commands waits while another module's command lets the server go on in its middle (RM_Yield).

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# A connection to the log service of which replies are read later.
proc valkey_deferring_client_of_log {} {
    valkey $::host [log_option admin] 1
}

# In the log of the server the first lines that hold these texts stand in this order.
proc verify_lines_are_in_order {from texts} {
    set found [lmap text $texts {exec tail -n +[expr {$from + 1}] [srv 0 stdout] | grep -n -m 1 -F $text | cut -d: -f1}]
    assert_equal [lsort -integer $found] $found
}

# Runs `code` in the middle of a module's command that has written the key, and then lets that go on. Returns its answer.
proc while_yielding {key value code} {
    set lines [count_log_lines 0]
    set caller [valkey_deferring_client]
    $caller tm.set_and_yield $key $value
    $caller flush
    wait_for_log_messages 0 {"*tm: yields*"} $lines 3000 10
    set failed [catch {uplevel 1 $code} result options]
    # The usual connection may have been closed, and this one may be before it is answered.
    catch {on n0 tm.go}
    if {$failed} {return -options $options $result}
    wait_for_log_messages 0 {"*tm: goes on*"} $lines 3000 10
    set answer [read_any_reply $caller]
    $caller close
    return $answer
}

durable_server {test-module {} server {busy-reply-threshold 1}} {
    test "An audit does not see what a module's command has written and not replicated yet" {
        r set audited before
        set auditor [valkey_deferring_client_of_log]
        assert_equal OK [while_yielding audited after {
            $auditor LOG.AUDIT $::shard KEYS 100
            $auditor flush
            wait_for_condition 3000 10 {[dict get [log_service LOG.STATUS $::shard] audit_state] eq "running"} else {
                fail "no audit begins"
            }
            # The engine starts, and the leader is asked, in less; however long it takes, nothing is read before the command is over.
            after 2000
            assert_equal running [dict get [log_service LOG.STATUS $::shard] audit_state]
        }]
        assert {[is_readable $auditor 60000]}
        assert_equal 0 [dict get [$auditor read] differences]
        $auditor close
    }

    test "Another leader's turn does not close clients in the middle of a module's command, but after it" {
        set lines [count_log_lines 0]
        assert_match {*I/O error*} [while_yielding key value {
            log_service LOG.RELEASE $::shard [dict get [log_service LOG.STATUS $::shard] epoch] FORCE
            hold_lease
            # The agent learns of it, and would have clients closed.
            after 1000
        }]
        wait_for_log_messages 0 {"*not serving clients: another node leads*"} $lines 3000 10
        verify_lines_are_in_order $lines {"tm: goes on" "not serving clients: another node leads"}
        wait_for_condition 3000 10 {[catch {r ping}]} else {fail "clients are not closed"}
        reconnect
        wait_until_following
        release_lease
        wait_until_leading
    }
}
