# Commands that wait for others: waiting is not held, being served is.

source $::env(SUITE_SUPPORT)/durability.tcl

durable_server {} {
    # The command that waits, the one that serves it, their replies in RESP2, and the first one's in RESP3 if it differs.
    foreach {command serve served server_reply} {
        {blpop queue 0}                                 {rpush queue a}     {queue a}                   1
        {brpop queue 0}                                 {rpush queue a}     {queue a}                   1
        {blmove queue other left right 0}               {rpush queue a}     a                           1
        {brpoplpush queue other 0}                      {rpush queue a}     a                           1
        {blmpop 0 2 none queue left count 2}            {rpush queue a b}   {queue {a b}}               2
        {bzpopmin queue 0}                              {zadd queue 1.5 a}  {queue a 1.5}               1
        {bzpopmax queue 0}                              {zadd queue 1.5 a}  {queue a 1.5}               1
        {bzmpop 0 2 none queue min}                     {zadd queue 1.5 a}  {queue {{a 1.5}}}           1
        {xread block 0 streams queue $}                 {xadd queue 1-1 f v} {{queue {{1-1 {f v}}}}}    1-1
        {xreadgroup group g c block 0 streams queue >}  {xadd queue 1-1 f v} {{queue {{1-1 {f v}}}}}    1-1
    } {
        foreach version {2 3} {
            # In RESP3 the answer of XREAD is a map.
            if {$version == 3 && [string match x* $command]} {set served [lindex $served 0]}
            test "[lindex $command 0]: waiting is not held; being served is, and who served (RESP$version) \[case 7\]" {
                r del queue other
                if {[lindex $command 0] eq "xreadgroup"} {
                    r xgroup create queue g $ mkstream
                    # Else it would make one, which is a write.
                    r xgroup createconsumer queue g c
                }
                set waiter [valkey_deferring_client]
                $waiter hello $version
                read_reply $waiter
                set writer [valkey_deferring_client]
                while_frozen {
                    $waiter {*}$command
                    wait_for_blocked_client
                    assert_equal 0 [figure held_clients]
                    $writer {*}$serve
                    wait_for_held 2
                    assert_silent $waiter
                    assert_silent $writer
                }
                assert_equal $served [read_reply $waiter]
                assert_equal $server_reply [read_reply $writer]
                $waiter close
                $writer close
            }

            test "[lindex $command 0]: a client that leaves while it waits takes nothing (RESP$version) \[case 7\]" {
                r del queue other
                if {[lindex $command 0] eq "xreadgroup"} {r xgroup create queue g $ mkstream}
                set waiter [valkey_deferring_client]
                $waiter hello $version
                read_reply $waiter
                $waiter {*}$command
                wait_for_blocked_client
                $waiter close
                wait_for_blocked_clients_count 0
                assert_equal $server_reply [r {*}$serve]
                assert_equal 1 [r exists queue]
                assert_equal 0 [r exists other]
                if {[lindex $command 0] eq "xreadgroup"} {
                    assert_equal 0 [lindex [r xpending queue g] 0]
                }
            }
        }
    }

    test "What was moved to another key while it was waited for is dirty there \[case 7, 19\]" {
        r del queue other
        set waiter [valkey_deferring_client]
        set reader [valkey_deferring_client]
        while_frozen {
            $waiter blmove queue other left right 0
            wait_for_blocked_client
            set writer [valkey_deferring_client]
            $writer rpush queue a
            wait_for_held 2
            $reader exists other
            wait_for_held 3
            assert_silent $reader
        }
        assert_equal a [read_reply $waiter]
        assert_equal 1 [read_reply $writer]
        assert_equal 1 [read_reply $reader]
        foreach client [list $waiter $writer $reader] {$client close}
    }

    test "A client that is served after a write of its own gets both replies, in order \[case 5, 7\]" {
        r del queue
        set waiter [valkey_deferring_client]
        while_frozen {
            send_all $waiter {{incr queue-length} {blpop queue 0}}
            wait_for_blocked_client
            wait_for_held 1
            set writer [valkey_deferring_client]
            $writer rpush queue a
            wait_for_held 2
            assert_silent $waiter
        }
        assert_equal {1 {queue a}} [list [read_reply $waiter] [read_reply $waiter]]
        assert_equal 1 [read_reply $writer]
        $waiter close
        $writer close
    }

    test "A wait that ends without being served tells nothing of what is not durable \[case 7, 15\]" {
        # It says that the list was empty all the while: only because of a delete that may still be lost.
        r del queue
        r rpush queue a
        set deleter [valkey_deferring_client]
        set waiter [valkey_deferring_client]
        while_frozen {
            $deleter del queue
            wait_for_held 1
            $waiter blpop queue 0.01
            wait_for_held 2
            assert_silent $waiter
        }
        assert_equal 1 [read_reply $deleter]
        assert_equal {} [read_reply $waiter]
        $deleter close
        $waiter close
    }

    test "A wait on clean keys that ends without being served is not held \[case 7\]" {
        r del queue
        while_dirty dirty {
            assert_not_held {} {blpop queue 0.01}
        }
    }

    test "CLIENT UNBLOCK ends a wait on clean keys at once \[case 7\]" {
        r del queue
        set waiter [valkey_deferring_client]
        $waiter client id
        set id [read_reply $waiter]
        while_dirty dirty {
            $waiter blpop queue 0
            wait_for_blocked_client
            assert_equal 1 [r client unblock $id error]
            assert_match UNBLOCKED* [read_any_reply $waiter]
        }
        $waiter close
    }

    test "WAITAOF 0 1 counts the log if told to, only when the write is durable \[case 7\]" {
        assert_equal OK [r set waited 0]
        wait_until_durable
        assert_equal {0 0} [r waitaof 0 1 20]
        r config set durability.count-in-waitaof yes
        r durability.mode async
        while_frozen {
            assert_equal OK [r set waited 1]
            assert_equal {0 0} [r waitaof 0 1 50]
        }
        assert_equal {0 1} [r waitaof 0 1 5000]
        r durability.mode sync
        set client [valkey_deferring_client]
        while_frozen {
            send_all $client {{set waited 2} {waitaof 0 1 0}}
            wait_for_held 1
            wait_for_blocked_client
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        assert_equal {0 1} [read_reply $client]
        $client close
    }

    foreach {command expected} {{wait 1 200} 0  {waitaof 0 1 200} {0 0}} {
        test "[lindex $command 0] ends in time although the log acknowledges nothing, behind the held write \[case 7\]" {
            set client [valkey_deferring_client]
            while_frozen {
                send_all $client [list {set waited 3} $command]
                wait_for_held 1
                wait_for_blocked_client
                wait_for_blocked_clients_count 0
                assert_silent $client
            }
            assert_equal OK [read_reply $client]
            assert_equal $expected [read_reply $client]
            $client close
        }
    }

    test "WAIT counts replicas, and not the log, which is no node to read from \[case 7\]" {
        assert_equal OK [r set waited 4]
        wait_until_durable
        assert_equal 0 [r wait 1 20]
    }

    test "WAITAOF 1 0 counts the node's own AOF, behind the held reply of the write \[case 7, 27\]" {
        r config set appendonly yes
        waitForBgrewriteaof r
        set client [valkey_deferring_client]
        while_frozen {
            send_all $client {{set waited 4} {waitaof 1 0 0}}
            wait_for_held 1
            wait_for_blocked_clients_count 0
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        assert_equal 1 [lindex [read_reply $client] 0]
        r config set appendonly no
        $client close
    }
}
