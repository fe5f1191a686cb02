# EXEC tells of the keys that its client watches, by what it does and by what it does not.

source $::env(SUITE_SUPPORT)/durability.tcl

proc watching_client {args} {
    set client [valkey_deferring_client]
    $client watch {*}$args
    assert_equal OK [read_reply $client]
    return $client
}

# Sends a whole transaction. Reads what is answered before EXEC, which is not held by itself.
proc send_transaction {client args} {
    send_all $client [list multi {*}$args]
    assert_equal OK [read_reply $client]
    foreach command $args {assert_match {QUEUED} [read_reply $client]}
    $client exec
}

durable_server {} {
    foreach {name queued} {
        "of nothing"        {}
        "that only reads"   {{get clean}}
        "that writes"       {{set other 1}}
        "that sees no data" {ping}
    } {
        test "A transaction $name, aborted because of a write that is not durable, is held" {
            r mset watched 1 clean value
            set watcher [watching_client watched]
            while_frozen {
                set writer [dirty_key watched]
                send_transaction $watcher {*}$queued
                wait_for_held 2
                assert_silent $watcher
            }
            assert_equal {} [read_reply $watcher]
            assert_equal OK [read_reply $writer]
            $watcher close
            $writer close
        }
    }

    test "A transaction that was aborted because of a FLUSHALL that is not durable is held" {
        r set watched 1
        set watcher [watching_client watched]
        set writer [valkey_deferring_client]
        while_frozen {
            $writer flushall
            wait_for_held 1
            send_transaction $watcher
            wait_for_held 2
            assert_silent $watcher
        }
        assert_equal {} [read_reply $watcher]
        assert_equal OK [read_reply $writer]
        $watcher close
        $writer close
    }

    test "A transaction that ran because a PERSIST that is not durable kept its watched key is held" {
        r set watched 1 px 200
        while_frozen {
            set writer [valkey_deferring_client]
            $writer persist watched
            wait_for_held 1
            set watcher [watching_client watched]
            # Without PERSIST the key would expire between WATCH and EXEC, which then aborts.
            after 300
            send_transaction $watcher ping
            wait_for_held 2
            assert_silent $watcher
        }
        assert_equal PONG [read_reply $watcher]
        assert_equal 1 [read_reply $writer]
        $watcher close
        $writer close
    }

    test "A transaction that ran, and reads and watches clean keys, is not held while another key is dirty" {
        r mset watched 1 clean value
        set watcher [watching_client watched]
        while_dirty dirty {
            send_transaction $watcher {get clean} {get watched}
            assert_equal {value 1} [read_reply $watcher]
            # With a script inside.
            send_transaction $watcher {eval "return server.call('get', 'clean')" 0}
            assert_equal value [read_reply $watcher]
            assert_equal 1 [figure held_clients]
        }
        $watcher close
    }

    test "A transaction that was aborted because of an error is not held" {
        set client [watching_client watched]
        while_dirty dirty {
            $client multi
            assert_equal OK [read_reply $client]
            $client no-such-command
            assert_match ERR* [read_any_reply $client]
            $client exec
            assert_match EXECABORT* [read_any_reply $client]
            assert_equal 1 [figure held_clients]
        }
        $client close
    }

    test "A transaction that was aborted because of a durable write is not held once all is durable" {
        r set watched 1
        set watcher [watching_client watched]
        r set watched 2
        wait_until_durable
        while_frozen {
            send_transaction $watcher {get watched}
            assert_equal {} [read_reply $watcher]
        }
        $watcher close
    }

    test "A consumer whose group a command destroyed that is not durable learns of it when that is" {
        r xgroup create stream g $ mkstream
        set waiter [valkey_deferring_client]
        $waiter xreadgroup group g c block 0 streams stream >
        wait_for_blocked_client
        set writer [valkey_deferring_client]
        while_frozen {
            $writer xgroup destroy stream g
            wait_for_held 2
            assert_silent $waiter
        }
        assert_match NOGROUP* [read_any_reply $waiter]
        assert_equal 1 [read_reply $writer]
        $waiter close
        $writer close
    }
}
