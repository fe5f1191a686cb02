# Several log services, of which one decides over the log: a node finds that one, whichever the others are and whatever becomes of them.
# What was acknowledged is there, and clients notice no more than a pause. The services that replicate the log of another one are played by
# support/log_replica.py, which stands before the one that there is.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# --- Services ----------------------------------------------------------------------------------------------------------

# A service of that name, which says `state` of itself.
proc start_replica {name state} {
    if {![info exists ::replica($name)]} {
        set ::replica($name) [dict create port [find_available_port $::baseport $::portcount] file [tmpfile replica]]
    }
    dict set ::replica($name) pid 0
    set_replica $name $state
    set port [dict get $::replica($name) port]
    set output [tmpfile replica-output]
    set script $::env(SUITE_SUPPORT)/log_replica.py
    set pid [exec python3 $script $port [log_option host] [log_option port] [dict get $::replica($name) file] >> $output 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid $output $::curfile]
    dict set ::replica($name) pid $pid
    wait_for_condition 1000 10 {![catch {close [socket $::host $port]}]} else {
        fail "the service $name does not start: [exec cat $output]"
    }
}

# The state is there as a whole, or not at all.
proc set_replica {name state} {
    set file [dict get $::replica($name) file]
    set channel [open $file.new w]
    puts -nonewline $channel $state
    close $channel
    file rename -force $file.new $file
}

proc replica_address {name} {
    return $::host:[dict get $::replica($name) port]
}

proc kill_replica {name} {
    set pid [dict get $::replica($name) pid]
    kill_hard $pid
    send_data_packet $::test_server_fd server-killed $pid
}

# A log service, those of `names` before it, of which the first one decides, and what `code` does with them.
proc with_replicas {names code} {
    new_log
    start_log
    array unset ::replica
    foreach name $names {start_replica $name decides}
    foreach name [lrange $names 1 end] {set_replica $name [replica_address [lindex $names 0]]}
    set failed [catch {uplevel 1 $code} result options]
    foreach name $names {kill_replica $name}
    kill_log
    if {$failed} {return -options $options $result}
}

# The last of `names` decides from now on, after `election` milliseconds in which none does. Those of `but` say nothing about it.
proc elect {names election {but {}}} {
    set leader [lindex $names end]
    foreach name $names {
        if {$name ni $but} {set_replica $name -}
    }
    after $election
    foreach name $names {
        if {$name ni $but} {set_replica $name [expr {$name eq $leader ? "decides" : [replica_address $leader]}]}
    }
}

proc addresses {names} {
    join [lmap name $names {replica_address $name}] ,
}

# --- Load --------------------------------------------------------------------------------------------------------------

# Increments keys of the innermost server while `code` runs. No client sees an error, none waits longer than `most` milliseconds, and all
# that was acknowledged is there, also after a crash. Returns the longest wait.
proc under_load {most code} {
    set ended [tmpfile ended]
    set output [tmpfile load]
    set load [exec python3 $::env(SUITE_SUPPORT)/paused_load.py $::host [srv 0 port] 9 8 $ended > $output 2>@1 &]
    wait_for_condition 500 10 {[r dbsize] == 8 && [r get paused:0] > 20} else {fail "there is no load"}
    set failed [catch {uplevel 1 $code} result options]
    # It goes on after what was done.
    set durable [figure durable_offset]
    wait_for_condition 1000 10 {[figure durable_offset] > $durable} else {fail "nothing is acknowledged any more"}
    close [open $ended w]
    wait_for_condition 1000 10 {![is_alive $load]} else {fail "the load does not end"}
    if {$failed} {return -options $options $result}
    lassign [exec cat $output] acknowledged longest
    assert_equal 2 [llength [exec cat $output]] "[exec cat $output]"
    assert_equal $acknowledged [sum_of_load]
    assert_equal leader [figure role]
    assert_equal 0 [figure depositions]
    assert_equal 0 [figure suspensions]
    crash_and_restart_server
    wait_until_leading
    assert_equal $acknowledged [sum_of_load]
    if {$::verbose} {puts "longest wait: $longest ms of $acknowledged increments"}
    assert_lessthan $longest $most
    return $longest
}

proc sum_of_load {} {
    set sum 0
    for {set number 0} {$number < 8} {incr number} {incr sum [r get paused:$number]}
    return $sum
}

proc wait_until_used {name {level 0}} {
    wait_for_condition 1000 10 {[figure log_service $level] eq [replica_address $name]} else {
        fail "the node uses [figure log_service $level], not $name: [figure last_error $level]"
    }
}

# A process at a free port to which connecting never ends. Returns its process and its port.
proc start_full_port {} {
    set port [find_available_port $::baseport $::portcount]
    set output [tmpfile full]
    set pid [exec python3 $::env(SUITE_SUPPORT)/silent_port.py $port full > $output 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid $output $::curfile]
    wait_for_condition 1000 30 {[file size $output] > 0} else {fail "the port is not full"}
    list $pid $port
}

# --- Tests -------------------------------------------------------------------------------------------------------------

set lease {failover yes lease-ms 3000}

tags {external:skip tls:skip} {
    test "One service of three answers, wherever it stands in the list: a node starts, and uses it" {
        new_log
        start_log
        set refused $::host:[find_available_port $::baseport $::portcount]
        lassign [start_full_port] pid port
        set silent $::host:$port
        set real [log_address]
        set keys 0
        foreach list [list "$real,$refused,$silent" "$refused,$real,$silent" "$silent,$refused,$real" "$silent,$real,$refused"] {
            set began [clock milliseconds]
            start_server [server_options [dict merge $lease [list log $list]]] {
                wait_until_leading
                if {$::verbose} {puts "[lsearch [split $list ,] $real]: leads after [expr {[clock milliseconds] - $began}] ms"}
                assert_equal $list [figure log]
                assert_equal $real [figure log_service]
                assert_equal "" [figure last_error]
                assert_equal $keys [r dbsize]
                assert_equal OK [r set key:$keys value]
                incr keys
            }
        }
        kill_hard $pid
        kill_log
    }

    test "A list is refused for an entry that is no address, or that is there twice" {
        new_log
        start_log
        start_server [server_options [list log "[log_address],127.0.0.1:1"]] {
            wait_until_leading
            foreach {list error} {
                a:1,b {*'b' is not an address*}
                a:1, {*'' is not an address*}
                a:1,b:1,A:1 {*'A:1' is in the list twice*}
                a:1,b:1 {*a running server cannot change its log*}
            } {
                assert_error $error {r config set durability.log $list}
            }
        }
        kill_log
    }

    test "A service that does not decide names the one that does, or a stranger, or none" {
        with_replicas {a b c} {
            foreach said [list [replica_address c] - 10.255.255.1:7379 nobody:1] {
                elect {a b c} 0
                foreach name {a b} {set_replica $name $said}
                start_server [server_options [dict merge $lease [list log [addresses {a b c}]]]] {
                    wait_until_leading
                    assert_equal OK [r set key $said]
                    wait_until_used c
                    assert_equal "" [figure last_error]
                }
            }
        }
    }

    test "Another service comes to decide under load, at once" {
        with_replicas {a b c} {
            start_server [server_options [dict merge $lease [list log [addresses {a b c}]]]] {
                wait_until_leading
                wait_until_used a
                under_load 2500 {
                    foreach names {{a b c} {a c b} {b c a} {c b a} {a b c}} {
                        elect $names 0
                        wait_until_used [lindex $names end]
                        after 200
                    }
                }
                assert_equal "" [figure last_error]
            }
        }
    }

    test "Another service comes to decide under load, after a second in which none does" {
        with_replicas {a b c} {
            start_server [server_options [dict merge $lease [list log [addresses {a b c}]]]] {
                wait_until_leading
                under_load 2500 {
                    elect {a b c} 1000
                    wait_until_used c
                }
            }
        }
    }

    test "The service that decides dies under load" {
        with_replicas {a b c} {
            start_server [server_options [dict merge $lease [list log [addresses {a b c}]]]] {
                wait_until_leading
                under_load 2500 {
                    kill_replica a
                    elect {b c} 1000
                    wait_until_used c
                }
                # It comes back, and does not decide.
                start_replica a [replica_address c]
            }
        }
    }

    test "The service that decides stands still under load" {
        with_replicas {a b c} {
            start_server [server_options [dict merge $lease [list log [addresses {a b c}]]]] {
                wait_until_leading
                under_load 2900 {
                    pause_process [dict get $::replica(a) pid]
                    after 1000
                    elect {b c} 0
                    wait_until_used c
                }
                resume_process [dict get $::replica(a) pid]
            }
        }
    }

    test "All services are away for longer than the lease: the node says which said what, and leads again" {
        with_replicas {a b} {
            start_server [server_options [list failover yes lease-ms 1000 log [addresses {a b}]]] {
                wait_until_leading
                foreach name {a b} {kill_replica $name}
                # Its clients are closed.
                wait_for_role suspended n0
                assert_match "the log service at $::host:* cannot be reached: Connection refused*" [figure_of n0 lease_error]
                start_replica a -
                start_replica b -
                set error "the log service at $::host:* refuses: NOTLEADER -*"
                wait_for_condition 1000 10 {[string match $error [figure_of n0 lease_error]]} else {
                    fail "the lease's error is '[figure_of n0 lease_error]'"
                }
                set_replica b decides
                wait_for_role leader n0
                reconnect
                assert_equal OK [r set key value]
            }
        }
    }

    test "A server follows another service when the one that it follows is gone or stands still" {
        with_replicas {a b} {
            set ::shard_options [list failover yes lease-ms 3000 log [addresses {a b}]]
            start_nodes 1 {
                set leader [wait_for_shard]
                set follower [expr {$leader eq "n0" ? "n1" : "n0"}]
                assert_equal OK [on $leader set key 1]
                foreach {next last harm} {b a kill a b stop} {
                    assert_equal [dict get $::replica($last) port] [s [level $follower] master_port]
                    switch $harm {
                        kill {kill_replica $last}
                        stop {pause_process [dict get $::replica($last) pid]}
                    }
                    set_replica $next decides
                    wait_until_used $next [level $leader]
                    on $leader incr key
                    wait_for_condition 2000 10 {[s [level $follower] master_port] == [dict get $::replica($next) port]} else {
                        fail "$follower follows [s [level $follower] master_port]"
                    }
                    assert_same_data
                    assert_equal $leader [current_leader]
                    switch $harm {
                        kill {start_replica $last [replica_address $next]}
                        stop {resume_process [dict get $::replica($last) pid]}
                    }
                }
                assert_equal 3 [on $leader get key]
            }
        }
    }

    test "A server stays with the service that it follows when another one decides" {
        with_replicas {a b} {
            set ::shard_options [list failover yes lease-ms 3000 log [addresses {a b}]]
            start_nodes 1 {
                set leader [wait_for_shard]
                set follower [expr {$leader eq "n0" ? "n1" : "n0"}]
                elect {a b} 0
                foreach node [nodes] {wait_until_used b [level $node]}
                for {set number 0} {$number < 40} {incr number} {
                    assert_equal OK [on $leader set key:$number value]
                    after 100
                }
                assert_equal [dict get $::replica(a) port] [s [level $follower] master_port]
                assert_same_data
                # It comes to lead through the one that decides.
                make_leader $follower
                assert_equal OK [on $follower set key:40 value]
                assert_same_data
            }
        }
    }
}
