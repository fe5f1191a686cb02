# Clients that end their sending and wait for their answers, as `nc -N` does: they are answered as by a server without the module.

source $::env(SUITE_SUPPORT)/durability.tcl

# Starts a client that sends `commands`, and `behind` as it is, to `target` and then nothing more, in the database of `r`. Returns its
# process and the file of its answers.
proc start_half_closer {target commands {behind {}}} {
    set input [tmpfile commands]
    set output [tmpfile answers]
    set file [open $input w]
    fconfigure $file -translation binary
    foreach command [list {select 9} {*}$commands] {puts -nonewline $file [format_command {*}$command]}
    puts -nonewline $file $behind
    close $file
    set pid [exec python3 $::env(SUITE_SUPPORT)/half_closer.py {*}$target < $input > $output &]
    send_data_packet $::test_server_fd server-spawned [list $pid $output $::curfile]
    list $pid $output
}

# What it was answered to its commands until its connection was closed.
proc answers {client} {
    lassign $client pid output
    wait_for_condition 3000 10 {![is_alive $pid]} else {
        fail "the connection is not closed"
    }
    send_data_packet $::test_server_fd server-killed $pid
    regsub {^\+OK\r\n} [read_binary $output] {}
}

proc read_binary {name} {
    set file [open $name]
    fconfigure $file -translation binary
    set bytes [read $file]
    close $file
    return $bytes
}

# How many of the server's sockets the system has told of an end that the server has not answered yet (CLOSE_WAIT).
proc ended_sockets {} {
    set port [format %04X [srv 0 port]]
    set found 0
    foreach table {/proc/net/tcp /proc/net/tcp6} {
        if {![file exists $table]} continue
        foreach line [split [read_binary $table] "\n"] {
            incr found [expr {[string match *:$port [lindex $line 1]] && [lindex $line 3] eq "08"}]
        }
    }
    return $found
}

proc connected {} {
    s connected_clients
}

# Until the server has run `count` writes that are not durable, and their clients are gone: `before` are connected.
proc wait_until_gone {count before} {
    wait_for_condition 3000 10 {[figure dirty_keys] == $count && [connected] == $before} else {
        fail "[figure dirty_keys] keys are dirty and [connected] clients connected instead of $count and $before"
    }
}

proc wait_for_half_closed {count} {
    wait_for_condition 3000 10 {[figure half_closed_clients] == $count} else {
        fail "[figure half_closed_clients] connections are half closed instead of $count"
    }
}

proc sets {count {prefix key}} {
    set commands {}
    for {set i 0} {$i < $count} {incr i} {lappend commands [list set $prefix$i value]}
    return $commands
}

# Writes a key as `dirty_key`, and ends the client's sending. Returns the client, whose connection waits for its answer.
proc half_closed_writer {key} {
    set client [dirty_key $key]
    close [$client channel] write
    wait_for_held 0
    return $client
}

proc tcp {} {
    list tcp [srv 0 host] [srv 0 port]
}

proc test_answered {target with} {
    set has_threads [string match "*I/O threads*" $with]
    test "50 writes and a half-close: all are answered once they are durable ($with)" {
        r flushall
        wait_until_durable
        set before [connected]
        while_frozen {
            set client [start_half_closer $target [sets 50]]
            wait_until_gone 50 $before
            assert_equal 0 [figure held_clients]
            assert {[read_binary [lindex $client 1]] in [list {} "+OK\r\n"]}
        }
        assert_equal [string repeat "+OK\r\n" 50] [answers $client]
        wait_for_half_closed 0
        assert_equal $before [connected]
    }

    test "Answers that are larger than a socket takes, and a half-close ($with)" {
        r set large [string repeat x 3000000]
        set before [connected]
        set commands [list {append large y} {*}[lrepeat 8 {get large}] {client reply off} {set key 1}]
        while_frozen {
            set client [start_half_closer $target $commands]
            wait_until_gone 2 $before
        }
        set value "\$3000001\r\n[string repeat x 3000000]y\r\n"
        set answers [answers $client]
        set all ":3000001\r\n[string repeat $value 8]"
        if {!$has_threads} {assert_equal [string length $all] [string length $answers]}
        assert {$answers eq [string range $all 0 [expr {[string length $answers] - 1}]]}
        wait_for_half_closed 0
    }

    if {[lindex $target 0] in {tcp unix}} {
        test "What becomes durable as the end is read is neither lost nor doubled ($with)" {
            log_service LOG.DEBUG DELAY-ACKS $::shard 1
            set client [list [exec python3 $::env(SUITE_SUPPORT)/half_closer_rounds.py 150 {*}$target > [set output [tmpfile wrong]] &] $output]
            send_data_packet $::test_server_fd server-spawned [list [lindex $client 0] $output $::curfile]
            set cut [string trim [answers $client]]
            # One number: what anybody got was right. With I/O threads it may not have been all.
            if {$has_threads} {assert_morethan 30 $cut} else {assert_equal 0 $cut}
            log_service LOG.DEBUG DELAY-ACKS $::shard 0
        }
    }

    test "Late acknowledgements and many half-closes ($with)" {
        log_service LOG.DEBUG DELAY-ACKS $::shard 50
        set clients {}
        for {set i 0} {$i < 10} {incr i} {
            lappend clients [start_half_closer $target [list {*}[sets 20 $i] {get 00} {nonsense}]]
        }
        foreach client $clients {
            assert_match "[string repeat "+OK\r\n" 20]$*\r\n-ERR unknown command*\r\n" [answers $client]
        }
        log_service LOG.DEBUG RESUME-ACKS $::shard
        wait_for_half_closed 0
        assert_equal PONG [r ping]
    }
}

# On a slow machine the log may be frozen for long.
set options {max-lag-ms 600000}
durable_server $options {
    test_answered [tcp] TCP
    test_answered [list unix [srv 0 unixsocket]] "unix socket"

    test "QUIT or nonsense of the protocol, and a half-close" {
        foreach {behind answer} {"QUIT\r\n" "+OK\r\n" "*x\r\n" "-ERR Protocol error: invalid multibulk length\r\n"} {
            r flushall
            wait_until_durable
            set before [connected]
            while_frozen {
                set client [start_half_closer [tcp] {{set key 1}} $behind]
                wait_until_gone 1 $before
            }
            assert_equal "+OK\r\n$answer" [answers $client]
        }
        assert_equal PONG [r ping]
    }

    test "A half-closed client is gone for others: it takes nothing from lists, and no messages" {
        r flushall
        wait_until_durable
        set before [connected]
        while_frozen {
            set blocked [start_half_closer [tcp] {{set key 1} {blpop list 0} {set never 1}}]
            wait_until_gone 1 $before
            set subscribed [start_half_closer [tcp] {{set key2 1} {subscribe channel}}]
            wait_until_gone 2 $before
            assert_equal 0 [r publish channel message]
            set pusher [valkey_deferring_client]
            $pusher rpush list element
            wait_for_held 1
        }
        assert_equal "+OK\r\n" [answers $blocked]
        assert_equal "+OK\r\n*3\r\n\$9\r\nsubscribe\r\n\$7\r\nchannel\r\n:1\r\n" [answers $subscribed]
        assert_equal 1 [read_reply $pusher]
        $pusher close
        assert_equal element [r lpop list]
        assert_equal 0 [r exists never]
    }

    test "A message to a client whose end is read in the same moment does not leave before what it tells of is durable" {
        r flushall
        wait_until_durable
        set subscriber [valkey_deferring_client]
        $subscriber subscribe channel
        read_reply $subscriber
        set publisher [valkey_deferring_client]
        set sleeper [valkey_deferring_client]
        set before [connected]
        while_frozen {
            # What arrives meanwhile is read in one round of the event loop, in its order.
            $sleeper debug sleep 1
            send_all $publisher {multi {set key 1} {publish channel key} exec}
            close [$subscriber channel] write
            wait_until_gone 1 [expr {$before - 1}]
            assert_silent $subscriber
        }
        # A plain server may have dropped it.
        assert_match {{message channel key} {*I/O error*}} [list [read_any_reply $subscriber] [read_any_reply $subscriber]]
        foreach client [list $subscriber $publisher $sleeper] {$client close}
    }

    test "A half-close while the server has a child process" {
        r flushall
        r set key 1
        wait_until_durable
        r config set rdb-key-save-delay 60000000
        r bgsave
        set before [connected]
        while_frozen {
            set client [start_half_closer [tcp] [sets 1 child]]
            wait_until_gone 1 $before
        }
        # The child has the socket as well.
        assert_equal "+OK\r\n" [answers $client]
        r config set rdb-key-save-delay 0
        catch {exec kill -KILL [get_child_pid 0]}
        waitForBgsave r
    }

    test "A client that resets its half-closed connection is forgotten at once" {
        r flushall
        wait_until_durable
        set before [connected]
        while_frozen {
            set client [start_half_closer [list reset [srv 0 host] [srv 0 port]] [sets 1]]
            wait_until_gone 1 $before
            wait_for_half_closed 1
            set since [clock milliseconds]
            exec kill -USR1 [lindex $client 0]
            wait_for_half_closed 0
            assert_lessthan [expr {[clock milliseconds] - $since}] 9000
        }
        assert_equal {} [answers $client]
    }

    test "A client of a unix socket that is gone is not kept" {
        r flushall
        wait_until_durable
        set before [connected]
        through_relay unix [list [srv 0 unixsocket]] {
            while_frozen {
                set writer [dirty_key unix]
                $writer close
                wait_for_condition 3000 10 {[figure held_clients] == 0} else {
                    fail "the client is still there"
                }
                assert_equal 0 [figure half_closed_clients]
            }
        }
    }

    test "The oldest half-closed connections are closed beyond a tenth of maxclients" {
        r flushall
        wait_until_durable
        set maximum [lindex [r config get maxclients] 1]
        # High enough that socket numbers do not matter.
        r config set maxclients 100
        while_frozen {
            set clients {}
            for {set i 1} {$i <= 12} {incr i} {lappend clients [half_closed_writer key$i]}
            wait_for_half_closed 10
            # Without an answer, while the others wait.
            foreach client [lrange $clients 0 1] {assert_match {*I/O error*} [read_any_reply $client]}
            assert_equal 10 [figure half_closed_clients]
        }
        foreach client [lrange $clients 2 end] {
            assert_equal OK [read_reply $client]
            assert_match {*I/O error*} [read_any_reply $client]
        }
        foreach client $clients {$client close}
        r config set maxclients $maximum
    } {OK}

    test "No more is copied for the half-closed clients of one round than may be kept" {
        r flushall
        r set large [string repeat x 10000000]
        wait_until_durable
        set before [connected]
        set writer [valkey_deferring_client]
        set clients {}
        for {set i 0} {$i < 30} {incr i} {lappend clients [valkey_deferring_client]}
        while_frozen {
            $writer append large y
            wait_for_held 1
            foreach client $clients {$client get large}
            wait_for_held 31
            # What arrives meanwhile is read in one round of the event loop, in its order. The system may deliver in another order than was sent.
            pause_process [srv 0 pid]
            foreach client [lrange $clients 0 5] {close [$client channel] write}
            wait_for_condition 1000 10 {[ended_sockets] == 6} else {fail "[ended_sockets] ends have arrived"}
            foreach client [lrange $clients 6 end] {close [$client channel] write}
            resume_process [srv 0 pid]
            wait_for_condition 3000 10 {[connected] == $before + 1} else {fail "[connected] clients are connected"}
            # 64 MB, of those that came first.
            assert_equal 6 [figure half_closed_clients]
            foreach client [lrange $clients 0 5] {assert_equal 0 [is_readable $client 1]}
            foreach client [lrange $clients 6 end] {assert_match {*I/O error*} [read_any_reply $client]}
        }
        foreach client [list {*}$clients $writer] {$client close}
        wait_for_half_closed 0
    }

    test "Half-closed connections make room for new clients when sockets run out" {
        r flushall
        wait_until_durable
        set maximum [lindex [r config get maxclients] 1]
        set others {}
        for {set i 0} {$i < 30} {incr i} {lappend others [valkey_client]}
        r config set maxclients 70
        while_frozen {
            set clients {}
            for {set i 1} {$i <= 4} {incr i} {lappend clients [half_closed_writer key$i]}
            wait_for_half_closed 4
            # Then more sockets than maxclients are open, but fewer clients.
            for {set i 0} {$i < 35} {incr i} {lappend others [valkey_client]}
            wait_for_half_closed 0
            assert_match {*I/O error*} [read_any_reply [lindex $clients 0]]
        }
        foreach client [list {*}$clients {*}$others] {$client close}
        r config set maxclients $maximum
    } {OK}

    test "What is held for half-closed clients never leaves if the log does not take it" {
        r flushall
        wait_until_durable
        set before [connected]
        while_frozen {
            set client [start_half_closer [tcp] [sets 3]]
            wait_until_gone 3 $before
            wait_for_half_closed 1
            r config set durability.mode off
            wait_for_half_closed 0
        }
        assert_equal {} [answers $client]
        r config set durability.mode sync
        wait_until_leading
    }

    test "A half-closed connection is kept for no longer than durability.sync-timeout-ms" {
        r flushall
        wait_until_durable
        r config set durability.sync-timeout-ms 500
        set before [connected]
        while_frozen {
            set client [start_half_closer [tcp] [sets 1]]
            # Whether it is closed as a client that waits too long or as one that is half closed.
            assert_equal {} [answers $client]
            wait_until_gone 1 $before
            wait_for_half_closed 0
        }
        r config set durability.sync-timeout-ms 0
    } {OK}

    test "100 half-closed clients wait without work for the server, and are given up after 10 s" {
        r flushall
        wait_until_durable
        set before [connected]
        proc cpu_ms {} {
            expr {int(1000 * ([s used_cpu_user] + [s used_cpu_sys]))}
        }
        while_frozen {
            for {set i 0} {$i < 100} {incr i} {[dirty_key gone$i] close}
            wait_until_gone 100 $before
            set kept [figure half_closed_clients]
            set used [cpu_ms]
            set since [clock milliseconds]
            wait_for_half_closed 0
            set waited [expr {[clock milliseconds] - $since}]
            set used [expr {[cpu_ms] - $used}]
        }
        if {$::verbose} {puts "$kept of 100 connections were kept, for $waited ms, which took $used ms of CPU time"}
        assert_lessthan $used [expr {$waited / 4}]
        assert_equal [list 100 $before] [list $kept [connected]]
    }
}

durable_server [list {*}$options failover yes lease-ms 2000] {
    test "What is held for half-closed clients never leaves once the lease has passed" {
        log_service LOG.DEBUG FREEZE-ACKS $::shard
        set client [half_closed_writer key]
        wait_for_half_closed 1
        exec kill -STOP [log_option pid]
        # All clients are closed then.
        wait_for_condition 3000 10 {[catch {figure role} role] ? [reconnect] eq {} : $role eq "suspended"} else {
            fail "the lease does not pass"
        }
        assert_equal 0 [figure half_closed_clients]
        exec kill -CONT [log_option pid]
        log_service LOG.DEBUG RESUME-ACKS $::shard
        wait_until_leading
        wait_until_durable
        # Durable it is.
        assert_match {*I/O error*} [read_any_reply $client]
        $client close
        assert_equal dirty [r get key]
    }
}

set threads {io-threads 4 io-threads-always-active yes}
foreach {threading with} [list {} "" $threads ", I/O threads"] {
    lassign [tls_server] tls target
    durable_server [list {*}$options server [list {*}$tls {*}$threading]] {
        if {$threading ne {}} {
            test_answered [tcp] "TCP$with"
            test_answered [list unix [srv 0 unixsocket]] "unix socket$with"
        }
        test_answered [list tls {*}$target] "TLS$with"
    }
}
