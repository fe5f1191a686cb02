# The log by TLS.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/certificates.tcl

# A log with TLS, for as long as `code` runs. It shows server.crt, and wants certificates of clients.crt if that is asked for.
# All files are in $::certificates.
proc tls_log {wants_certificates code} {
    new_log
    set ::certificates [file normalize [tmpdir certificates]]
    make_ca $::certificates ca
    make_ca $::certificates clients
    make_certificate $::certificates ca server IP:$::host
    make_certificate $::certificates clients node DNS:node
    set arguments [list --tls-cert $::certificates/server.crt --tls-key $::certificates/server.key]
    if {$wants_certificates} {lappend arguments --tls-client-ca $::certificates/clients.crt}
    dict set ::log_service arguments $arguments
    lassign [start_relay tls [list $::host [log_option port] $::certificates/ca.crt \
        $::certificates/node.crt $::certificates/node.key]] relay admin
    dict set ::log_service admin $admin
    start_log
    wait_for_condition 1000 10 {![catch {log_service PING}]} else {
        fail "the log is not reached by TLS"
    }
    uplevel 1 $code
    kill_log
    stop_relay $relay
}

proc hang_up_log {message} {
    set output [log_option directory].output
    set before [regexp -all $message [exec cat $output]]
    exec kill -HUP [log_option pid]
    wait_for_condition 500 10 {[regexp -all $message [exec cat $output]] > $before} else {
        fail "the log service does not reload: [exec cat $output]"
    }
}

proc wait_for_error {pattern} {
    wait_for_condition 1000 10 {[string match $pattern [figure last_error]]} else {
        fail "the last error is '[figure last_error]', not '$pattern'"
    }
}

# Everything that following the log changes for its time.
proc following_settings {} {
    r config get tls-* primary* repl-diskless-load
}

# --- Tests -----------------------------------------------------------------------------------------------------------

tls_log no {
    start_server [server_options [list tls yes tls-ca $::certificates/ca.crt]] {
        wait_until_leading
        set settings [following_settings]

        test "By TLS, writes are held until the log has them, small and large ones" {
            assert_held OK {set small 1}
            assert_held OK [list set large [string repeat x 3000000]]
            assert_held 2 {incr small}
            assert_equal {} [figure last_error]
        }

        test "By TLS, many writes become durable, in async mode as well" {
            createComplexDataset r 300
            wait_until_durable
            r durability.mode async
            populate 20000 async: 200
            wait_until_durable
            r durability.mode sync
            assert_held OK {set small sync}
        }

        test "By TLS, data survives a kill -9 of server and log, and the server's settings are the operator's again" {
            set digest [debug_digest]
            kill_log
            kill_hard [srv 0 pid]
            start_log
            restart_server 0 true false
            wait_until_leading
            assert_equal $digest [debug_digest]
            assert_equal $settings [following_settings]
            assert_held OK {set small again}
        }

        test "By TLS, the log is seeded" {
            r durability.mode off
            r set unlogged value
            set seeds [figure seeds]
            r durability.mode sync
            wait_until_leading
            wait_for_condition 500 10 {[figure seeds] > $seeds} else {
                fail "the log is not seeded: [figure last_error]"
            }
            crash_and_restart_server
            wait_until_leading
            assert_equal value [r get unlogged]
        }

        test "By TLS, held replies arrive when the log is back" {
            kill_log
            set client [valkey_deferring_client]
            $client incr counter
            wait_for_held 1
            start_log
            assert_equal 1 [read_reply $client]
            $client close
        }

        test "The log's certificate can be exchanged, without disconnecting anybody" {
            set reconnects [figure log_reconnects]
            make_certificate $::certificates ca server IP:$::host
            hang_up_log "certificates reloaded"
            assert_held OK {set rotated 1}
            assert_equal $reconnects [figure log_reconnects]
        }

        test "An exchange that cannot work changes nothing, and the log service says why" {
            exec cp $::certificates/node.key $::certificates/server.key
            hang_up_log "server.key does not belong to the certificate file"
            assert_held OK {set rotated 2}
            crash_and_restart_server
            wait_until_leading
            make_certificate $::certificates ca server IP:$::host
            hang_up_log "certificates reloaded"
        }

        test "The CA can be exchanged while the server runs" {
            make_ca $::certificates other
            make_certificate $::certificates other server IP:$::host
            hang_up_log "certificates reloaded"
            kill_log
            start_log
            wait_for_error "*certificate is not of a CA in durability.tls-ca*ca.crt*"
            file rename -force $::certificates/other.crt $::certificates/ca.crt
            file rename -force $::certificates/other.key $::certificates/ca.key
            assert_equal OK [r set rotated 3]
            assert_equal {} [figure last_error]
        }

        test "Other mistakes are told in words that help" {
            foreach {ca name error} {
                ca      IP:10.255.255.255   "*certificate is not for '127.0.0.1'*durability.log*10.255.255.255*"
                clients IP:127.0.0.1        "*certificate is not of a CA in durability.tls-ca*"
            } {
                kill_log
                make_certificate $::certificates $ca server $name
                start_log
                wait_for_error $error
            }
            make_certificate $::certificates ca server IP:$::host
            hang_up_log "certificates reloaded"
            assert_equal OK [r set mended 1]
            set configs [r config get durability.tls*]
            assert_error "*cannot read the CA file*" {r config set durability.tls-ca /nowhere/ca.crt}
            assert_error "*durability.tls-ca does not say*" {r config set durability.tls-ca {}}
            assert_error "*belong together*" {r config set durability.tls-cert $::certificates/node.crt}
            assert_error "*belong together*" {r config set durability.tls-key $::certificates/node.key durability.max-lag-ms 5000}
            assert_error "*does not belong*" {
                r config set durability.tls-key $::certificates/ca.key durability.tls-cert $::certificates/node.crt
            }
            assert_equal $configs [r config get durability.tls*]
            assert_equal {durability.max-lag-ms 10000} [r config get durability.max-lag-ms]
            assert_error "*key file*" {r config set durability.tls-key $::certificates/node.crt}
        }

        test "A log whose certificate stays wrong is not connected to ten times a second" {
            kill_log
            make_certificate $::certificates ca server IP:10.255.255.255
            start_log
            wait_for_error "*certificate is not for*"
            after 3000
            set reconnects [figure log_reconnects]
            after 4000
            assert_range [expr {[figure log_reconnects] - $reconnects}] 1 4
            make_certificate $::certificates ca server IP:$::host
            hang_up_log "certificates reloaded"
            assert_equal OK [r set mended 2]
            # What fails after it worked is tried again soon.
            kill_log
            start_log
            set started [clock milliseconds]
            assert_equal OK [r set mended 3]
            assert_lessthan [expr {[clock milliseconds] - $started}] 1000
        }

        test "TLS can be switched on while the server runs, and which side lacks it is told" {
            assert_equal OK [r config set durability.tls no]
            kill_log
            start_log
            wait_for_error "*takes TLS connections only*"
            assert_error "*durability.tls-cert and durability.tls-key belong together*" {
                r config set durability.tls-cert $::certificates/node.crt durability.tls yes
            }
            assert_equal OK [r config set durability.tls-cert {} durability.tls yes]
            assert_equal OK [r set switched 1]
            set arguments [log_option arguments]
            kill_log
            dict set ::log_service arguments {}
            start_log
            wait_for_error "*did not answer with TLS*--tls-cert*durability.tls no*"
            kill_log
            dict set ::log_service arguments $arguments
            start_log
            assert_equal OK [r set switched 2]
        }

        test "A log that stands still is connected to anew, in the middle of the handshake as well, and nobody waits for it" {
            pause_process [log_option pid]
            set client [valkey_deferring_client]
            $client set still 1
            # The old connection has its 5 s first, then the handshake of the new one.
            wait_for_condition 2000 10 {[string match "*not finished the TLS handshake*" [figure last_error]]} else {
                fail "the last error is '[figure last_error]'"
            }
            assert_silent $client
            resume_process [log_option pid]
            assert_equal OK [read_reply $client]
            $client close
        }
    }
}

tls_log yes {
    set options [list tls yes tls-ca $::certificates/ca.crt]
    start_server [server_options $options] {
        test "A node without a certificate is told that the log wants one, and attaches when it has one" {
            wait_for_error "*wants a certificate of this node*durability.tls-cert and durability.tls-key*"
            r config set durability.tls-cert $::certificates/node.crt durability.tls-key $::certificates/node.key
            wait_until_leading
            r config rewrite
            assert_held OK {set key value}
        }

        test "A key that others can read is warned of, by the node and by the log" {
            foreach key {node.key server.key} {file attributes $::certificates/$key -permissions 0644}
            hang_up_log {the key file [^ ]*server.key has mode 0644}
            # The node reads its own for each connection, and warns once.
            foreach value {a b} {
                kill_log
                start_log
                assert_equal OK [r set key $value]
            }
            assert_equal OK [r set key value]
            assert_equal 1 [count_log_message 0 {the key file [^ ]*node.key has mode 0644}]
            foreach key {node.key server.key} {file attributes $::certificates/$key -permissions 0600}
        }

        test "With a certificate of its own, a node has its data again after a crash, by TLS" {
            set settings [following_settings]
            crash_and_restart_server
            wait_until_leading
            assert_equal value [r get key]
            assert_equal $settings [following_settings]
        }

        test "A certificate of another CA is not accepted, and that is told" {
            make_ca $::certificates other
            make_certificate $::certificates other node DNS:node
            kill_log
            start_log
            wait_for_error "*does not accept this node's certificate*node.crt*--tls-client-ca*"
            make_certificate $::certificates clients node DNS:node
            assert_equal OK [r set key newer]
        }
    }

    # A vanilla server, which follows the log.
    set vanilla [list save {} primaryuser $::shard primaryauth any tls-replication yes]
    foreach {name file} {tls-ca-cert-file ca.crt tls-cert-file node.crt tls-key-file node.key} {
        lappend vanilla $name $::certificates/$file
    }
    start_server [list overrides $vanilla tags {external:skip tls:skip}] {
        test "A server without the module follows the log by TLS" {
            r replicaof $::host [log_option port]
            wait_for_condition 1000 10 {[s master_link_status] eq "up" && [r get key] eq "newer"} else {
                fail "it does not follow"
            }
        }
    }

    # A server that listens with TLS itself.
    make_ca $::certificates own-ca
    make_certificate $::certificates own-ca own IP:$::host
    exec cat $::certificates/own-ca.crt $::certificates/ca.crt > $::certificates/trusted.crt
    set own [list tls-port [find_available_port $::baseport $::portcount] tls-auth-clients no]
    foreach {name file} {tls-ca-cert-file trusted.crt tls-cert-file own.crt tls-key-file own.key} {
        lappend own $name $::certificates/$file
    }
    lappend options tls-cert $::certificates/node.crt tls-key $::certificates/node.key shard s2 server $own
    start_server [server_options $options] {
        test "A server with TLS of its own keeps it, and takes its data from the log by TLS" {
            wait_until_leading
            set settings [following_settings]
            r set key own
            crash_and_restart_server
            wait_until_leading
            assert_equal own [r get key]
            assert_equal $settings [following_settings]
            through_relay tls [list $::host [dict get $own tls-port] $::certificates/own-ca.crt] {
                assert_equal own [r get key]
            }
        }

        test "A certificate of the server's own that cannot be read when it is to lead does not keep it from leading" {
            set ::shard s2
            r config set primaryuser operator
            r config rewrite
            set settings [following_settings]
            kill_hard [srv 0 pid]
            hold_lease
            restart_server 0 false false 0
            reconnect
            wait_until_following
            file rename $::certificates/own.crt $::certificates/own.away
            release_lease
            wait_until_leading
            assert_equal operator [lindex [r config get primaryuser] 1]
            assert_equal yes [lindex [r config get tls-replication] 1]
            assert_error "ERR some settings are still*CONFIG REWRITE*" {r config rewrite}
            verify_log_message 0 "*does not take back its settings*tls-*" 0
            file rename $::certificates/own.away $::certificates/own.crt
            wait_for_condition 1000 10 {$settings eq [following_settings]} else {
                fail "the settings are [following_settings], not $settings"
            }
            r config rewrite
            assert_equal own [r get key]
            set ::shard s1
        }

        test "If the server trusts other CAs than that of the log, it says that it cannot follow, and why" {
            r config set tls-ca-cert-file $::certificates/own-ca.crt
            r config rewrite
            kill_hard [srv 0 pid]
            restart_server 0 false false 0
            reconnect
            set error "*replication link to the log is not up: it connects to [log_address],*(durability.log [log_address])*tls-ca-cert-file*"
            wait_for_error $error
            # It tries again meanwhile, which takes the module's own connection no time.
            for {set look 0} {$look < 80} {incr look} {
                assert_match $error [figure last_error]
                after 100
            }
            exec cp $::certificates/trusted.crt $::certificates/own-ca.crt
            wait_until_leading
            assert_equal own [r get key]
        }
    }
}

# Another node's certificate, say: of the same CA, for another name.
tls_log no {
    foreach host [list $::host localhost] {
        make_certificate $::certificates ca server IP:$::host,DNS:localhost
        hang_up_log "certificates reloaded"
        set ::shard names-$host
        start_server [server_options [list tls yes tls-ca $::certificates/ca.crt log $host:[log_option port]]] {
            test "The server's own link to its log at $host checks the name in the log's certificate, not only its CA" {
                wait_until_leading
                assert_equal OK [r set key value]
                kill_hard [srv 0 pid]
                hold_lease
                restart_server 0 false false 0
                reconnect
                wait_until_following
                make_certificate $::certificates ca server IP:127.0.0.99,DNS:another.example
                hang_up_log "certificates reloaded"
                set from [count_log_lines 0]
                # The module keeps the connection that it has.
                r client kill type primary
                wait_for_log_messages 0 {"*Error condition on socket for SYNC*certificate verify failed*"} $from 1000 10
                assert_equal down [s master_link_status]
                make_certificate $::certificates ca server IP:$::host,DNS:localhost
                hang_up_log "certificates reloaded"
                wait_until_following
                release_lease
                wait_until_leading
                assert_equal value [r get key]
            }
        }
    }
    set ::shard s1
}

tls_log no {
    test "By TLS, the certificate of each of several services has to name the host of its own address" {
        # The certificate does not name localhost, which is the same service.
        set list localhost:[log_option port],[log_address]
        start_server [server_options [list log $list tls yes tls-ca $::certificates/ca.crt]] {
            wait_until_leading
            assert_equal [log_address] [figure log_service]
            assert_equal OK [r set key value]
            # A snapshot goes there by HTTP.
            r durability.mode off
            r set unlogged value
            r durability.mode sync
            wait_for_condition 1000 10 {[figure seeds] > 0 && [figure role] eq "leader"} else {
                fail "the log is not seeded: [figure last_error]"
            }
            # The server itself follows there.
            kill_hard [srv 0 pid]
            hold_lease
            restart_server 0 true false
            wait_until_following
            assert_equal value [r get unlogged]
            release_lease
            wait_until_leading
            assert_equal OK [r set key other]
        }
    }
}
