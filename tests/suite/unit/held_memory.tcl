# Large replies that wait for the log are in the module's memory: they make the server neither evict keys nor answer OOM, they
# are bounded, and every byte of them leaves in its order.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/dataset.tcl

set ::megabyte [expr {1 << 20}]
# Writes are not to be refused, however long a busy machine takes while nothing is acknowledged.
set ::a_day 86400000

# The key becomes a list of about so many bytes, in elements of 1,000. Returns its elements.
proc make_list {key bytes {level 0}} {
    r $level del $key
    set elements {}
    for {set i 0} {$i < $bytes / 1000} {incr i} {
        lappend elements [string range [string repeat "$key-$i." 200] 0 999]
    }
    foreach {a b c d e f g h i j} $elements {r $level rpush $key {*}[concat $a $b $c $d $e $f $g $h $i $j]}
    return $elements
}

proc wait_for_held_bytes {least {most 1e18}} {
    wait_for_condition 3000 10 {[figure held_bytes] >= $least && [figure held_bytes] <= $most} else {
        fail "expected $least to $most held bytes, there are [figure held_bytes]: [figure held_clients] held, [figure dirty_keys] dirty,\
            [figure waiting_groups] groups, [r client list]"
    }
}

# So many clients that have asked for the whole list, and all but little of what they are to get has been taken from the server.
proc readers_of {key count bytes} {
    set readers {}
    for {set i 1} {$i <= $count} {incr i} {
        set before [figure held_bytes]
        set reader [valkey_deferring_client]
        $reader lrange $key 0 -1
        lappend readers $reader
        wait_for_held_bytes [expr {$before + $bytes - 100000}]
    }
    return $readers
}

# Bytes until `marker` is their end, read in pieces of at most `piece` bytes. Ends with an error if nothing comes for 30 s.
proc read_until {client marker {piece 1000000}} {
    set channel [$client channel]
    fconfigure $channel -blocking 0 -translation binary
    set bytes {}
    while {[string range $bytes end-[expr {[string length $marker] - 1}] end] ne $marker} {
        if {![is_readable $client 30000]} {fail "[string length $bytes] bytes, then nothing"}
        append bytes [read $channel $piece]
        if {[eof $channel]} {fail "[string length $bytes] bytes, then the end"}
    }
    fconfigure $channel -blocking 1
    return $bytes
}

# The client and a client of the plain server one level out are sent the same commands, in packets of several. Sees that they get
# the same bytes.
proc assert_same_bytes {packets client plain {piece 1000000}} {
    foreach packet [concat $packets {{{echo end-of-replies}}}] {
        foreach to [list $client $plain] {
            # As many rounds of the event loop as there are packets.
            send_all $to $packet
        }
        assert_equal PONG [r ping]
    }
    set marker "\$14\r\nend-of-replies\r\n"
    set expected [read_until $plain $marker]
    set bytes [read_until $client $marker $piece]
    assert_equal [string length $expected] [string length $bytes]
    assert {$bytes eq $expected}
}

foreach {policy threads} {allkeys-lru 1 noeviction 1 allkeys-lru 3} {
    durable_server [list max-lag-ms $::a_day server [list maxmemory-policy $policy io-threads $threads]] {
        test "30 readers of a dirty list of 1 MB: no key is evicted, nobody gets OOM ($policy, io-threads $threads)" {
            for {set i 0} {$i < 500} {incr i} {r set filler:$i [string repeat x 1000]}
            set elements [make_list big $::megabyte]
            wait_until_durable
            while_frozen {
                set writer [valkey_deferring_client]
                $writer rpush big last
                wait_for_held 1
                set used [s used_memory]
                r config set maxmemory [expr {$used + 8 * $::megabyte}]
                set readers [readers_of big 30 $::megabyte]
                assert_lessthan_equal [s used_memory] [expr {$used + 6 * $::megabyte}]
                assert_equal 0 [s evicted_keys]
                # Another client's write is not refused.
                set other [valkey_deferring_client]
                $other set other value
                wait_for_held 32
                foreach client [concat $readers $writer $other] {assert_silent $client}
            }
            assert_equal OK [read_reply $other]
            assert_equal [expr {[llength $elements] + 1}] [read_reply $writer]
            foreach reader $readers {
                assert_equal [concat $elements last] [read_reply $reader]
                $reader close
            }
            assert_equal 0 [s evicted_keys]
            wait_for_held 0
            wait_for_held_bytes 0 0
            r config set maxmemory 0
        }
    }
}

durable_server [list max-lag-ms $::a_day] {
    test "Beyond max-held-bytes the clients that have most are closed, the others are answered" {
        set small [make_list small [expr {$::megabyte / 2}]]
        set big [make_list big $::megabyte]
        r config set durability.max-held-bytes [expr {3 * $::megabyte}]
        while_frozen {
            set writer [valkey_deferring_client]
            send_all $writer {{rpush small last} {rpush big last}}
            wait_for_held 1
            set few [readers_of small 2 [expr {$::megabyte / 2}]]
            set many [readers_of big 1 $::megabyte]
            set most [valkey_deferring_client]
            send_all $most {{lrange big 0 -1} {lrange big 0 -1}}
            assert_match {*I/O error*} [read_any_reply $most]
            $most close
            wait_for_condition 500 10 {[figure held_clients_closed] == 1} else {
                fail "[figure held_clients_closed] clients are closed"
            }
            wait_for_held 4
            assert_lessthan_equal [figure held_bytes] [expr {3 * $::megabyte}]
            verify_log_message 0 "*closed 1 clients without an answer*max-held-bytes*" 0
        }
        foreach reader $few {assert_equal [concat $small last] [read_reply $reader]; $reader close}
        assert_equal [concat $big last] [read_reply $many]
        $many close
        $writer close
        r config set durability.max-held-bytes 256mb
    }

    test "Values that the server does not copy cost nobody the connection" {
        r set value [string repeat v $::megabyte]
        r config set durability.max-held-bytes [expr {3 * $::megabyte}]
        set closed [figure held_clients_closed]
        wait_until_durable
        while_frozen {
            set writer [valkey_deferring_client]
            $writer append value w
            wait_for_held 1
            set used [s used_memory]
            set readers {}
            for {set i 2} {$i <= 11} {incr i} {
                set reader [valkey_deferring_client]
                $reader get value
                lappend readers $reader
                wait_for_held $i
            }
            wait_for_held_bytes $::megabyte [expr {3 * $::megabyte}]
            assert_lessthan [s used_memory] [expr {$used + $::megabyte}]
            wait_for_held 11
        }
        foreach reader $readers {
            assert_equal [string repeat v $::megabyte]w [read_reply $reader]
            $reader close
        }
        $writer close
        assert_equal $closed [figure held_clients_closed]
        r config set durability.max-held-bytes 256mb
    }

    test "client-output-buffer-limit counts what was taken from the server" {
        r config set client-output-buffer-limit "normal 4mb 0 0"
        while_frozen {
            set writer [valkey_deferring_client]
            $writer rpush big 1
            wait_for_held 1
            set closed [figure held_clients_closed]
            set reader [valkey_deferring_client]
            for {set i 1} {$i <= 4} {incr i} {
                # One by one: the server itself counts what it has before it is taken.
                $reader lrange big 0 -1
                if {$i < 4} {wait_for_held_bytes [expr {$i * ($::megabyte - 20000)}]}
            }
            assert_match {*I/O error*} [read_any_reply $reader]
            $reader close
            wait_for_held_bytes 0 0
            assert_equal [expr {$closed + 1}] [figure held_clients_closed]
        }
        $writer close
        r config set client-output-buffer-limit "normal 0 0 0"
    }

    test "A client-output-buffer-limit that is taken back closes nobody any more" {
        r config set client-output-buffer-limit "normal 3mb 0 0"
        set closed [figure held_clients_closed]
        while_frozen {
            set writer [valkey_deferring_client]
            $writer rpush big 8
            wait_for_held 1
            set readers [readers_of big 1 $::megabyte]
            # By then the module has looked at it, which it does each second while anything waits.
            after 1200
            r config set client-output-buffer-limit "normal 0 0 0"
            send_all [lindex $readers 0] [lrepeat 9 {lrange big 0 -1}]
            wait_for_held_bytes [expr {10 * $::megabyte - 200000}]
            after 1200
            assert_equal $closed [figure held_clients_closed]
        }
        set reader [lindex $readers 0]
        for {set i 0} {$i < 10} {incr i} {assert_equal 8 [lindex [read_reply $reader] end]}
        $reader close
        $writer close
    }

    test "maxmemory-clients does not evict clients for what was taken from the server" {
        r config set maxmemory-clients 8mb
        while_frozen {
            set writer [valkey_deferring_client]
            $writer rpush big 2
            wait_for_held 1
            set readers [readers_of big 20 $::megabyte]
            assert_equal 0 [s evicted_clients]
        }
        foreach reader $readers {
            assert_equal 2 [lindex [read_reply $reader] end]
            $reader close
        }
        $writer close
        r config set maxmemory-clients 0
    }

    test "A client that leaves, or is killed, takes its held replies with it" {
        wait_until_durable
        while_frozen {
            set writer [valkey_deferring_client]
            $writer rpush big 3
            wait_for_held 1
            lassign [readers_of big 2 $::megabyte] leaving killed
            $killed echo killed
            $leaving close
            wait_for_held_bytes [expr {$::megabyte - 100000}] [expr {$::megabyte + 100000}]
            wait_for_condition 500 10 {[regexp {id=(\d+) [^\n]* cmd=echo } [r client list] _ id]} else {
                fail "the client is not there: [r client list]"
            }
            assert_equal 1 [r client kill id $id]
            assert_match {*I/O error*} [read_any_reply $killed]
            $killed close
            wait_for_held_bytes 0 0
            wait_for_held 1
        }
        assert_morethan [read_reply $writer] 1000
        $writer close
    }

    test "QUIT behind a large held reply is answered after all of it" {
        while_frozen {
            set writer [valkey_deferring_client]
            $writer rpush big 4
            wait_for_held 1
            set client [valkey_deferring_client]
            send_all $client {{lrange big 0 -1} quit}
            wait_for_held 2
            wait_for_held_bytes [expr {$::megabyte - 100000}]
            assert_silent $client
        }
        assert_equal 4 [lindex [read_reply $client] end]
        assert_equal OK [read_reply $client]
        assert_match {*I/O error*} [read_any_reply $client]
        $client close
        $writer close
    }

    test "CLIENT REPLY OFF behind a large held reply" {
        while_frozen {
            set writer [valkey_deferring_client]
            $writer rpush big 5
            wait_for_held 1
            set client [valkey_deferring_client]
            send_all $client {{lrange big 0 -1} {client reply off} {lrange big 0 -1}}
            wait_for_held_bytes [expr {$::megabyte - 100000}]
            send_all $client {{set silent 1} {client reply on} ping}
            wait_for_held 2
        }
        assert_equal 5 [lindex [read_reply $client] end]
        assert_equal OK [read_reply $client]
        assert_equal PONG [read_reply $client]
        $client close
        $writer close
    }

    test "RESP3: pushes between large held replies come in their place" {
        set client [protocol_client 0 3]
        $client subscribe channel
        assert_equal {subscribe channel 1} [read_reply $client]
        while_frozen {
            set writer [valkey_deferring_client]
            $writer rpush big 6
            wait_for_held 1
            $client lrange big 0 -1
            wait_for_held_bytes [expr {$::megabyte - 100000}]
            for {set i 0} {$i < 3} {incr i} {
                r publish channel [string repeat $i 100000]
                send_all $client [list {lrange big 0 -1} [list echo $i]]
                # What is behind a reply that waits already is taken as well. The next message comes behind it.
                wait_for_held_bytes [expr {($i + 2) * $::megabyte - 200000}]
            }
            assert_silent $client
        }
        assert_equal 6 [lindex [read_reply $client] end]
        for {set i 0} {$i < 3} {incr i} {
            assert_equal [list message channel [string repeat $i 100000]] [read_reply $client]
            assert_equal 6 [lindex [read_reply $client] end]
            assert_equal $i [read_reply $client]
        }
        $client close
        $writer close
    }

    test "A module that is off is not unloaded before a slow reader has all that was held" {
        while_frozen {
            set writer [valkey_deferring_client]
            $writer rpush big 7
            wait_for_held 1
            set reader [valkey_deferring_client]
            send_all $reader [lrepeat 40 {lrange big 0 -1}]
            wait_for_held_bytes [expr {40 * $::megabyte - 200000}]
        }
        wait_for_held 0
        r durability.mode off
        assert_morethan [figure held_bytes] 0
        assert_error "*" {r module unload durability}
        verify_log_message 0 "*read slowly*held_bytes*" 0
        for {set i 0} {$i < 40} {incr i} {assert_equal 7 [lindex [read_reply $reader] end]}
        wait_for_held_bytes 0 0
        assert_equal OK [r module unload durability]
        $reader close
        $writer close
    }
}

durable_server [list max-lag-ms $::a_day] {
    test "A module that is off is not unloaded while a client waits for the log" {
        while_frozen {
            set writer [valkey_deferring_client]
            $writer set key value
            wait_for_held 1
            set other [valkey_deferring_client]
            send_all $other {{config set durability.mode off} {module unload durability}}
            assert_equal OK [read_reply $other]
            assert_match {*Error unloading module*} [read_any_reply $other]
            verify_log_message 0 "*wait for the log*held_clients*" 0
            assert {[is_readable $writer 30000]}
            wait_for_held 0
        }
        assert_equal OK [r module unload durability]
        $writer close
        $other close
    }
}

# Pipelines of small and large replies of all kinds, with writes among them.
proc mixed_packets {} {
    set packets {}
    for {set i 0} {$i < 12} {incr i} {
        lappend packets [list "append string $i" {lrange big 0 -1} "echo $i" {getrange string 0 -1} "rpush big $i" {hget hash field} ping \
            "hset hash field [string repeat $i 150000]" {hgetall hash} {lrange big 0 300}]
        lappend packets {{get string}} {{get string} {get string}} {{lrange big 0 -1}} {ping} {{set small 1} {lrange big -30 -1}}
    }
    return $packets
}

proc test_order {with} {
    test "A client whose socket is full when it comes to be held gets all of it ($with)" {
        foreach level {0 -1} {
            r $level flushall
            r $level set string [string repeat x $::megabyte]
            make_list big $::megabyte $level
        }
        wait_until_durable
        set client [valkey_deferring_client]
        set plain [valkey_deferring_client -1]
        set before [lrepeat 20 {get string} {lrange big 0 -1}]
        foreach to [list $client $plain] {send_all $to $before}
        wait_for_condition 3000 10 {[regexp { omem=[1-9]\d{6,}} [r client list]]} else {
            fail "the server has sent everything: [r client list]"
        }
        while_frozen {
            foreach packet {{{rpush big last}} {{lrange big 0 -1} {get string}} {{lrange big 0 -1} ping}} {
                foreach to [list $client $plain] {send_all $to $packet}
                assert_equal PONG [r ping]
            }
            wait_for_held 1
            # A part of what is on its way leaves: as much as this machine's network has taken already, half a megabyte at most.
            set channel [$client channel]
            fconfigure $channel -translation binary -blocking 0
            set bytes {}
            while {[string length $bytes] < 500000 && [is_readable $client 200]} {append bytes [read $channel 100000]}
            fconfigure $channel -blocking 1
            assert_morethan [string length $bytes] 0
            assert_equal 1 [figure held_clients]
        }
        foreach to [list $client $plain] {send_all $to {{echo end-of-replies}}}
        set marker "\$14\r\nend-of-replies\r\n"
        append bytes [read_until $client $marker]
        assert {$bytes eq [read_until $plain $marker]}
        wait_for_held_bytes 0 0
        $client close
        $plain close
    }

    foreach {reading piece delay_ms} {fast 1000000 0 fast 1000000 20 slow 3000 20} {
        test "Small and large replies with several groups in flight are those of plain Valkey, byte by byte ($with, $reading, $delay_ms ms)" {
            foreach level {0 -1} {
                r $level flushall
                r $level set string [string repeat x 100000]
                make_list big 600000 $level
                r $level hset hash field [string repeat y 150000]
            }
            wait_until_durable
            set client [valkey_deferring_client]
            set plain [valkey_deferring_client -1]
            if {$delay_ms > 0} {
                log_service LOG.DEBUG DELAY-ACKS $::shard $delay_ms
                assert_same_bytes [mixed_packets] $client $plain $piece
                log_service LOG.DEBUG RESUME-ACKS $::shard
            } else {
                # All of it waits, then leaves.
                log_service LOG.DEBUG FREEZE-ACKS $::shard
                foreach packet [mixed_packets] {
                    send_all $client $packet
                    send_all $plain $packet
                    assert_equal PONG [r ping]
                }
                wait_for_held_bytes $::megabyte
                log_service LOG.DEBUG RESUME-ACKS $::shard
                assert_same_bytes {} $client $plain $piece
            }
            wait_for_held_bytes 0 0
            $client close
            $plain close
        }
    }
}

start_server {overrides {save {}} tags {external:skip tls:skip}} {
    foreach threads {1 2 4} {
        durable_server [list max-lag-ms $::a_day server [list io-threads $threads]] {
            test_order "io-threads $threads"
        }
    }
    foreach threads {1 3} {
        lassign [tls_server] configuration target
        durable_server [list max-lag-ms $::a_day server [concat $configuration io-threads $threads]] {
            through_relay tls $target {test_order "TLS, io-threads $threads"}
        }
    }
}
