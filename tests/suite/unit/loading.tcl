# While a node holds what its log has not confirmed, nobody is notified of keys.

source $::env(SUITE_SUPPORT)/durability.tcl

# A client of a server that loads or attaches.
proc early_client {} {
    set client {}
    wait_for_condition 500 10 {![catch {valkey_deferring_client} client]} else {
        fail "the server takes no clients: $client"
    }
    return $client
}

# Reads what the client gets until its connection ends.
proc read_to_the_end {client} {
    set got {}
    set reply {}
    while {[is_readable $client 20000] && ![catch {$client read} reply]} {lappend got $reply}
    assert_match "*I/O error*" $reply
    $client close
    return $got
}

# The server has a write in its AOF that the log does not have, and is started again without the log. It loads for more
# than a second; it looks at clients each 1024 commands.
proc restart_with_undurable_write {} {
    set writer [valkey_deferring_client]
    for {set i 0} {$i < 8000} {incr i} {$writer set key:$i 1}
    for {set i 0} {$i < 8000} {incr i} {$writer read}
    kill_log
    $writer set undurable 1
    wait_for_held 1
    kill_hard [srv 0 pid]
    $writer close
    restart_server 0 false false
}

durable_server {server {appendonly yes appendfsync always notify-keyspace-events KEA key-load-delay 200}} {
    foreach {name setup} {
        "a subscriber to keyspace notifications"    {{psubscribe __key*__:*}}
        "a client that tracks keys"                 {{hello 3} {client tracking on bcast}}
    } {
        test "Nothing is told of what only the node's AOF has while it loads: $name is closed instead" {
            restart_with_undurable_write
            set client [early_client]
            foreach command $setup {
                $client {*}$command
                $client read
            }
            assert_equal 1 [s loading]
            assert_equal {} [read_to_the_end $client]
            assert_equal attaching [figure role]
            start_log
            wait_until_leading
            assert_equal 0 [r exists undurable]
        }
    }

    test "Other messages are passed on by a node that waits for its log" {
        r flushall
        kill_log
        kill_hard [srv 0 pid]
        restart_server 0 false false
        set client [early_client]
        $client subscribe news
        assert_equal {subscribe news 1} [read_reply $client]
        assert_equal 1 [r publish news told]
        assert_equal {message news told} [read_reply $client]
        $client close
        start_log
        wait_until_leading
    }

    test "Once the node leads, its subscribers are notified" {
        set client [valkey_deferring_client]
        $client psubscribe __keyevent*__:set
        read_reply $client
        r set key 1
        assert_match {pmessage * key} [read_reply $client]
        $client close
    }
}
