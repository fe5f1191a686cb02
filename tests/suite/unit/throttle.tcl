# A log that is slower than its writers slows them down, so that no write is refused (durability.throttle).

source $::env(SUITE_SUPPORT)/durability.tcl

# A log service behind a relay whose pace `set_pace` sets, and a leader of it in async mode.
proc paced_server {options code} {
    new_log
    start_log
    set ::pace_file [tmpfile pace]
    file delete $::pace_file
    lassign [start_relay paced [list $::host [log_option port] $::pace_file]] relay port
    set options [dict merge [list mode async log $::host:$port] $options]
    uplevel 1 [list start_server [server_options $options] "wait_until_leading\n$code"]
    stop_relay $relay
    kill_log
}

# So many bytes a second reach the log; any number if none is given.
proc set_pace {{pace {}}} {
    if {$pace eq ""} {
        file delete $::pace_file
    } else {
        # Written at once, so that the relay never reads a part.
        set file [open $::pace_file.new w]
        puts -nonewline $file $pace
        close $file
        file rename -force $::pace_file.new $::pace_file
    }
}

# Runs clients for that long. Returns what they saw.
proc closed_loop {writers readers seconds} {
    set output [exec python3 $::env(SUITE_SUPPORT)/closed_loop.py [srv 0 host] [srv 0 port] $writers $readers $seconds]
    if {$::verbose} {puts "lag: [lindex [split $output \n] end-1]"}
    lindex [split $output \n] end
}

# Holds the log to a third of the pace of 50 writers.
proc slow_down_to_a_third {} {
    set_pace
    set free [closed_loop 50 0 1]
    wait_until_durable
    set_pace [expr {[dict get $free pace] / 3}]
}

proc wait_until {figure expected} {
    wait_for_condition 1000 10 {[figure $figure] == $expected} else {
        fail "$figure is [figure $figure], not $expected; lag [figure lag_ms] ms, expected [figure expected_lag_ms] ms"
    }
}

# Runs `code` while the log acknowledges nothing and lacks more than half of max-pending-bytes: so replies are held, and no limit is reached.
proc while_throttling {code} {
    wait_until throttling 0
    while_frozen {
        r set large [string repeat x 600000]
        wait_until throttling 1
        uplevel 1 $code
    }
    wait_until_durable
    wait_until throttling 0
    assert_equal {0 0} [list [figure throttled_clients] [figure held_clients]]
}

# A client that has sent these commands, of which one is held.
proc throttled_client {args} {
    set held [figure throttled_clients]
    set client [valkey_deferring_client]
    send_all $client $args
    wait_until throttled_clients [expr {$held + 1}]
    return $client
}

# Begins a transaction, and queues these commands, which is answered at once.
proc queue {client args} {
    foreach command [list multi {*}$args] {$client {*}$command}
    foreach command [list multi {*}$args] {
        assert_equal [expr {$command eq "multi" ? "OK" : "QUEUED"}] [read_reply $client]
    }
}

proc assert_answers {client args} {
    foreach expected $args {
        assert_equal $expected [read_any_reply $client]
    }
    $client close
}

paced_server {max-lag-ms 1500} {
    test "A log at a third of the writers' pace refuses no write of 50 clients, and its lag stays below the limit" {
        slow_down_to_a_third
        set refusals [figure refusals]
        set seen [closed_loop 50 5 6]
        assert_equal 0 [dict get $seen refused]
        assert_equal $refusals [figure refusals]
        assert_lessthan [dict get $seen max_lag_ms] 1500
        assert_morethan [figure throttled_writes] 0
        assert_morethan [figure throttles] 0
        assert_morethan [figure throttled_time_ms] 1000
        # The writers get what the log can take: it is never without work.
        assert_morethan [dict get $seen max_lag_ms] 300
    }

    test "Without throttling the same writers are refused, again and again" {
        set_pace
        wait_until_durable
        r config set durability.throttle no
        slow_down_to_a_third
        set refusals [figure refusals]
        set throttled [figure throttled_writes]
        set seen [closed_loop 50 5 6]
        assert_morethan [dict get $seen refused] 0
        assert_morethan [figure refusals] $refusals
        assert_equal $throttled [figure throttled_writes]
        assert_equal 0 [figure throttling]
        r config set durability.throttle yes
        set_pace
        wait_until_durable
    }
}

# Without the PINGs of replication nothing but the tests' own writes moves the offset.
paced_server {max-lag-ms 1000} {
    test "A log that stops below the limit holds nobody, and what comes behind the limit is refused" {
        set_pace 0
        for {set i 0} {$i < 20} {incr i} {
            r set key 1
            after 20
        }
        wait_for_condition 500 10 {[figure lag_ms] > 600} else {
            fail "the lag does not grow"
        }
        assert_equal OK [r set key 2]
        assert_equal 0 [figure throttling]
        wait_until refusing_writes 1
        assert_error {CLUSTERDOWN*} {r set key 3}
        set_pace
        wait_until refusing_writes 0
        assert_equal {0 0} [list [figure throttles] [figure throttled_writes]]
    }

    test "At the limit those who are held are answered, and then refused" {
        r config set durability.max-pending-bytes 1mb
        set_pace 0
        r set large [string repeat x 600000]
        wait_until throttling 1
        set writers {}
        for {set i 0} {$i < 20} {incr i} {
            set writer [valkey_deferring_client]
            $writer set key 4
            lappend writers $writer
        }
        wait_until throttled_clients 20
        assert_equal 20 [figure throttled_writes]
        wait_until refusing_writes 1
        foreach writer $writers {
            assert_equal OK [read_reply $writer]
            $writer set key 5
            assert_match {CLUSTERDOWN*} [read_any_reply $writer]
        }
        assert_equal {0 0 0} [list [figure throttling] [figure throttled_clients] [figure held_clients]]
        set_pace
        wait_until refusing_writes 0
        foreach writer $writers {
            $writer set key 6
            assert_equal OK [read_reply $writer]
            $writer close
        }
    }
}

set held_by_bytes {mode async max-pending-bytes 1mb max-lag-ms 600000}
durable_server $held_by_bytes {
    r set present value
    r rpush full element

    test "Replies of writes are held, reads go on, and what is behind a held reply keeps its place" {
        while_throttling {
            set writer [throttled_client {set key 1} {get key} {ping}]
            assert_silent $writer
            assert_equal 1 [r get key]
            assert_equal value [r get present]
            assert_equal 1 [figure held_clients]
        }
        assert_answers $writer OK 1 PONG
    }

    test "A transaction that writes has the reply of EXEC held, one that reads has none" {
        while_throttling {
            set writer [valkey_deferring_client]
            queue $writer {set key 2} {get key}
            $writer exec
            wait_until throttled_clients 1
            assert_silent $writer
            set reader [valkey_deferring_client]
            send_all $reader {multi {get key} exec}
            assert_answers $reader OK QUEUED 2
        }
        assert_answers $writer {OK 2}
    }

    test "A script or function that writes has its reply held, one that reads has not" {
        r function load {#!lua name=throttle
            server.register_function('put', function(keys) return server.call('set', keys[1], '4') end)}
        while_throttling {
            set script [throttled_client {eval {return redis.call('set', KEYS[1], '3')} 1 key}]
            set function [throttled_client {fcall put 1 key}]
            set transaction [valkey_deferring_client]
            queue $transaction {eval {return redis.call('set', KEYS[1], '5')} 1 key}
            $transaction exec
            wait_until throttled_clients 3
            assert_equal 5 [r get key]
            assert_equal value [r eval {return redis.call('get', KEYS[1])} 1 present]
            foreach client [list $script $function $transaction] {assert_silent $client}
        }
        assert_answers $script OK
        assert_answers $function OK
        assert_answers $transaction OK
    }

    test "A client that blocks gets its answer with the others; one that blocked before gets it at once" {
        set before [valkey_deferring_client]
        $before blpop list 0
        wait_for_blocked_clients_count 1
        while_throttling {
            set pusher [throttled_client {rpush list a}]
            assert_equal {list a} [read_reply $before]
            set popper [throttled_client {blpop list 0}]
            wait_for_blocked_clients_count 1
            set second [throttled_client {rpush list b}]
            assert_silent $popper
        }
        $before close
        assert_answers $pusher 1
        assert_answers $popper {list b}
        assert_answers $second 1
    }

    test "Messages are not held, nor are clients that leave" {
        set subscriber [valkey_deferring_client]
        $subscriber subscribe news
        assert_equal {subscribe news 1} [read_reply $subscriber]
        while_throttling {
            set writer [throttled_client {set key 6}]
            r publish news now
            assert_equal {message news now} [read_reply $subscriber]
            $writer close
            wait_until throttled_clients 0
            assert_equal 0 [figure held_clients]
        }
        $subscriber close
    }

    test "durability.sync-timeout-ms closes nobody whose reply is only held to slow it down" {
        while_throttling {
            set writer [throttled_client {set key 7}]
            r config set durability.sync-timeout-ms 1
            after 200
            assert_equal 0 [figure sync_timeouts]
            r config set durability.sync-timeout-ms 0
        }
        assert_answers $writer OK
    }

    foreach {what command back} {
        "Throttling is switched off" {config set durability.throttle no} {config set durability.throttle yes}
        "The mode becomes sync" {durability.mode sync} {durability.mode async}
        "The limit is raised" {config set durability.max-pending-bytes 100mb} {config set durability.max-pending-bytes 1mb}
    } {
        test "$what: who was held is answered" {
            while_throttling {
                set writers [list [throttled_client {set key 8}] [throttled_client {set key 9}]]
                assert_equal OK [r {*}$command]
                foreach writer $writers {assert_answers $writer OK}
                assert_equal {0 0} [list [figure throttling] [figure throttled_clients]]
            }
            assert_equal OK [r {*}$back]
        }
    }

    test "From sync to async: who waits for a write waits for it, whatever is held beside it" {
        r durability.mode sync
        while_frozen {
            set synced [valkey_deferring_client]
            $synced set synced [string repeat x 600000]
            wait_for_held 1
            assert_equal OK [r durability.mode async]
            wait_until throttling 1
            set writer [throttled_client {set key 10}]
            assert_equal OK [r config set durability.throttle no]
            assert_silent $synced
            r config set durability.throttle yes
        }
        assert_answers $synced OK
        assert_answers $writer OK
    }

    test "The mode becomes off: who was held is answered" {
        while_frozen {
            r set large [string repeat x 600000]
            wait_until throttling 1
            set writer [throttled_client {set key 11}]
            assert_equal OK [r durability.mode off]
            assert_answers $writer OK
        }
    }
}

paced_server [dict remove $held_by_bytes mode] {
    test "Another node takes over: nobody who is held gets an answer" {
        r set key before
        wait_until_durable
        set_pace 0
        r set large [string repeat x 600000]
        wait_until throttling 1
        set writer [throttled_client {set key lost}]
        hold_lease
        set_pace
        assert_match {*I/O error*} [read_any_reply $writer]
        $writer close
        reconnect
        wait_until_following
        assert_equal before [r get key]
        assert_equal {0 0 0} [list [figure throttling] [figure throttled_clients] [figure held_clients]]
        release_lease
    }
}

durable_server [dict merge $held_by_bytes {throttle no}] {
    test "With durability.throttle no nothing is held" {
        while_frozen {
            r set large [string repeat x 600000]
            assert_equal OK [r set key 1]
            assert_equal {0 0 0} [list [figure throttling] [figure throttled_writes] [figure held_clients]]
        }
        wait_until_durable
        assert_equal {durability.throttle no} [r config get durability.throttle]
        assert_error {*argument must be 'yes' or 'no'*} {r config set durability.throttle maybe}
    }
}
