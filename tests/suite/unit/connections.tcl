# Whatever the way to connect, replies are held and leave in order: TCP, unix socket, TLS, with I/O threads and without.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/dataset.tcl

# The ones that every way to connect must get right.
proc test_core {with} {
    test "SET is held until the log acknowledges it ($with) \[case 1, 11\]" {
        assert_held OK {set key value}
        assert_equal value [r get key]
    }

    test "EXEC with writes is held, its queueing is not ($with) \[case 2, 11\]" {
        set client [valkey_deferring_client]
        while_frozen {
            $client multi
            $client set key 1
            assert_equal OK [read_reply $client]
            assert_equal QUEUED [read_reply $client]
            $client exec
            wait_for_held 1
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        $client close
    }

    test "A pipeline is answered in order, nothing before the write that comes first ($with) \[case 5, 11\]" {
        set client [valkey_deferring_client]
        r set number 0
        while_frozen {
            send_all $client {{incr number} ping {incr number}}
            wait_for_held 1
            assert_silent $client
        }
        assert_equal {1 PONG 2} [list [read_reply $client] [read_reply $client] [read_reply $client]]
        $client close
    }

    test "What comes before a write in a pipeline is held with it at most, and never reordered ($with) \[case 5, 11\]" {
        set client [valkey_deferring_client]
        while_frozen {
            send_all $client {{ping first} {set key 1} {ping last}}
            wait_for_held 1
        }
        assert_equal {first OK last} [list [read_reply $client] [read_reply $client] [read_reply $client]]
        $client close
    }

    test "A connection with 1,000 requests in flight is answered in order, no write early ($with) \[case 11a\]" {
        set client [valkey_deferring_client]
        r del count
        set expected {}
        set requests {}
        set parts {}
        for {set i 1} {$i <= 200} {incr i} {
            append requests [format_command incr count]
            lappend expected $i
            foreach other {a b c d} {
                append requests [format_command echo $other$i]
                lappend expected $other$i
            }
            # Many groups, not one: the server reads a part at a time.
            if {$i % 20 == 0} {lappend parts $requests; set requests {}}
        }
        set replies {}
        while_frozen {
            foreach part $parts {
                $client write $part
                $client flush
                assert_equal PONG [r ping]
            }
            wait_for_condition 500 10 {[figure waiting_groups] > 0} else {
                fail "nothing waits"
            }
            assert_silent $client
        }
        # From here on groups are released one by one, while more requests keep coming.
        log_service LOG.DEBUG DELAY-ACKS $::shard 5
        foreach part $parts {
            $client write $part
            $client flush
        }
        foreach _ $expected {lappend replies [read_reply $client]}
        assert_equal $expected $replies
        set again {}
        foreach _ $expected {lappend again [read_reply $client]}
        log_service LOG.DEBUG RESUME-ACKS $::shard
        assert_equal [lmap reply $expected {expr {[string is integer $reply] ? $reply + 200 : $reply}}] $again
        assert_equal 400 [r get count]
        $client close
    }

    test "Replies of more than 1 MB behind a write are held ($with) \[case 6, 11\]" {
        set value [string repeat x 300000]
        r set present $value
        set client [valkey_deferring_client]
        while_frozen {
            send_all $client [list {set key 1} {*}[lrepeat 6 {get present}]]
            wait_for_held 1
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        foreach _ {1 2 3 4 5 6} {assert_equal $value [read_reply $client]}
        $client close
    }

    test "A value of 10 MB is held, and read back whole ($with) \[case 6, 11\]" {
        set value [string repeat x 10000000]
        assert_held OK [list set large $value]
        set client [valkey_deferring_client]
        while_frozen {
            $client append large y
            $client get large
            wait_for_held 1
            assert_silent $client
        }
        assert_equal 10000001 [read_reply $client]
        assert_equal ${value}y [read_reply $client]
        $client close
        r del large
    }

    test "RESP3: maps, sets, doubles, nulls and pushes are held and unchanged ($with) \[case 1, 9, 11\]" {
        set client [protocol_client 0 3]
        r del hash set sorted missing
        r sadd set member
        r zadd sorted 1.5 member
        while_frozen {
            $client write [format_command hset hash field value][format_command hgetall hash][format_command smembers set]
            $client write [format_command zscore sorted member][format_command get missing][format_command subscribe channel]
            send_marked $client {zrange sorted 0 -1 withscores}
            wait_for_held 1
            assert_silent $client
        }
        set expected [join {
            {:1} {%1 $5 field $5 value} {~1 $6 member} {,1.5} {_} {>3 $9 subscribe $7 channel :1} {*1 *2 $6 member ,1.5}
        }]
        assert_equal [join $expected "\r\n"]\r\n [read_marked $client]
        $client close
    }

    test "Clients that leave while they are held are forgotten ($with) \[case 8, 11\]" {
        while_frozen {
            set clients {}
            for {set i 0} {$i < 20} {incr i} {lappend clients [dirty_key gone$i]}
            foreach client $clients {$client close}
            wait_for_held 0
        }
        wait_until_durable
        assert_equal dirty [r get gone19]
    }
}

durable_server {} {
    test_core "TCP"

    through_relay unix [list [srv 0 unixsocket]] {
        test "The relay connects by unix socket \[case 11\]" {
            assert_match "*flags=U*" [r client info]
        }
        test_core "unix socket"
    }

    test "1,000 clients are held at once, and all are answered \[case 6\]" {
        set clients {}
        for {set i 0} {$i < 1000} {incr i} {lappend clients [valkey [srv 0 host] [srv 0 port] 1]}
        r select 0
        r del counter
        while_frozen {
            foreach client $clients {$client incr counter}
            wait_for_held 1000
            foreach client [lrange $clients 0 9] {assert_silent $client}
        }
        set replies {}
        foreach client $clients {
            # Its socket may have a number that the event loop of Tcl cannot watch.
            lappend replies [$client read]
            $client close
        }
        r select 9
        set expected {}
        for {set i 1} {$i <= 1000} {incr i} {lappend expected $i}
        assert_equal $expected [lsort -integer $replies]
        wait_for_held 0
    }
}

durable_server {server {unixsocket {""}}} {
    test "A server without a unix socket holds replies \[case 11\]" {
        assert_equal passed [figure self_test]
        assert_held OK {set key value}
    }
}

set threads {io-threads 4 io-threads-always-active yes}
foreach {threading with} [list {} "" $threads ", I/O threads"] {
    lassign [tls_server] tls target
    durable_server [list server [list {*}$tls {*}$threading]] {
        if {$threading ne {}} {
            test_core "TCP$with"
            through_relay unix [list [srv 0 unixsocket]] {
                test_core "unix socket$with"
            }
        }
        through_relay tls $target {
            test_core "TLS$with"
        }

        test "Nothing is left behind (TLS$with) \[case 8\]" {
            wait_until_durable
            foreach figure {held_clients dirty_keys waiting_groups pending_bytes lag_ms} {
                assert_equal 0 [figure $figure]
            }
            assert_equal {} [figure last_error]
        }
    }
}
