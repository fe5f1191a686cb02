# Commands of other modules: what they read and write, and when they answer, is held as for the server's own.

source $::env(SUITE_SUPPORT)/durability.tcl

# A client that a command of the test module blocks, while nothing is held.
proc blocked_by {args} {
    set client [valkey_deferring_client]
    $client {*}$args
    wait_for_blocked_client
    return $client
}

durable_server {test-module {}} {
    r mset clean value other value

    foreach {name command} {
        "that declares nothing and reads by RM_Call"        {tm.read_noflags dirty}
        "that declares nothing and reads by OpenKey"        {tm.open_noflags dirty}
        "that declares the key"                             {tm.read_declared dirty}
        "that declares one key and reads another by RM_Call" {tm.read_beside clean dirty}
        "that a script calls"                               {eval "return server.call('tm.read_beside', 'clean', 'dirty')" 0}
    } {
        test "A read of a dirty key is held, by a module's command $name" {
            while_dirty dirty {
                set reader [valkey_deferring_client]
                $reader {*}$command
                wait_for_held 2
                assert_silent $reader
            }
            assert_equal dirty [read_reply $reader]
            $reader close
        }
    }

    test "A read of a dirty key is held, by a module's command in a transaction" {
        while_dirty dirty {
            set reader [valkey_deferring_client]
            send_all $reader {multi {tm.read_beside clean dirty}}
            assert_equal {OK QUEUED} [list [read_reply $reader] [read_reply $reader]]
            $reader exec
            wait_for_held 2
            assert_silent $reader
        }
        assert_equal dirty [read_reply $reader]
        $reader close
    }

    test "What a module writes as it hears of what this module does is dirty as well" {
        r debug set-active-expire 0
        r hset tm:notify:hash expires value stays value
        r hpexpire tm:notify:hash 1 fields 1 expires
        after 10
        while_frozen {
            set writer [valkey_deferring_client]
            # This module has the fields that have expired deleted on followers as well, in the middle of this command's event.
            $writer hdel tm:notify:hash stays expires
            wait_for_held 1
            set reader [valkey_deferring_client]
            $reader get tm:expired
            wait_for_held 2
            assert_silent $reader
        }
        assert_equal own [read_reply $reader]
        $reader close
        $writer close
        r debug set-active-expire 1
    } {OK}

    test "A read of clean keys is not held, by a module's command that declares what it reads" {
        while_dirty dirty {
            assert_not_held value {tm.read_declared clean}
            assert_not_held value {tm.read_beside clean other}
            assert_not_held value {get clean}
        }
    }

    test "This module's own commands are not held, and what they call is nobody's" {
        while_dirty dirty {
            assert_not_held *role* {durability.status}
            assert_not_held {[0-9]*} {durability.lag}
            assert_not_held PONG {ping}
        }
    }

    foreach {name command serve served} {
        "blocked on a key"                      {tm.blockpop queue}         {rpush queue a} a
        "that waits for an asynchronous call"   {tm.promise_blpop queue}    {rpush queue a} {queue a}
    } {
        test "A client $name by a module is answered when what it is told is durable" {
            r del queue
            set waiter [blocked_by {*}$command]
            set writer [valkey_deferring_client]
            while_frozen {
                $writer {*}$serve
                wait_for_held 2
                assert_silent $waiter
                # The element is gone for everybody, but not before it is durable.
                set reader [valkey_deferring_client]
                $reader llen queue
                wait_for_held 3
            }
            assert_equal $served [read_reply $waiter]
            assert_equal 1 [read_reply $writer]
            assert_equal 0 [read_reply $reader]
            while_dirty dirty {
                $waiter get clean
                assert_equal value [read_reply $waiter]
            }
            foreach client [list $waiter $writer $reader] {$client close}
        }
    }

    test "A client that was served by a module, and its next command, are answered in order" {
        r del queue
        set waiter [valkey_deferring_client]
        send_all $waiter {{tm.blockpop queue} {get clean}}
        wait_for_blocked_client
        set writer [valkey_deferring_client]
        while_frozen {
            $writer rpush queue a
            wait_for_held 2
            assert_silent $waiter
        }
        assert_equal {a value} [list [read_reply $waiter] [read_reply $waiter]]
        assert_equal 1 [read_reply $writer]
        $waiter close
        $writer close
    }

    test "What a module's thread reads is answered when it is durable" {
        r set dirty before
        set waiter [blocked_by tm.thread_get dirty]
        while_dirty dirty {
            set other [valkey_deferring_client]
            $other tm.go
            wait_for_held 3
            assert_silent $waiter
        }
        assert_equal dirty [read_reply $waiter]
        assert_equal OK [read_reply $other]
        $waiter close
        $other close
    }

    foreach command {tm.thread_set tm.thread_open_set} {
        test "What a module's thread writes ($command) is answered, and seen by others, when it is durable" {
            r del key
            wait_until_durable
            set waiter [blocked_by $command key value]
            while_frozen {
                assert_equal OK [r tm.go]
                wait_for_held 1
                assert_silent $waiter
                set reader [valkey_deferring_client]
                $reader get key
                wait_for_held 2
                assert_silent $reader
            }
            assert_equal OK [read_reply $waiter]
            assert_equal value [read_reply $reader]
            $waiter close
            $reader close
        }
    }

    test "A client that a module blocked, and that leaves, is forgotten" {
        r del queue
        set waiter [blocked_by tm.blockpop queue]
        set before [s connected_clients]
        $waiter close
        wait_for_condition 500 10 {[s connected_clients] < $before} else {
            fail "the client is still there"
        }
        while_frozen {
            set writer [dirty_key queue2]
            wait_for_held 1
        }
        assert_equal OK [read_reply $writer]
        wait_for_held 0
        $writer close
    }

    test "A client that a module blocked before sync mode is held as well" {
        r del queue
        r durability.mode async
        set waiter [blocked_by tm.blockpop queue]
        r durability.mode sync
        wait_until_leading
        wait_until_durable
        set writer [valkey_deferring_client]
        while_frozen {
            $writer rpush queue a
            wait_for_held 2
            assert_silent $waiter
        }
        assert_equal a [read_reply $waiter]
        assert_equal 1 [read_reply $writer]
        $waiter close
        $writer close
    }
}

durable_server {test-module {} server {io-threads 4 io-threads-always-active yes}} {
    test "With I/O threads, a client blocked by a module is answered when what it is told is durable" {
        r del queue
        set waiter [blocked_by tm.blockpop queue]
        set writer [valkey_deferring_client]
        while_frozen {
            $writer rpush queue a
            wait_for_held 2
            assert_silent $waiter
        }
        assert_equal a [read_reply $waiter]
        assert_equal 1 [read_reply $writer]
        $waiter close
        $writer close
    }
}

durable_server {test-module {} sync-timeout-ms 200} {
    test "A late answer that waits for too long for the log is not given: the client is disconnected" {
        set waiter [blocked_by tm.blockpop queue]
        set writer [valkey_deferring_client]
        while_frozen {
            $writer rpush queue a
            wait_for_held 2
            wait_for_held 0
            foreach client [list $waiter $writer] {assert_match "*I/O error*" [read_any_reply $client]}
        }
        assert_equal 2 [figure sync_timeouts]
        $waiter close
        $writer close
    }
}
