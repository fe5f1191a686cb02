# Nodes and their log reach each other, whatever kind of address they have: a node of each kind leads, restarts, hands over, fails
# over and seeds its log, and what was acknowledged is there.

source $::env(SUITE_SUPPORT)/apart.tcl
source $::env(SUITE_SUPPORT)/certificates.tcl
source $::env(SUITE_SUPPORT)/names.tcl

# --- One round -------------------------------------------------------------------------------------------------------

# Writes some keys, each of which the node acknowledges.
proc write_apart {node prefix} {
    for {set number 0} {$number < 20} {incr number} {append commands "set $prefix:$number value\n"}
    set answers [exec $::env(VALKEY_BIN_DIR)/valkey-cli {*}[dict get $::apart($node) reach] << $commands]
    assert_equal [lrepeat 20 OK] [split $answers \n]
    incr ::written 20
}

proc assert_has_all {node} {
    wait_for_condition 1000 10 {[ask $node dbsize] == $::written} else {
        fail "$node has [ask $node dbsize] keys, and $::written were acknowledged"
    }
}

# Two nodes for its caller's caller, whose scripts `lines` and `reach` give the configuration of the node $::node and what reaches it.
proc make_two {lines reach} {
    set ::written 0
    foreach ::node {b a} {
        set own [list "durability.node-id $::node" "durability.failover yes" "durability.lease-ms 1000"]
        node_apart $::node [concat $own [uplevel 2 $lines]] [uplevel 2 $reach]
    }
}

# `then` runs after each step, for the node $::node, which leads.
proc assert_all_goes {lines reach {then {}}} {
    make_two $lines $reach
    start_apart a
    wait_for_role_apart leader a
    write_apart a led
    uplevel 1 $then

    kill_apart a
    start_apart a
    wait_for_role_apart leader a
    assert_has_all a
    write_apart a restarted
    uplevel 1 $then

    start_apart b
    wait_for_role_apart follower b
    assert_has_all b
    wait_for_condition 1000 30 {[string match "*id=b,*role=follower*" [ask a info durability]]} else {
        fail "a does not know b: [ask a info durability]"
    }
    assert_equal OK [ask a durability.failover to b]
    wait_for_role_apart leader b
    write_apart b handed-over
    set ::node b
    uplevel 1 $then

    wait_for_role_apart follower a
    assert_has_all a
    kill_apart b
    wait_for_role_apart leader a
    assert_has_all a
    write_apart a failed-over
    set ::node a
    uplevel 1 $then

    # A snapshot goes to the log by HTTP.
    assert_equal OK [ask a durability.mode off]
    write_apart a unlogged
    set seeds [figure_apart a seeds]
    assert_equal OK [ask a durability.mode sync]
    wait_for_condition 1000 30 {[figure_apart a seeds] > $seeds && [figure_apart a role] eq "leader"} else {
        fail "the log is not seeded: [figure_apart a last_error]"
    }

    start_apart b
    wait_for_role_apart follower b
    assert_has_all b
    foreach node {a b} {kill_apart $node}
}

# As assert_all_goes begins: a leads, b follows, and has all.
proc start_two {lines reach} {
    make_two $lines $reach
    start_apart a
    wait_for_role_apart leader a
    write_apart a led
    start_apart b
    wait_for_role_apart follower b
    assert_has_all b
}

# a dies, and b has all.
proc end_two {} {
    kill_apart a
    wait_for_role_apart leader b
    assert_has_all b
    kill_apart b
}

# Where the node's server follows the log.
proc master_host {node} {
    regexp -line "^master_host:(.*?)\\r?\$" [ask $node info replication] _ host
    return $host
}

proc free_port {} {
    find_available_port $::baseport $::portcount
}

# A fresh log on that host, for as long as `code` runs.
proc with_log_on {host arguments code} {
    new_log
    dict set ::log_service host $host
    dict set ::log_service arguments $arguments
    start_log
    set failed [catch {uplevel 1 $code} result options]
    kill_log
    if {$failed} {return -options $options $result}
}

# --- Tests -----------------------------------------------------------------------------------------------------------

tags {external:skip tls:skip} {
    test "Nodes that listen on unix sockets alone" {
        with_log_on $::host {} {
            set sockets [file normalize [tmpdir sockets]]
            assert_all_goes {list "port 0" "unixsocket $sockets/$::node"} {list -s $sockets/$::node}
        }
    }

    test "Nodes that listen with TLS alone, and a log with TLS" {
        set files [file normalize [tmpdir certificates]]
        make_ca $files ca
        make_certificate $files ca server IP:$::host
        with_log_on $::host [list --tls-cert $files/server.crt --tls-key $files/server.key] {
            assert_all_goes {
                set port($::node) [free_port]
                list "port 0" "tls-port $port($::node)" "tls-auth-clients no" "tls-cert-file $files/server.crt" \
                    "tls-key-file $files/server.key" "tls-ca-cert-file $files/ca.crt" "durability.tls yes" \
                    "durability.tls-ca $files/ca.crt"
            } {list --tls --cacert $files/ca.crt -h $::host -p $port($::node)}
        }
    }

    if {[catch {close [socket -server {} -myaddr ::1 0]} why]} {
        test "Nodes and a log that listen on IPv6 alone" {
            skip "this machine has no IPv6 on its loopback interface: $why"
        }
    } else {
        test "Nodes and a log that listen on IPv6 alone" {
            with_log_on ::1 {} {
                assert_all_goes {
                    set port($::node) [free_port]
                    list "port $port($::node)" "bind ::1"
                } {list -h ::1 -p $port($::node)}
            }
        }
    }

    test "Nodes whose ports change" {
        with_log_on $::host {} {
            assert_all_goes {
                set port($::node) [free_port]
                list "port $port($::node)" "bind $::host"
            } {list -h $::host -p $port($::node)} {
                # It leads, so it may be rewritten.
                set port($::node) [free_port]
                assert_equal OK [ask $::node config set port $port($::node)]
                dict set ::apart($::node) reach [list -h $::host -p $port($::node)]
                assert_match OK* [ask $::node config rewrite]
            }
        }
    }

    test "A single node that is called as its machine and port leads again on another port" {
        with_log_on $::host {} {
            foreach node {first second} {
                set port($node) [free_port]
                node_apart $node [list "port $port($node)"] [list -h $::host -p $port($node)]
            }
            set ::written 0
            start_apart first
            wait_for_role_apart leader first
            write_apart first killed
            kill_apart first
            start_apart second
            wait_for_role_apart leader second
            assert_has_all second
            write_apart second led
            # A node that finds it alive leaves the lease to it, also when it dies and the first one attaches anew.
            start_apart first
            wait_for_role_apart follower first
            kill_apart second
            kill_log
            wait_for_condition 1000 30 {[string match "*replication link to the log is not up*" [output_apart first]]} else {
                fail "first does not miss its log: [output_apart first]"
            }
            set attached [regexp -all "the log of shard" [output_apart first]]
            start_log
            wait_for_condition 1000 30 {[regexp -all "the log of shard" [output_apart first]] > $attached} else {
                fail "first does not attach to its log: [output_apart first]"
            }
            assert_equal 0 [regexp -all "releasing its lease" [output_apart first]]
            assert_equal 1 [regexp -all "releasing its lease" [output_apart second]]
            assert_equal follower [figure_apart first role]
            start_apart second
            wait_for_role_apart leader second
            assert_has_all second
            foreach node {first second} {kill_apart $node}
        }
    }

    with_names {
        set lines {
            set port($::node) [free_port]
            list "port $port($::node)" "bind $::host" "durability.log log.test:[log_option port]"
        }
        set reach {list -h $::host -p $port($::node)}

        test "A log whose name means addresses of two families, of which it listens on the last" {
            name_means log.test ::1 127.0.0.2
            with_log_on 127.0.0.2 {} {
                assert_all_goes $lines $reach
            }
        }

        test "The same with TLS: the module checks the name, and the server is given the address" {
            set files [file normalize [tmpdir certificates]]
            make_ca $files ca
            make_certificate $files ca server DNS:log.test
            set tls [list "durability.tls yes" "durability.tls-ca $files/ca.crt"]
            with_log_on 127.0.0.2 [list --tls-cert $files/server.crt --tls-key $files/server.key] {
                assert_all_goes "concat \$tls \[$lines\]" $reach
            }
        }

        test "A log whose name comes to mean another address is followed there" {
            name_means log.test 127.0.0.2
            with_log_on 127.0.0.2 {} {
                start_two $lines $reach
                assert_equal 127.0.0.2 [master_host b]
                kill_log
                dict set ::log_service host 127.0.0.3
                name_means log.test 127.0.0.3
                start_log
                wait_for_role_apart leader a
                write_apart a moved
                assert_has_all b
                assert_equal 127.0.0.3 [master_host b]
                end_two
            }
        }

        test "A server whose link to the log stands still is given the address that the module reaches instead" {
            name_means log.test $::host
            with_log_on 127.0.0.2 {} {
                set relay [start_relay_on [log_option port] tcp [list 127.0.0.2 [log_option port]]]
                start_two $lines $reach
                assert_equal $::host [master_host b]
                # Connections to it stay, and new ones are taken by the kernel, but nobody passes anything on.
                pause_process $relay
                name_means log.test 127.0.0.2
                # Long before the server would notice (repl-timeout).
                wait_for_condition 1000 30 {[master_host b] eq "127.0.0.2"} else {
                    fail "the server follows the log at [master_host b]"
                }
                wait_for_role_apart leader a
                write_apart a moved
                assert_has_all b
                stop_relay $relay
                end_two
            }
        }
    }
}

# --- An answer that is lost ---------------------------------------------------------------------------------------------

new_log
start_log
lassign [start_relay late [list $::host [log_option port] 0.5]] ::relay ::relay_port
start_server [server_options [list log $::host:$::relay_port node-id n0]] {
    test "A node whose answer to LOG.ACQUIRE was lost leads again, although it reaches the log from another address by then" {
        wait_until_leading
        r durability.mode off
        r durability.mode sync
        set leadership {[dict get [log_service LOG.STATUS $::shard] epoch] == 2}
        wait_for_condition 3000 10 $leadership else {fail "it acquires nothing: [figure last_error]"}
        # Half a second before the answer arrives.
        stop_relay $::relay
        set ::relay [start_relay_on $::relay_port tcp [list $::host [log_option port] 127.0.0.3]]
        wait_until_leading
        assert_equal 3 [figure epoch]
    }
}
stop_relay $::relay
kill_log
