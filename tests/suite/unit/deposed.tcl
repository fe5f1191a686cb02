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

# A transaction was allowed to when it was queued, and is not any more.
durable_server {failover yes lease-ms 1000} {
    test "A leader that is made a replica where that is not allowed answers nobody who waits, and tells others what is wrong" {
        r set key before
        wait_until_durable
        set waiting [valkey_deferring_client]
        set queued [valkey_client]
        r config set durability.allow-replicaof yes
        $queued multi
        $queued replicaof 127.0.0.1 1
        r config set durability.allow-replicaof no
        while_frozen {
            $waiting set key held
            wait_for_held 1
            catch {$queued exec}
            assert {[is_readable $waiting 5000]}
            assert_error {*I/O error*} {$waiting read}
        }
        catch {$waiting close}
        catch {$queued close}
        reconnect
        # Longer than the lease: it is over, and that keeps nobody from being told.
        wait_for_condition 500 10 {[figure lease_left_ms] == 0} else {fail "the lease goes on"}
        wait_for_condition 500 10 {[string match "*remove replicaof*" [figure last_error]]} else {fail "it says [figure last_error]"}
        assert_error {*remove replicaof*} {r get key}
        assert_equal 0 [figure held_clients]
    }
}
