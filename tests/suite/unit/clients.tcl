# What clients do while they are held: leave, get killed, time out, change their protocol, subscribe, want no replies.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/dataset.tcl

proc assert_nothing_left {} {
    wait_until_durable
    wait_for_condition 500 10 {[figure dirty_keys] == 0 && [figure waiting_groups] == 0} else {
        fail "[figure dirty_keys] dirty keys and [figure waiting_groups] groups are left"
    }
    assert_equal 0 [figure held_clients]
    assert_equal 0 [r durability.lag]
}

# While held, the client is closed by what `code` does: it gets no reply, and nothing is left of it.
proc assert_closed_while_held {code} {
    set client [valkey_deferring_client]
    $client client id
    set id [read_reply $client]
    while_frozen {
        set before [figure held_clients]
        $client set key [incr ::closed_values]
        wait_for_held [expr {$before + 1}]
        uplevel 1 [list set client $client]
        uplevel 1 [list set id $id]
        uplevel 1 $code
        wait_for_held $before
        assert_match {*I/O error*} [read_any_reply $client]
    }
    $client close
    assert_nothing_left
    assert_equal $::closed_values [r get key]
}
set ::closed_values 0

durable_server {} {
    foreach filter {{id $id} {addr [dict get $peer addr]} {type normal skipme yes}} {
        test "CLIENT KILL [lindex $filter 0] of a held client: no reply, nothing left behind \[case 8\]" {
            assert_closed_while_held {
                regexp {addr=(\S+)} [r client list id $id] _ address
                set peer [dict create addr $address]
                assert_morethan_equal [r client kill {*}[subst $filter]] 1
            }
        }
    }

    test "A client that kills itself behind its held write is closed, and nothing is left behind \[case 8\]" {
        set client [valkey_deferring_client]
        $client client id
        set id [read_reply $client]
        while_frozen {
            send_all $client [list {set key suicide} [list client kill id $id skipme no]]
            wait_for_held 1
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        assert_equal 1 [read_reply $client]
        assert_match {*I/O error*} [read_any_reply $client]
        $client close
        assert_nothing_left
    }

    test "A held client that is idle for longer than the timeout is closed, and nothing is left behind \[case 8\]" {
        r config set timeout 1
        assert_closed_while_held {}
        r config set timeout 0
    } {OK}

    test "A held client that is evicted is closed, and nothing is left behind \[case 8\]" {
        r del long
        r rpush long {*}[lrepeat 1000 [string repeat x 1000]]
        set evicted [s evicted_clients]
        assert_closed_while_held {
            for {set i 0} {$i < 20} {incr i} {$client lrange long 0 -1}
            wait_for_condition 500 10 {[regexp {tot-mem=(\d+)} [r client list id $id] _ bytes] && $bytes > 15000000} else {
                fail "the client takes no memory"
            }
            assert_silent $client
            r config set maxmemory-clients 5mb
        }
        assert_equal [expr {$evicted + 1}] [s evicted_clients]
        r config set maxmemory-clients 0
    } {OK}

    test "A client that piles up more held replies than its output buffer may hold is closed \[case 6, 8\]" {
        r config set client-output-buffer-limit {normal 5000000 0 0}
        assert_closed_while_held {
            for {set i 0} {$i < 20} {incr i} {$client lrange long 0 -1}
        }
        r config set client-output-buffer-limit {normal 0 0 0}
    } {OK}

    test "Many clients that leave at once while they are held are forgotten \[case 8\]" {
        while_frozen {
            set clients {}
            for {set i 0} {$i < 100} {incr i} {lappend clients [dirty_key gone$i]}
            foreach client $clients {$client close}
            wait_for_held 0
            assert_equal 100 [figure dirty_keys]
        }
        assert_nothing_left
        assert_equal 100 [llength [r keys gone*]]
        r flushall
    } {OK}

    test "A client whose socket gets the number of one that left while it was held is not mistaken for it \[case 8\]" {
        while_frozen {
            for {set i 0} {$i < 20} {incr i} {
                set gone [dirty_key reused]
                $gone close
                wait_for_held 0
                # The server gives the lowest free number.
                assert_not_held PONG {ping}
            }
        }
        assert_nothing_left
    }

    test "QUIT while held: the held reply comes, then the end \[case 9\]" {
        set client [valkey_deferring_client]
        while_frozen {
            send_all $client {{set key before-quit} quit}
            wait_for_held 1
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        assert_equal OK [read_reply $client]
        assert_match {*I/O error*} [read_any_reply $client]
        wait_for_held 0
        assert_equal before-quit [r get key]
        $client close
    }

    # The commands behind a held write, and their replies.
    foreach {name commands replies} {
        "SELECT"            {{select 10}}                                       OK
        "HELLO 2"           {{hello 2}}                                         {{server *}}
        "HELLO 3"           {{hello 3}}                                         {{server *}}
        "AUTH"              {{auth default any}}                                {OK}
        "RESET"             {{reset}}                                           RESET
        "CLIENT SETNAME"    {{client setname me} {client getname}}              {OK me}
        "CLIENT TRACKING"   {{hello 3} {client tracking on} {client tracking off}}  {{server *} OK OK}
        "SUBSCRIBE"         {{subscribe channel}}                               {{subscribe channel 1}}
        "PSUBSCRIBE"        {{psubscribe chan*}}                                {{psubscribe chan* 1}}
        "SSUBSCRIBE"        {{ssubscribe channel}}                              {{ssubscribe channel 1}}
        "UNSUBSCRIBE"       {{unsubscribe channel}}                             {{unsubscribe channel 0}}
        "MULTI, DISCARD"    {multi discard}                                     {OK OK}
        "MONITOR"           {monitor}                                           OK
        "an unknown command" {{no-such-command}}                                {{ERR unknown command*}}
    } {
        test "$name behind a held write keeps its place \[case 9\]" {
            set client [valkey_deferring_client]
            while_frozen {
                send_all $client [list {set key 1} {*}$commands]
                wait_for_held 1
                assert_silent $client
            }
            assert_equal OK [read_reply $client]
            foreach expected $replies {assert_match $expected [read_any_reply $client]}
            $client close
            wait_for_held 0
        }
    }

    test "RESET and SUBSCRIBE while held, and a message that comes, keep their place \[case 9\]" {
        set client [valkey_deferring_client]
        while_frozen {
            send_all $client {{set key 1} reset {subscribe channel}}
            wait_for_held 1
            wait_for_condition 500 10 {[r publish channel message] == 1} else {
                fail "the client does not subscribe"
            }
            assert_silent $client
        }
        foreach expected {OK RESET {subscribe channel 1} {message channel message}} {
            assert_equal $expected [read_reply $client]
        }
        $client close
    }

    test "A pushed invalidation does not overtake a held reply of its own connection \[case 9\]" {
        set client [valkey_deferring_client]
        r set tracked 1
        while_frozen {
            $client hello 3
            read_reply $client
            $client client tracking on
            read_reply $client
            $client get tracked
            assert_equal 1 [read_reply $client]
            $client set held 1
            wait_for_held 1
            set writer [dirty_key tracked]
            assert_silent $client
        }
        assert_equal OK [read_reply $client]
        assert_equal {invalidate tracked} [read_reply $client]
        assert_equal OK [read_reply $writer]
        $client close
        $writer close
    }

    foreach {name switch} {
        "CLIENT REPLY OFF"  {{client reply off}}
        "CLIENT REPLY SKIP" {{client reply skip}}
    } {
        test "A writer under $name dirties its key all the same \[case 9\]" {
            set silent [valkey_deferring_client]
            set reader [valkey_deferring_client]
            r del quiet
            while_frozen {
                send_all $silent [list {*}$switch {set quiet 1}]
                wait_for_condition 500 10 {[figure dirty_keys] == 1} else {
                    fail "the key is not dirty"
                }
                set held [figure held_clients]
                $reader get quiet
                wait_for_held [expr {$held + 1}]
                assert_silent $reader
                # Replies are wanted again, and come in their place.
                send_all $silent {{client reply on} ping}
            }
            assert_equal 1 [read_reply $reader]
            assert_equal OK [read_reply $silent]
            assert_equal PONG [read_reply $silent]
            $silent close
            $reader close
            wait_for_held 0
        }
    }

    test "A pipeline that changes the protocol in the middle is answered in order, byte for byte \[case 5, 9\]" {
        set client [valkey_deferring_client]
        r del hash
        while_frozen {
            $client write [format_command hset hash f v][format_command hgetall hash][format_command hello 3]
            $client flush
            send_marked $client {hgetall hash}
            wait_for_held 1
            assert_silent $client
        }
        assert_match ":1\r\n\\*2\r\n\$1\r\nf\r\n\$1\r\nv\r\n%*\r\n%1\r\n\$1\r\nf\r\n\$1\r\nv\r\n" [read_marked $client]
        $client close
    }

    test "Nothing is left behind \[case 8\]" {
        assert_nothing_left
        assert_equal {} [figure last_error]
    }
}
