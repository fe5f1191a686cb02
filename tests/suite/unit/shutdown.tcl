# A server in async mode that is told to end loses nothing while it can reach its log.

source $::env(SUITE_SUPPORT)/durability.tcl

set ::load_connections 8

# Writes from several connections at once, for as long as the server is there. Returns {pid output}.
proc start_load {} {
    set output [tmpfile load]
    set helper $::env(SUITE_SUPPORT)/write_load.py
    set pid [exec python3 $helper [srv 0 host] [srv 0 port] 9 $::load_connections > $output 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid $output $::curfile]
    return [list $pid $output]
}

# Every connection has written that many.
proc wait_for_load {count} {
    for {set i 0} {$i < $::load_connections} {incr i} {
        wait_for_condition 500 10 {[r exists load:$i] && [r get load:$i] >= $count} else {
            fail "load:$i is not written"
        }
    }
}

proc wait_for_end {what pid} {
    wait_for_condition 1000 10 {![is_alive $pid]} else {
        fail "the $what does not end"
    }
}

# Runs `code`, which tells the server to end, while clients write, and `meanwhile`, while it waits for its log, if it is to
# wait. What the clients were told is there after the restart.
proc assert_loses_nothing {code {meanwhile {}} {waits 1}} {
    r flushall
    lassign [start_load] load output
    wait_for_load 200
    set lines [count_log_lines 0]
    uplevel 1 $code
    if {$waits} {wait_for_log_messages 0 {"*Waiting for replicas before shutting down*"} $lines 500 10}
    uplevel 1 $meanwhile
    wait_for_end server [srv 0 pid]
    wait_for_end load $load
    send_data_packet $::test_server_fd server-killed $load
    # It did not give up waiting.
    if {$waits} {verify_log_message 0 "*1 of 1 replicas are in sync when shutting down*" $lines}
    restart_server 0 true false
    wait_until_leading
    set written [split [string trim [exec cat $output]] \n]
    assert_equal $::load_connections [llength $written]
    foreach line $written {
        lassign $line key acknowledged sent
        assert_morethan_equal $acknowledged 200
        assert_range [r get $key] $acknowledged $sent
    }
}

proc tell_to_end {how} {
    if {$how eq "SIGTERM"} {
        exec kill -TERM [srv 0 pid]
    } else {
        # Its connection is closed with the server's others.
        set operator [valkey_deferring_client]
        $operator {*}$how
        $operator flush
    }
}

durable_server {mode async} {
    foreach how {SHUTDOWN SIGTERM} {
        test "Async: $how under load loses nothing" {
            assert_loses_nothing {tell_to_end $how}
        }

        test "Async: $how under load loses nothing if the log acknowledges late" {
            log_service LOG.DEBUG DELAY-ACKS $::shard 200
            assert_loses_nothing {
                wait_for_condition 500 10 {[r durability.lag] > 100} else {
                    fail "there is no lag"
                }
                tell_to_end $how
            }
            log_service LOG.DEBUG RESUME-ACKS $::shard
        }

        test "Async: $how under load loses nothing if the log stands still and goes on in time" {
            assert_loses_nothing {
                pause_process [log_option pid]
                # More than may be on its way to the log at once.
                wait_for_condition 500 10 {[figure pending_bytes] > 10000000} else {
                    fail "little is written: [figure pending_bytes]"
                }
                tell_to_end $how
            } {
                resume_process [log_option pid]
            }
        }
    }

    for {set i 0} {$i < 5} {incr i} {
        test "Async: SHUTDOWN NOW under load loses nothing, though the server does not wait ($i)" {
            assert_loses_nothing {tell_to_end {SHUTDOWN NOW}} {} 0
        }
    }

    foreach pause_ms {0 20 60} {
        test "Async: SHUTDOWN $pause_ms ms after a WAIT ends as soon as the log has everything" {
            r set before-wait 1
            r wait 1 1
            after $pause_ms
            set since [clock milliseconds]
            tell_to_end SHUTDOWN
            wait_for_end server [srv 0 pid]
            assert_lessthan [expr {[clock milliseconds] - $since}] 3000
            restart_server 0 true false
            wait_until_leading
            assert_equal 1 [r get before-wait]
        }
    }
}
