# Another process leads the shard of a node whose lease never expires: it gives way, whatever it holds.

source $::env(SUITE_SUPPORT)/durability.tcl

foreach mode {sync async} {
    new_log
    start_log
    lassign [start_relay tcp [list $::host [log_option port]]] relay port
    start_server [server_options [list mode $mode log $::host:$port]] {
        test "A node whose shard another process leads answers nobody who waits, follows, and drops what the log lacks ($mode)" {
            wait_until_leading
            r set key before
            wait_until_durable
            # While it is stopped, the relay passes nothing on.
            exec kill -STOP $relay
            set client [valkey_deferring_client]
            $client set key lost
            if {$mode eq "async"} {
                assert_equal OK [read_reply $client]
            } else {
                wait_for_held 1
            }
            hold_lease
            exec kill -CONT $relay
            # The end of the connection, and nothing before it.
            wait_for_condition 500 10 {[catch {r ping}]} else {fail "clients are not closed"}
            if {$mode eq "sync"} {
                assert {[is_readable $client 5000]}
                assert_error {*I/O error*} {$client read}
            }
            catch {$client close}
            reconnect
            wait_until_following
            assert_equal before [r get key]
            assert_error {READONLY*} {r set key other}
            assert_equal 1 [figure depositions]
            assert_morethan [figure discarded_bytes] 20
            assert_equal 0 [figure held_clients]
            release_lease
            wait_until_leading
            assert_equal before [r get key]
            assert_equal OK [r set key after]
        }
    }
    stop_relay $relay
    kill_log
}
