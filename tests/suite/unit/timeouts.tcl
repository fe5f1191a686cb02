# durability.sync-timeout-ms: a client that waits too long for the log is closed, and never given a false answer.

source $::env(SUITE_SUPPORT)/durability.tcl

# Sees that the connection of `client`, which waits, ends without an answer, not before `after_ms` since `since`.
proc assert_closed {client since after_ms} {
    assert_match {*I/O error*} [read_any_reply $client]
    assert_morethan_equal [expr {[clock milliseconds] - $since}] $after_ms
    $client close
}

durable_server {} {
    # Before there is a timeout, which a busy machine may reach.
    r set present value
    r config set durability.sync-timeout-ms 300

    test "A reply that waits for longer than the timeout has its connection closed, others go on" {
        while_frozen {
            set since [clock milliseconds]
            set writer [valkey_deferring_client]
            set reader [valkey_deferring_client]
            set idle [valkey_client]
            $writer set key 1
            wait_for_held 1
            $reader get key
            assert_closed $writer $since 300
            assert_closed $reader $since 300
            wait_for_held 0
            assert_equal value [r get present]
            assert_equal PONG [$idle ping]
            $idle close
            assert_equal 2 [figure sync_timeouts]
        }
        # The write was not refused: the client was told nothing, and it is in the log.
        assert_equal 1 [r get key]
    }

    test "A reader that joins later waits for its own time" {
        while_frozen {
            set writer [valkey_deferring_client]
            $writer set key 2
            wait_for_held 1
            after 150
            set since [clock milliseconds]
            set reader [valkey_deferring_client]
            $reader get key
            assert_closed $writer $since 0
            assert_closed $reader $since 300
        }
    }

    test "A reply that the log acknowledges in time is given" {
        log_service LOG.DEBUG DELAY-ACKS $::shard 100
        r config set durability.sync-timeout-ms 60000
        set count [figure sync_timeouts]
        for {set i 0} {$i < 5} {incr i} {
            assert_equal OK [r set key $i]
        }
        assert_equal $count [figure sync_timeouts]
        log_service LOG.DEBUG RESUME-ACKS $::shard
    } {OK}

    test "A timeout that is set while clients wait counts for them from then on" {
        r config set durability.sync-timeout-ms 0
        while_frozen {
            set writer [valkey_deferring_client]
            $writer set key 3
            wait_for_held 1
            after 50
            assert_silent $writer
            set since [clock milliseconds]
            r config set durability.sync-timeout-ms 200
            assert_closed $writer $since 200
        }
        r config set durability.sync-timeout-ms 0
    } {OK}

    test "Async: nobody waits, and nobody is closed" {
        r config set durability.sync-timeout-ms 50
        r durability.mode async
        set count [figure sync_timeouts]
        while_frozen {
            assert_equal OK [r set key 4]
            wait_for_condition 500 10 {[r durability.lag] > 100} else {
                fail "the lag does not grow"
            }
            assert_equal 4 [r get key]
        }
        assert_equal $count [figure sync_timeouts]
    }
}
