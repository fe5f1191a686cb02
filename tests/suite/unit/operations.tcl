# What operators do while clients are held: unload, reload, rewrite, save, shut down.

source $::env(SUITE_SUPPORT)/durability.tcl

# Runs `code` while a write and a read are held: both stay held, and are answered in the end.
proc assert_stay_held_through {code} {
    set reader [valkey_deferring_client]
    while_frozen {
        set writer [dirty_key operated]
        $reader get operated
        wait_for_held 2
        uplevel 1 $code
        assert_equal 2 [figure held_clients]
        assert_silent $writer
        assert_silent $reader
    }
    assert_equal OK [read_reply $writer]
    assert_equal dirty [read_reply $reader]
    $writer close
    $reader close
    wait_for_held 0
}

# The server's process ends while a client is held, which is told nothing. Then it starts again.
proc assert_ends_while_held {code} {
    r config set shutdown-timeout 1
    set client [valkey_deferring_client]
    r set kept 1
    while_frozen {
        $client set key lost?
        wait_for_held 1
        uplevel 1 $code
        wait_for_condition 1000 10 {![is_alive [srv 0 pid]]} else {
            fail "the server does not end"
        }
        assert_match {*I/O error*} [read_any_reply $client]
    }
    $client close
    restart_server 0 true false
    wait_until_leading
    assert_equal 1 [r get kept]
}

durable_server {} {
    test "MODULE UNLOAD is refused, and who is held stays held \[case 27\]" {
        assert_stay_held_through {
            assert_error {*unload*} {r module unload durability}
            assert_equal leader [figure role]
        }
    }

    test "CONFIG REWRITE while clients are held \[case 27\]" {
        assert_stay_held_through {
            assert_equal OK [r config rewrite]
        }
    }

    test "BGSAVE while clients are held \[case 27\]" {
        assert_stay_held_through {
            r bgsave
            waitForBgsave r
            assert_equal ok [s rdb_last_bgsave_status]
        }
    }

    test "SAVE while clients are held \[case 27\]" {
        assert_stay_held_through {
            assert_equal OK [r save]
        }
    }

    test "AOF on, rewritten and off while clients are held \[case 27\]" {
        assert_stay_held_through {
            r config set appendonly yes
            waitForBgrewriteaof r
            r bgrewriteaof
            waitForBgrewriteaof r
            assert_equal ok [s aof_last_bgrewrite_status]
            r config set appendonly no
        }
    }

    test "With appendfsync always the AOF does not let a held reply leave \[case 27\]" {
        r config set appendonly yes appendfsync always
        waitForBgrewriteaof r
        assert_held OK {set key value}
        r config set appendonly no appendfsync everysec
    } {OK}

    test "DEBUG RELOAD while clients are held: nobody is told what the log does not have, nothing is lost \[case 27\]" {
        set client [valkey_deferring_client]
        set operator [valkey_deferring_client]
        r set kept 1
        while_frozen {
            $client set key reloaded
            wait_for_held 1
            # It empties the data on its way, which is a write to everything, and so it is held itself.
            $operator debug reload
            wait_for_held 2
            assert_silent $client
            assert_silent $operator
        }
        assert_equal OK [read_reply $client]
        assert_equal OK [read_reply $operator]
        $operator close
        wait_for_held 0
        assert_equal leader [figure role]
        assert_equal {1 reloaded} [r mget kept key]
        $client close
        assert_held OK {set key after-reload}
        crash_and_restart_server
        wait_until_leading
        assert_equal {1 after-reload} [r mget kept key]
    } * {needs:debug}

    test "SIGTERM while a client is held: the server ends, and the client is told nothing \[case 27\]" {
        assert_ends_while_held {
            exec kill -TERM [srv 0 pid]
        }
    }

    foreach command {{shutdown} {shutdown nosave} {shutdown save} {shutdown now} {shutdown nosave now force}} {
        test "[string toupper $command] while a client is held: the server ends, and the client is told nothing \[case 27\]" {
            assert_ends_while_held {
                set operator [valkey_deferring_client]
                $operator {*}$command
            }
            $operator close
        }
    }

    test "SHUTDOWN waits for what is held, and the client is answered if the log acknowledges in time \[case 27\]" {
        r config set shutdown-timeout 10
        set client [valkey_deferring_client]
        set operator [valkey_deferring_client]
        while_frozen {
            $client set key in-time
            wait_for_held 1
            $operator shutdown
            wait_for_condition 500 10 {[string match "*Waiting for replicas before shutting down*" [exec tail -n 20 [srv 0 stdout]]]} else {
                fail "the server does not shut down"
            }
            assert {![is_readable $client 20]}
        }
        # Answered, or closed: the server may end first. What was answered is there.
        set reply [read_any_reply $client]
        wait_for_condition 1000 10 {![is_alive [srv 0 pid]]} else {
            fail "the server does not end"
        }
        restart_server 0 true false
        wait_until_leading
        if {$reply ne "OK"} {assert_match {*I/O error*} $reply}
        assert_equal in-time [r get key]
        $client close
        $operator close
    }

    test "A module that is off is unloaded while clients are connected that were held before \[case 27\]" {
        set client [valkey_deferring_client]
        $client set key 1
        assert_equal OK [read_reply $client]
        while_frozen {
            set held [dirty_key key]
            assert_equal OK [r durability.mode off]
            wait_for_held 0
            assert_match {*I/O error*} [read_any_reply $held]
            $held close
            assert_equal OK [r module unload durability]
        }
        # Its connection was decorated once.
        $client set key 2
        assert_equal OK [read_reply $client]
        assert_equal 2 [r get key]
        $client close
    }
}

# A module that is loaded again begins anew, whatever its earlier life has counted.
durable_server {} {
    test "A module that is unloaded and loaded again holds replies and messages as if it were new" {
        for {set i 0} {$i < 100} {incr i} {r set key $i}
        assert_equal OK [r durability.mode off]
        assert_equal OK [r module unload durability]
        set listener [valkey_deferring_client]
        $listener subscribe channel
        assert_equal {subscribe channel 1} [read_reply $listener]
        r module loadex $::env(DURABILITY_SO) config durability.mode async config durability.log $::host:[log_option port] \
            config durability.shard another
        wait_until_leading
        r publish channel async
        assert_equal {message channel async} [read_reply $listener]
        assert_equal OK [r durability.mode sync]
        r set key value
        r publish channel sync
        assert_equal {message channel sync} [read_reply $listener]
        $listener close
        set ::shard another
        assert_held OK {set key other}
        set ::shard s1
        assert_equal {} [figure last_error]
    }
}
