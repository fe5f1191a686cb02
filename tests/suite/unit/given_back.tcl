# A node that is told to end, or to have no log, gives its lease back, whatever it was in the middle of.

source $::env(SUITE_SUPPORT)/durability.tcl

proc leader_of_log {} {
    dict get [log_service LOG.STATUS $::shard] leader
}

proc begin_in_vain {} {
    set lines [count_log_lines 0]
    r durability.mode sync
    wait_for_log_messages 0 {"*sending the snapshot to the log service failed*"} $lines 3000 10
    assert_equal leader [figure role]
    assert {[leader_of_log] ne ""}
}

# A server that was granted the lease and tries, in vain, to start the log from its data: without HTTP there is nowhere to send them.
new_log
dict set ::log_service http_host 127.0.0.3
start_log
start_server [server_options {mode off}] {
    test "A node that is not done with starting its log gives the lease back when its mode becomes off" {
        r set key value
        begin_in_vain
        r durability.mode off
        wait_for_condition 3000 10 {[leader_of_log] eq ""} else {fail "[leader_of_log] has the lease"}
    }

    test "A node that is not done with starting its log gives the lease back when it is shut down" {
        begin_in_vain
        catch {r shutdown now nosave}
        wait_for_condition 3000 10 {![is_alive [srv 0 pid]]} else {fail "the server does not end"}
        assert_equal {} [leader_of_log]
    }
}
kill_log

# A node whose LOG.ACQUIRE takes long to arrive.
new_log
start_log
set arrives [tmpfile arrives]
lassign [start_relay holds [list $::host [log_option port] LOG.ACQUIRE $arrives]] relay relay_port
start_server [server_options [list log $::host:$relay_port mode off]] {
    test "A lease that is granted to a node after its mode has become off is given back" {
        wait_for_condition 3000 10 {[ping_server $::host $relay_port]} else {fail "the relay does not start"}
        set lines [count_log_lines 0]
        r durability.mode sync
        wait_for_log_messages 0 {"*the log of shard * ends at offset 0, epoch 0*"} $lines 3000 10
        wait_for_condition 3000 10 {[file exists $arrives.held]} else {fail "it does not ask"}
        set lines [count_log_lines 0]
        r durability.mode off
        # Longer than it takes for what is left to do.
        after 2000
        close [open $arrives w]
        wait_for_condition 3000 10 {[dict get [log_service LOG.STATUS $::shard] epoch] == 1} else {fail "it has not asked"}
        wait_for_condition 3000 10 {[leader_of_log] eq ""} else {fail "[leader_of_log] has the lease"}
        wait_for_log_messages 0 {"*released the lease of epoch 1*"} $lines 3000 10
        assert_equal {} [figure last_error]
    }
}
stop_relay $relay
kill_log
