# What was acknowledged is there again, whatever died; and how nodes come to their data.

source $::env(SUITE_SUPPORT)/durability.tcl

# Some of every type. Returns a digest of all data.
proc fill {} {
    r flushall
    createComplexDataset r 200 usehexpire
    r set binary "\x00\xff\r\n"
    r function load replace "#!lua name=kept\nredis.register_function('kept', function() return 'kept' end)"
    debug_digest
}

proc assert_filled {digest} {
    assert_equal $digest [debug_digest]
    assert_equal kept [r fcall kept 0]
}

# What is in memory now is there again after a crash.
proc assert_survives_crash {} {
    wait_until_durable
    set digest [debug_digest]
    crash_and_restart_server
    wait_until_leading
    assert_equal $digest [debug_digest]
}

durable_server {} {
    test "Data survives a kill -9 of the server" {
        set digest [fill]
        crash_and_restart_server
        wait_until_leading
        assert_filled $digest
    }

    test "Data survives a kill -9 of the log service, the server serves all the while" {
        set digest [fill]
        kill_log
        assert_equal "\x00\xff\r\n" [r get binary]
        start_log
        r set after-outage 1
        r del after-outage
        assert_filled $digest
        crash_and_restart_server
        wait_until_leading
        assert_filled $digest
    }

    test "Data survives a kill -9 of both" {
        set digest [fill]
        kill_log
        kill_hard [srv 0 pid]
        start_log
        restart_server 0 true false
        wait_until_leading
        assert_filled $digest
    }

    test "A write that is held while the log service is killed is answered when it is back, once" {
        r del counter
        set client [valkey_deferring_client]
        while_frozen {
            $client incr counter
            wait_for_held 1
            kill_log
            start_log
        }
        assert_equal 1 [read_reply $client]
        assert_equal 1 [r get counter]
        assert {![is_readable $client 50]}
        $client close
    }

    test "A server that was killed while a write was held does not invent or halve it" {
        set client [valkey_deferring_client]
        r mset half-a 0 half-b 0
        while_frozen {
            foreach command {multi {set half-a 1} {set half-b 1} exec} {$client {*}$command}
            wait_for_held 1
            kill_hard [srv 0 pid]
        }
        restart_server 0 true false
        wait_until_leading
        assert_equal [r get half-a] [r get half-b]
        $client close
    }

    test "A transaction that is larger than what may be in flight survives" {
        r flushall
        r multi
        for {set i 0} {$i < 6} {incr i} {r set large$i [string repeat x 5000000]}
        r exec
        assert_equal 0 [figure pending_bytes]
        assert_survives_crash
        assert_equal 6 [r dbsize]
    }

    test "Keys that were evicted or expired are gone from the log as well \[case 21\]" {
        # Not in the background: memory that is still to be freed would be room for the new keys.
        r flushall sync
        r config set maxmemory-policy allkeys-lru maxmemory [expr {[s used_memory] + 8000000}]
        populate 20000 evicted: 1000
        r config set maxmemory 0
        assert_morethan [s evicted_keys] 0
        r psetex short 1 value
        wait_for_condition 100 10 {[r exists short] == 0} else {
            fail "the key does not expire"
        }
        assert_survives_crash
    }

    test "The tap's connection is killed: it comes again by partial resync, and nothing is missing \[case 24\]" {
        set reconnects [figure tap_reconnects]
        set seeds [figure seeds]
        set partial [s sync_partial_ok]
        for {set i 0} {$i < 5} {incr i} {
            r rpush tapped before$i
            r client kill type replica
            r rpush tapped after$i
        }
        wait_for_condition 500 10 {[figure tap_reconnects] > $reconnects} else {
            fail "the tap does not connect again"
        }
        assert_equal $seeds [figure seeds]
        assert_morethan [s sync_partial_ok] $partial
        assert_survives_crash
        assert_equal 10 [r llen tapped]
    }

    test "The tap's connection is killed while a write is held: the write is answered, once, and nothing is missing \[case 24\]" {
        set reconnects [figure tap_reconnects]
        set seeds [figure seeds]
        set client [valkey_deferring_client]
        r del tapped
        while_frozen {
            $client rpush tapped held
            wait_for_held 1
            r client kill type replica
            wait_for_condition 500 10 {[figure tap_reconnects] > $reconnects} else {
                fail "the tap does not connect again"
            }
            assert_silent $client
        }
        assert_equal 1 [read_reply $client]
        assert_equal $seeds [figure seeds]
        assert_survives_crash
        assert_equal held [r lrange tapped 0 -1]
        $client close
    }

    test "The tap's output buffer limit is hit: it connects again, and nothing is missing \[case 24\]" {
        r flushall
        r config set repl-backlog-size 1mb client-output-buffer-limit {replica 2mb 0 0}
        set reconnects [figure tap_reconnects]
        set disconnections [s client_output_buffer_limit_disconnections]
        set client [valkey_deferring_client]
        set value [string repeat x 10000000]
        # More than the buffer may hold before anything can be taken from it, and than the backlog keeps.
        $client set large $value
        assert_equal OK [read_reply $client]
        $client close
        assert_morethan [s client_output_buffer_limit_disconnections] $disconnections
        assert_morethan [figure tap_reconnects] $reconnects
        r set small 1
        assert_survives_crash
        assert_equal $value [r get large]
        assert_equal 2 [r dbsize]
    }

    test "DEBUG RELOAD and a restart by SHUTDOWN keep the data \[case 27\]" {
        set digest [fill]
        r debug reload
        wait_until_leading
        assert_filled $digest
        restart_server 0 true false
        wait_until_leading
        assert_filled $digest
    } {} {needs:debug}

    test "A vanilla replica of the log service has the data and follows" {
        set digest [fill]
        start_server {overrides {save {}}} {
            r config set primaryuser $::shard primaryauth none
            r replicaof $::host [log_option port]
            wait_for_condition 500 10 {[s master_link_status] eq "up" && [debug_digest] eq $digest} else {
                fail "the replica does not get the data"
            }
            r -1 set followed 1
            wait_for_condition 500 10 {[r get followed] == 1} else {
                fail "the replica does not follow"
            }
            set writer [valkey_deferring_client -1]
            while_frozen {
                $writer set followed 2
                wait_for_condition 500 10 {[figure held_clients -1] == 1} else {
                    fail "the write is not held"
                }
                assert_equal 1 [r get followed]
            }
            wait_for_condition 500 10 {[r get followed] == 2} else {
                fail "the replica does not follow"
            }
        }
    }
}

durable_server {server {repl-backlog-size 1mb}} {
    test "A log that ends inside a command, because its leader died on the way, is led again without that command" {
        r set before 1
        set writer [valkey_deferring_client]
        while_frozen {
            # More than may be on its way to the log at once.
            $writer set torn [string repeat x 30000000]
            wait_for_held 1
            wait_for_condition 500 10 {[dict get [log_service LOG.STATUS $::shard] durable_end] > 8000000} else {
                fail "the log does not get the beginning"
            }
            kill_hard [srv 0 pid]
        }
        $writer close
        restart_server 0 true false
        wait_until_leading
        assert_equal 1 [r get before]
        assert_equal 0 [r exists torn]
        assert_equal 1 [r dbsize]
        r set after 1
        crash_and_restart_server
        wait_until_leading
        assert_equal 2 [r dbsize]
    }

    test "A leader that has to seed its log while the log is away goes on leading, and loses nothing" {
        r set kept 1
        kill_log
        set writer [valkey_deferring_client]
        $writer set held 1
        wait_for_held 1
        # The tap cannot go on where it was.
        r debug change-repl-id
        r client kill type replica
        wait_for_condition 500 10 {[string match "*cannot be reached*" [figure last_error]]} else {
            fail "no error is shown: [figure last_error]"
        }
        assert_equal leader [figure role]
        assert_equal 1 [r get kept]
        start_log
        assert_equal OK [read_reply $writer]
        wait_until_durable
        crash_and_restart_server
        wait_until_leading
        assert_equal {1 1} [r mget kept held]
        $writer close
    } "*" {needs:debug}
}

durable_server {server {appendonly yes}} {
    test "With AOF on, the log's data is taken after a crash, and the AOF goes on \[case 27\]" {
        set digest [fill]
        crash_and_restart_server
        wait_until_leading
        assert_filled $digest
        r set after-crash 1
        set digest [debug_digest]
        crash_and_restart_server
        wait_until_leading
        assert_filled $digest
    }
}

new_log
start_log
start_server {keep_persistence true overrides {save {}}} {
    set digest [fill]
    r save
    set data_directory [lindex [r config get dir] 1]
}
start_server [server_options [list server [list dir $data_directory]]] {
    wait_until_leading

    test "A server with data seeds an empty log" {
        assert_filled $digest
        wait_for_condition 500 10 {[figure seeds] == 1} else {fail "the log is not seeded: [figure last_error]"}
        assert_morethan_equal [dict get [log_service LOG.STATUS $::shard] snapshot_offset] 0
    }

    test "After that the log gives the data back to a node that lost its own" {
        r set after-seed 1
        set digest [debug_digest]
        kill_hard [srv 0 pid]
        file delete $data_directory/dump.rdb
        restart_server 0 true false
        wait_until_leading
        assert_filled $digest
    }

    test "A log that holds data wins over an older RDB" {
        r save
        r set after-save 1
        set digest [debug_digest]
        crash_and_restart_server
        wait_until_leading
        assert_filled $digest
    }
}
kill_log

new_log
start_server [server_options {mode async}] {
    test "Without its log service a starting server says -LOADING, and attaches when the service comes" {
        wait_for_condition 500 10 {[figure last_error] ne {}} else {
            fail "no error is shown"
        }
        assert_match {*cannot be reached*} [figure last_error]
        assert_equal attaching [figure role]
        assert_error {LOADING*} {r get key}
        assert_error {LOADING*} {r set key 1}
        assert_equal async [r durability.mode]
        start_log
        wait_until_leading
        assert_equal OK [r set key 1]
        assert_equal {} [figure last_error]
    }
}
kill_log

new_log
set tokens [tmpfile tokens]
set file [open $tokens w]
puts $file "$::shard the-token"
close $file
dict set ::log_service arguments [list --tokens $tokens]
start_log
start_server [server_options {auth wrong}] {
    test "With a wrong token the server says so, and attaches when it is right" {
        wait_for_condition 500 10 {[figure last_error] ne {}} else {
            fail "no error is shown"
        }
        assert_match {*NOAUTH*} [figure last_error]
        assert_error {LOADING*} {r get key}
        r config set durability.auth the-token
        wait_until_leading
        assert_equal OK [r set key 1]
    }
}
kill_log
