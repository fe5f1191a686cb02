# Keys that go without a client's command: expired when they are read, expired in the background.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/dataset.tcl

# What is in the server is there again after a crash: the log has it.
proc assert_gone_from_log {args} {
    wait_until_durable
    crash_and_restart_server
    wait_until_leading
    assert_equal 0 [r exists {*}$args]
    assert_equal kept [r get kept]
    assert_equal 1 [r dbsize]
}

durable_server {} {
    foreach {command expected} {
        {get short}                                                 {}
        {exists short}                                              0
        {type short}                                                none
        {ttl short}                                                 -2
        {mget short clean}                                          {{} value}
        {eval {return server.call('get', KEYS[1])} 1 short}         {}
    } {
        foreach version {2 3} {
            test "A read that finds its key expired answers at once (RESP$version): [lrange $command 0 0] \[case 21\]" {
                r flushall
                r set clean value
                r debug set-active-expire 0
                r set short value px 1
                # Past its time; asking whether it is gone would remove it.
                after 5
                set client [protocol_client 0 $version]
                set expired [s expired_keys]
                while_frozen {
                    $client {*}$command
                    assert_equal $expected [read_reply $client]
                    assert_equal 0 [figure held_clients]
                    assert_equal [expr {$expired + 1}] [s expired_keys]
                }
                r debug set-active-expire 1
                $client close
            } * {needs:debug}
        }
    }

    test "A write that finds its key expired is held \[case 21\]" {
        r debug set-active-expire 0
        r set short value px 1
        after 5
        assert_held 1 {setnx short new}
        assert_equal new [r get short]
        r debug set-active-expire 1
    } * {needs:debug}

    test "What was set to expire in the past is gone, and that is held \[case 21\]" {
        r set past value
        set reader [valkey_deferring_client]
        assert_held 1 {pexpireat past 1} {}
        r set past value
        set writer [valkey_deferring_client]
        while_frozen {
            $writer pexpireat past 1
            wait_for_held 1
            $reader exists past
            wait_for_held 2
            assert_silent $reader
        }
        assert_equal 1 [read_reply $writer]
        assert_equal 0 [read_reply $reader]
        $writer close
        $reader close
    }

    test "Keys that expire in the background are gone from the log as well \[case 21\]" {
        r flushall
        r set kept kept
        for {set i 0} {$i < 100} {incr i} {r set short$i value px 1}
        wait_for_condition 500 10 {[r dbsize] == 1} else {
            fail "the keys do not expire"
        }
        assert_gone_from_log short0 short99
    }

    test "A key that a read found expired is gone from the log as well \[case 21\]" {
        r flushall
        r set kept kept
        r debug set-active-expire 0
        r set short value px 1
        after 5
        set offset [s master_repl_offset]
        assert_equal {} [r get short]
        wait_for_condition 500 10 {[s master_repl_offset] > $offset} else {
            fail "nothing is written to the stream"
        }
        assert_gone_from_log short
    } * {needs:debug}

    test "Fields of a hash that expire in the background are gone from the log as well \[case 21\]" {
        r flushall
        r set kept kept
        r hset hash short value long value
        r hpexpire hash 1 fields 1 short
        wait_for_condition 500 10 {[r hlen hash] == 1} else {
            fail "the field does not expire"
        }
        wait_until_durable
        crash_and_restart_server
        wait_until_leading
        assert_equal {long value} [r hgetall hash]
    }
}
