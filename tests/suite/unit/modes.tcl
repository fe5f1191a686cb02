# The modes, how they change, and who may change them.

source $::env(SUITE_SUPPORT)/durability.tcl

# Writes keys at once from many clients, which are returned.
proc start_writers {count prefix} {
    set clients {}
    for {set i 0} {$i < $count} {incr i} {
        set client [valkey_deferring_client]
        $client set $prefix$i value
        lappend clients $client
    }
    return $clients
}

proc assert_all_answered {clients} {
    foreach client $clients {
        assert_equal OK [read_reply $client]
        $client close
    }
}

durable_server {} {
    test "DURABILITY.MODE shows the mode and changes it" {
        assert_equal sync [r durability.mode]
        assert_equal OK [r durability.mode async]
        assert_equal async [r durability.mode]
        assert_equal {durability.mode async} [r config get durability.mode]
        assert_equal OK [r durability.mode SYNC]
        assert_equal sync [figure mode]
    }

    test "CONFIG SET changes the mode as well" {
        assert_equal OK [r config set durability.mode async]
        assert_equal async [r durability.mode]
        assert_equal OK [r config set durability.mode sync]
    }

    test "CONFIG GET shows all configs" {
        set configs [r config get durability.*]
        assert_equal {allow-replicaof allow-untested-version announce auth auth-file count-in-waitaof failover lease-ms log max-held-bytes max-lag-ms max-pending-bytes mode node-id priority shard sync-timeout-ms throttle tls\
             tls-ca tls-cert tls-crl tls-key zone} \
            [lmap name [lsort [dict keys $configs]] {string range $name 11 end}]
        assert_equal $::host:[log_option port] [dict get $configs durability.log]
    }

    test "An unknown mode is refused, and the mode stays" {
        assert_error {*sync, async, off*} {r durability.mode fast}
        assert_error {*sync, async, off*} {r config set durability.mode fast}
        assert_error {*wrong number of arguments*} {r durability.mode sync async}
        assert_equal sync [r durability.mode]
    }

    test "What names the log cannot be changed in a running server" {
        foreach name {log shard node-id} {
            assert_error {*restart*} {r config set durability.$name other:1}
            assert_equal OK [r config set durability.$name [lindex [r config get durability.$name] 1]]
        }
    }

    test "DURABILITY.STATUS shows what INFO shows" {
        set status [r durability.status]
        foreach name {mode role shard log epoch held_clients self_test} {
            assert_equal [figure $name] [dict get $status $name]
        }
        assert_equal leader [dict get $status role]
        assert_equal passed [dict get $status self_test]
    }

    test "The commands are documented" {
        assert_match {*DURABILITY.MODE*DURABILITY.LAG*DURABILITY.STATUS*} [r durability.help]
        foreach name {durability.mode durability.lag durability.status durability.help} {
            assert_match {*summary*} [dict get [r command docs $name] $name]
            assert {$name in [r acl cat durability]}
        }
        assert_error {*wrong number of arguments*} {r durability.status now}
    }

    test "A user without the permission for CONFIG SET cannot change the mode" {
        r acl setuser limited on nopass ~* &* +@all -config|set
        set client [valkey_client]
        $client auth limited any
        assert_equal sync [$client durability.mode]
        assert_error {NOPERM*} {$client durability.mode off}
        assert_equal sync [r durability.mode]
        $client close
        r acl deluser limited
    } {1}

    test "Async: writes are answered at once, and the lag grows until the log acknowledges" {
        r durability.mode async
        assert_equal 0 [r durability.lag]
        while_frozen {
            assert_equal OK [r set key async]
            assert_equal async [r get key]
            assert_equal 0 [figure held_clients]
            wait_for_condition 500 10 {[r durability.lag] > 50} else {
                fail "the lag does not grow"
            }
            assert_morethan [figure pending_bytes] 0
        }
        wait_for_condition 500 10 {[r durability.lag] == 0} else {
            fail "the lag does not end"
        }
        r durability.mode sync
    } {OK}

    test "From sync to async with clients held: all are answered \[case 22\]" {
        while_frozen {
            set clients [start_writers 50 held]
            wait_for_held 50
            assert_equal OK [r durability.mode async]
            assert_equal OK [r set at-once 1]
        }
        assert_all_answered $clients
        wait_for_held 0
        r durability.mode sync
    } {OK}

    test "From async to sync: what is not durable yet is dirty \[case 22\]" {
        r durability.mode async
        set reader [valkey_deferring_client]
        while_frozen {
            assert_equal OK [r set key before]
            assert_equal OK [r durability.mode sync]
            $reader get key
            wait_for_held 1
            set clients [start_writers 50 after]
            wait_for_held 51
            assert_silent $reader
        }
        assert_equal before [read_reply $reader]
        assert_all_answered $clients
        $reader close
        wait_for_held 0
    }

    test "Modes that change under load lose no answer \[case 22\]" {
        set load [start_write_load [srv 0 host] [srv 0 port] 30]
        for {set i 0} {$i < 20} {incr i} {
            r durability.mode [lindex {async sync} [expr {$i % 2}]]
            set clients [start_writers 20 change$i-]
            assert_all_answered $clients
        }
        stop_write_load $load
        wait_load_handlers_disconnected
        wait_for_held 0
        wait_until_durable
        assert_equal sync [r durability.mode]
    }

    test "Unloading the module is refused while it is in use \[case 27\]" {
        assert_error {*unload*} {r module unload durability}
        assert_equal leader [figure role]
    }

    test "Off with clients held: none is told that its write is durable \[case 22\]" {
        while_frozen {
            set clients [start_writers 10 lost]
            wait_for_held 10
            assert_equal OK [r durability.mode off]
            foreach client $clients {
                assert_match {*I/O error*} [read_any_reply $client]
                $client close
            }
            assert_equal off [figure role]
            assert_equal 0 [figure held_clients]
        }
    }

    test "Off: writes are answered and not shipped; on again, the log starts from what the server holds \[case 22\]" {
        set end [dict get [log_service LOG.STATUS $::shard] end]
        r flushall
        populate 1000 off: 10
        assert_equal $end [dict get [log_service LOG.STATUS $::shard] end]
        set digest [debug_digest]
        set seeds [figure seeds]
        set from_ms [figure unlogged_from_ms]
        assert_range $from_ms [expr {[clock milliseconds] - 60000}] [clock milliseconds]
        assert_equal 0 [figure unlogged_until_ms]
        set on_ms [clock milliseconds]
        r durability.mode sync
        wait_until_leading
        wait_for_condition 500 10 {[figure seeds] == $seeds + 1} else {
            fail "the log is not seeded: [figure last_error]"
        }
        wait_for_condition 500 10 {[figure unlogged_until_ms] >= $on_ms} else {
            fail "it does not show until when writes were not sent to the log"
        }
        assert_equal $from_ms [figure unlogged_from_ms]
        r set after-seed 1
        set digest [debug_digest]
        crash_and_restart_server
        wait_until_leading
        assert_equal $digest [debug_digest]
        assert_equal 1 [r get after-seed]
    }

    test "Off, the module can be unloaded, and the server goes on \[case 27\]" {
        r durability.mode off
        assert_equal OK [r module unload durability]
        assert_equal OK [r set key plain]
        assert_equal {} [r config get durability.mode]
    }

    test "Loaded again, it does not let the log overwrite what was written in between" {
        assert_equal OK [r module load $::env(DURABILITY_SO) log $::host:[log_option port] shard $::shard]
        wait_for_condition 500 10 {[figure role] eq "refused"} else {
            fail "the role is [figure role]"
        }
        assert_error {ERR durability: the log of shard * did not follow*} {r get key}
        r durability.mode off
        assert_equal plain [r get key]
    }
}

foreach from {async off} {
    durable_server {} {
        test "From $from to sync under load: what is acknowledged then survives a crash, and nobody hangs \[case 22\]" {
            r durability.mode $from
            set load [start_write_load [srv 0 host] [srv 0 port] 30]
            wait_for_condition 500 10 {[r dbsize] > 0} else {
                fail "there is no load"
            }
            for {set round 0} {$round < 5} {incr round} {
                set before [start_writers 20 before$round-]
                assert_equal OK [r durability.mode sync]
                assert_all_answered $before
                # Read one by one, so that the last answers are as young as can be when the server dies.
                set clients [start_writers 20 round$round-]
                assert_all_answered $clients
                if {$round < 4} {
                    set clients [start_writers 20 back$round-]
                    assert_equal OK [r durability.mode $from]
                    foreach client $clients {
                        # Answered, or closed because nothing says that it is durable.
                        assert_match {OK} [string map {{I/O error reading reply} OK} [read_any_reply $client]]
                        $client close
                    }
                }
            }
            kill_hard [srv 0 pid]
            stop_write_load $load
            restart_server 0 true false
            wait_until_leading
            for {set round 0} {$round < 5} {incr round} {
                for {set i 0} {$i < 20} {incr i} {
                    assert_equal value [r get round$round-$i]
                }
            }
        }
    }
}

foreach {form options} [list \
    "lines of valkey.conf" {mode sync} \
    "arguments of loadmodule" [list server [list loadmodule "$::env(DURABILITY_SO) mode sync"]]] {
    durable_server $options {
        test "CONFIG REWRITE keeps the mode ($form) \[case 27\]" {
            r durability.mode async
            r config set durability.max-lag-ms 4321
            r config rewrite
            crash_and_restart_server
            wait_until_leading
            assert_equal async [r durability.mode]
            assert_equal {durability.max-lag-ms 4321} [r config get durability.max-lag-ms]
        }
    }
}
