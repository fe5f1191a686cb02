# Versions of Valkey that this release was not tried with: what works there, and what an operator has to allow.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/refusing.tcl

set ::own_server $::VALKEY_SERVER_BIN

# Servers that are started in `code` say that they are of that version. Settings may go by other names: pairs of NAME=OTHER.
proc as_version {version renamed code} {
    set copy [file normalize [tmpdir other]]/valkey-server
    exec python3 $::env(SUITE_SUPPORT)/other_server.py $::own_server $copy $version {*}$renamed
    set ::VALKEY_SERVER_BIN $copy
    set failed [catch {uplevel 1 $code} result options]
    set ::VALKEY_SERVER_BIN $::own_server
    return -options $options $result
}

# How often the innermost server's log has a line of that form.
proc lines_in_log {pattern} {
    llength [lsearch -all -glob [split [exec cat [srv 0 stdout]] \n] $pattern]
}

set untested {*is untested: this needs durability.allow-untested-version yes*}

tags {external:skip tls:skip} {
    # Of those, one is a patch release, which changes the path of writes as well.
    foreach version {9.1.77 9.2.0 10.0.0} {
        as_version $version {} {
            test "Valkey $version: a server does not start in sync mode" {
                set output [start_with_arguments mode sync]
                assert_match $untested $output
                assert_match "*Valkey $version is untested*" $output
            }
        }
    }
}

as_version 9.2.0 {} {
    durable_server {mode async} {
        test "An untested version: async mode works, and the server's log says once what does not" {
            assert_equal OK [r set key value]
            wait_until_durable
            assert_equal 1 [lines_in_log "*Valkey 9.2.0 is not among the versions*async and off work*allow-untested-version yes*"]
        }

        test "An untested version: sync mode and leases are refused by the name of the config" {
            foreach command {{config set durability.mode sync} {durability.mode sync} {config set durability.failover yes}} {
                catch {r {*}$command} error
                assert_match $untested $error
            }
            assert_equal {async no} [list [r durability.mode] [lindex [r config get durability.failover] 1]]
        }

        test "An untested version: INFO and DURABILITY.STATUS say why" {
            assert_match "not run: $untested tried with 9.1.0, 9.1.1, 9.1.2" [figure self_test]
            assert_match $untested [dict get [r durability.status] self_test]
        }

        test "An untested version: off works, and async after it" {
            assert_equal OK [r durability.mode off]
            assert_equal OK [r set key other]
            assert_equal OK [r durability.mode async]
            wait_until_leading
            assert_equal other [r get key]
        }

        test "An untested version is allowed at a start only" {
            assert_error {*immutable*} {r config set durability.allow-untested-version yes}
        }

        test "An untested version: a restart in async mode keeps what was written" {
            assert_equal OK [r set key last]
            wait_for_condition 500 10 {[figure durable_offset] == [figure current_offset]} else {
                fail "not everything becomes durable: [figure last_error]"
            }
            crash_and_restart_server
            wait_until_leading
            assert_equal last [r get key]
        }
    }

    durable_server {mode sync allow-untested-version yes} {
        test "An untested version that is allowed: replies wait for the log" {
            assert_equal passed [figure self_test]
            assert_equal sync [r durability.mode]
            assert_held OK {set key value}
        }

        test "An untested version that is allowed: the server's log says so" {
            assert_equal 1 [lines_in_log "*Valkey 9.2.0 is not among the versions*allow-untested-version is yes*"]
        }
    }
}

durable_server {} {
    test "A version that was tried is nothing to speak of" {
        assert_equal 0 [lines_in_log "*not among the versions*"]
        assert_equal {passed no} [list [figure self_test] [lindex [r config get durability.allow-untested-version] 1]]
    }
}

# As servers of version 9.2 know it.
as_version 9.2.0 {lua-enable-insecure-api=repl-throttling-enabled} {
    tags {external:skip tls:skip} {
        test "A server that would slow writes down by the module's own connection has no log" {
            foreach mode {sync async} {
                assert_match {*set repl-throttling-enabled no*} \
                    [start_with_arguments mode $mode allow-untested-version yes --repl-throttling-enabled yes]
            }
        }
    }

    new_log
    start_log
    start_server [server_options {mode off server {repl-throttling-enabled yes}}] {
        test "It is refused when the mode changes as well, and not once the setting is no" {
            assert_error {*set repl-throttling-enabled no*} {r durability.mode async}
            r config set repl-throttling-enabled no
            assert_equal OK [r durability.mode async]
            wait_until_leading
        }
    }
    kill_log
}
