# At the lag limit writes are refused, reads go on, and writes are taken again when the log has caught up.

source $::env(SUITE_SUPPORT)/durability.tcl

# Writes a key, runs `code` while nothing is acknowledged, and sees that the lag is then the time since the write.
proc assert_lag_is_time_since_write {code} {
    while_frozen {
        set before_write [clock milliseconds]
        r set counted 1
        set after_write [clock milliseconds]
        uplevel 1 $code
        set before_look [clock milliseconds]
        set lag_ms [r durability.lag]
        set after_look [clock milliseconds]
        assert_morethan_equal $lag_ms [expr {$before_look - $after_write - 1}]
        assert_lessthan_equal $lag_ms [expr {$after_look - $before_write + 20}]
    }
    wait_until_durable
}

# Without the PINGs of replication nothing but the tests' own writes moves the offset.
durable_server {mode async} {
    test "The lag is the time since the oldest write that is not acknowledged ran" {
        assert_equal 0 [r durability.lag]
        assert_lag_is_time_since_write {
            after 100
            r set younger 1
            after 100
        }
        assert_equal 0 [r durability.lag]
    }

    test "The lag counts on while the tap is disconnected" {
        set reconnects [figure tap_reconnects]
        assert_lag_is_time_since_write {
            for {set i 0} {$i < 3} {incr i} {
                r client kill type replica
                r set while-disconnected $i
                wait_for_condition 500 10 {[figure tap_reconnects] > $reconnects + $i && [s connected_slaves] == 1} else {
                    fail "the tap is not opened again"
                }
            }
        }
    }

    test "The lag counts on while the connection to the log is cut and the log stands still" {
        set pid [log_option pid]
        pause_process $pid
        set before_write [clock milliseconds]
        r set counted 1
        after 200
        assert_range [r durability.lag] 199 [expr {[clock milliseconds] - $before_write + 20}]
        resume_process $pid
        wait_until_durable
    }

    test "A write counts from the moment it ran, also while the server is busy" {
        while_frozen {
            set client [valkey_deferring_client]
            set before_write [clock milliseconds]
            send_all $client {{set busy 1} {debug sleep 0.4} {durability.lag}}
            assert_equal {OK OK} [list [read_reply $client] [read_reply $client]]
            set lag_ms [read_reply $client]
            assert_range $lag_ms 400 [expr {[clock milliseconds] - $before_write + 20}]
            $client close
        }
        wait_until_durable
    } {} {needs:debug}

    test "DURABILITY.LAG HISTORY shows the greatest lag of each second" {
        set before_write [clock milliseconds]
        while_frozen {
            r set second 1
            wait_for_condition 500 10 {[r durability.lag] >= 1100} else {
                fail "the lag does not grow"
            }
        }
        wait_until_durable
        set longest_ms [expr {[clock milliseconds] - $before_write + 20}]
        set history [r durability.lag HISTORY]
        assert_range [llength $history] 2 600
        set previous [expr {[lindex $history 0 0] - 1}]
        foreach pair $history {
            assert_equal [incr previous] [lindex $pair 0]
        }
        assert_range $previous [expr {[clock seconds] - 1}] [clock seconds]
        set maxima [lmap pair $history {lindex $pair 1}]
        assert_range [tcl::mathfunc::max {*}$maxima] 1100 $longest_ms
        wait_for_condition 500 10 {[lindex [r durability.lag history] end 1] == 0} else {
            fail "the lag of the last second is [lindex [r durability.lag history] end]"
        }
        assert_error {*usage*} {r durability.lag now}
        assert_error {*wrong number*} {r durability.lag history 10}
    }
}

proc wait_until_refusing {expected} {
    wait_for_condition 500 10 {[figure refusing_writes] == $expected} else {
        fail "expected refusing_writes $expected, lag is [figure lag_ms] ms"
    }
}

# Freezes the log, writes, and runs `code` when the limit has been reached.
proc while_refusing {code} {
    while_frozen {
        set writer [valkey_deferring_client]
        $writer set before-limit 1
        wait_until_refusing 1
        uplevel 1 $code
    }
    assert_equal OK [read_reply $writer]
    $writer close
    wait_until_refusing 0
}

foreach mode {async sync} {
    # Without the PINGs of replication nothing but the tests' own writes moves the offset.
    durable_server [list mode $mode max-lag-ms 300] {
        r set present value

        test "At the limit writes are refused and reads go on ($mode)" {
            while_refusing {
                assert_error {CLUSTERDOWN durability: *limit 300 ms*} {r set present other}
                assert_error {CLUSTERDOWN*} {r del present}
                assert_error {CLUSTERDOWN*} {r flushall}
                assert_equal value [r get present]
                assert_morethan_equal [r durability.lag] 300
                assert_morethan [figure refused_commands] 0
            }
            assert_equal OK [r set present value]
        }

        test "At the limit a transaction with a write aborts as a whole, one that reads passes ($mode)" {
            while_refusing {
                r multi
                assert_equal QUEUED [r get present]
                assert_error {*} {r set present other}
                assert_error {EXECABORT*} {r exec}
                r multi
                assert_equal QUEUED [r get present]
                assert_equal value [r exec]
            }
            assert_equal value [r get present]
        }

        test "A transaction that was queued before the limit applies wholly or not at all ($mode)" {
            set transaction [valkey_deferring_client]
            foreach command {multi {set half-a 1} {set half-b 1}} {$transaction {*}$command}
            foreach expected {OK QUEUED QUEUED} {assert_equal $expected [read_reply $transaction]}
            while_refusing {
                $transaction exec
            }
            read_any_reply $transaction
            assert_equal [r get half-a] [r get half-b]
            $transaction close
        }

        test "At the limit a script that reads passes, one that writes is refused and has written nothing ($mode)" {
            while_refusing {
                assert_equal value [r eval {return redis.call('get', KEYS[1])} 1 present]
                assert_error {*CLUSTERDOWN*} {
                    r eval {redis.call('set', KEYS[1], 'a'); redis.call('set', KEYS[2], 'b')} 2 present script-key
                }
                assert_equal value [r get present]
            }
            assert_equal 0 [r exists script-key]
        }

        test "A log service that is gone for longer than the limit, and comes back ($mode)" {
            kill_log
            set writer [valkey_deferring_client]
            $writer set outage 1
            wait_until_refusing 1
            assert_error {CLUSTERDOWN*} {r set present other}
            assert_equal value [r get present]
            wait_for_condition 500 10 {[figure last_error] ne {}} else {
                fail "no error is shown"
            }
            start_log
            assert_equal OK [read_reply $writer]
            wait_until_refusing 0
            assert_equal OK [r set present value]
            assert_equal 1 [r get outage]
            assert_equal {} [figure last_error]
            $writer close
        }

        test "A log service that stands still, and goes on ($mode)" {
            pause_process [log_option pid]
            set writer [valkey_deferring_client]
            $writer set still 1
            wait_until_refusing 1
            assert_equal value [r get present]
            resume_process [log_option pid]
            assert_equal OK [read_reply $writer]
            wait_until_refusing 0
            assert_equal 1 [r get still]
            $writer close
        }

        test "Writes are taken again also if a client sees the end of the lag before the server does ($mode)" {
            set looker [valkey_deferring_client]
            while_refusing {
                # The acknowledgement comes while the server sleeps, and the next command asks for the lag.
                $looker write [format_command debug sleep 0.2][format_command durability.lag]
                $looker flush
            }
            assert_equal OK [read_reply $looker]
            assert_equal 0 [read_reply $looker]
            $looker close
        } "*" {needs:debug}
    }
}
