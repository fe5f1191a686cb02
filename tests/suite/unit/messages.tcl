# Messages tell of writes as replies do: they leave when the log has acknowledged what was written before them.

source $::env(SUITE_SUPPORT)/durability.tcl

proc subscriber {args} {
    set client [valkey_deferring_client]
    $client {*}$args
    assert_match *subscribe* [read_reply $client]
    return $client
}

# Writes a key without waiting for the reply, and without saying who is held besides the writer.
proc write_key {key} {
    set client [valkey_deferring_client]
    $client set $key dirty
    return $client
}

# A client in RESP3 that tracks what it reads.
proc tracking_client {args} {
    set client [valkey_deferring_client]
    $client hello 3
    read_reply $client
    $client client tracking on {*}$args
    assert_equal OK [read_reply $client]
    return $client
}

# What is published to `news` after a write waits for it. The subscriber is closed.
proc assert_message_is_held {subscriber} {
    while_frozen {
        set writer [dirty_key before]
        r publish news told
        wait_for_held 2
        assert_silent $subscriber
    }
    assert_equal {message news told} [read_reply $subscriber]
    assert_equal OK [read_reply $writer]
    $writer close
    $subscriber close
}

proc test_messages {with} {
    test "A keyspace notification of a write is held until the write is durable ($with)" {
        r config set notify-keyspace-events KEA
        set subscriber [subscriber psubscribe __key*__:*]
        while_frozen {
            set writer [write_key noticed]
            wait_for_held 2
            assert_silent $subscriber
        }
        assert_match {pmessage * __keyspace@9__:noticed set} [read_reply $subscriber]
        assert_match {pmessage * __keyevent@9__:set noticed} [read_reply $subscriber]
        assert_equal OK [read_reply $writer]
        r config set notify-keyspace-events {}
        $writer close
        $subscriber close
    }

    test "An invalidation leaves at once, and the read that follows it is held ($with)" {
        r set cached old
        foreach options {{} bcast} {
            set client [tracking_client {*}$options]
            $client get cached
            assert_match * [read_reply $client]
            while_frozen {
                set writer [write_key cached]
                wait_for_held 1
                assert_equal {invalidate cached} [read_reply $client]
                $client get cached
                wait_for_held 2
                assert_silent $client
            }
            assert_equal dirty [read_reply $client]
            assert_equal OK [read_reply $writer]
            r set cached old
            $writer close
            $client close
        }
    }

    test "A message that is published after a write is held until the write is durable ($with)" {
        foreach {subscribe publish kind} {subscribe publish message ssubscribe spublish smessage} {
            set subscriber [subscriber $subscribe news]
            while_frozen {
                set writer [dirty_key before]
                assert_equal 1 [r $publish news told]
                wait_for_held 2
                assert_silent $subscriber
            }
            assert_equal [list $kind news told] [read_reply $subscriber]
            assert_equal OK [read_reply $writer]
            $writer close
            $subscriber close
        }
    }

    test "A message is not held when nothing was written, also if nothing is acknowledged ($with)" {
        set subscriber [subscriber subscribe news]
        wait_until_durable
        while_frozen {
            assert_equal 1 [r publish news idle]
            assert_equal {message news idle} [read_reply $subscriber]
        }
        $subscriber close
    }

    test "A client that tracks keys reads clean ones at once while another key is dirty ($with)" {
        r set clean value
        set client [tracking_client]
        while_dirty other {
            $client get clean
            assert_equal value [read_reply $client]
        }
        $client close
    }

    test "Messages and replies keep their order, each held for what it tells ($with)" {
        set client [valkey_deferring_client]
        $client hello 3
        read_reply $client
        $client subscribe news
        assert_match *subscribe* [read_reply $client]
        while_frozen {
            set writer [dirty_key before]
            r publish news told
            wait_for_held 2
            $client ping
            assert_silent $client
        }
        assert_equal {message news told} [read_reply $client]
        assert_equal PONG [read_reply $client]
        assert_equal OK [read_reply $writer]
        $writer close
        $client close
    }

    test "A subscriber that leaves while a message is held is forgotten ($with)" {
        set subscriber [subscriber subscribe news]
        while_frozen {
            set writer [dirty_key before]
            r publish news told
            wait_for_held 2
            $subscriber close
            wait_for_held 1
        }
        assert_equal OK [read_reply $writer]
        wait_for_held 0
        $writer close
    }
}

durable_server {} {
    test_messages TCP

    test "Who subscribed before sync mode is held as well" {
        r durability.mode off
        set subscriber [subscriber subscribe news]
        r durability.mode sync
        wait_until_leading
        wait_until_durable
        assert_message_is_held $subscriber
    }
}

durable_server {server {io-threads 4 io-threads-always-active yes}} {
    test_messages "I/O threads"
}

new_log
start_log
start_server [list overrides [dict create save {} loadmodule $::env(DURABILITY_SO) \
    durability.log $::host:[log_option port] durability.shard $::shard] \
    config_lines [list rename-command "SUBSCRIBE listen"] tags {external:skip tls:skip}] {
    wait_until_leading

    test "A renamed SUBSCRIBE brings messages as well, which are held" {
        set subscriber [valkey_deferring_client]
        $subscriber listen news
        assert_equal {subscribe news 1} [read_reply $subscriber]
        assert_message_is_held $subscriber
    }
}
kill_log
