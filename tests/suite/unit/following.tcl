# While a node follows its log, some of the server's settings are the log's. Then they are the operator's again.

source $::env(SUITE_SUPPORT)/durability.tcl

# Another node leads, in name: the server starts again, follows the log and waits, as long as `code` runs.
proc while_following {code} {
    kill_hard [srv 0 pid]
    hold_lease
    restart_server 0 false false 0
    reconnect
    wait_until_following
    uplevel 1 $code
    release_lease
    wait_until_leading
}

foreach mode {sync async} {
    durable_server [list mode $mode server {primaryuser operator primaryauth before}] {
        test "CONFIG REWRITE is refused while the settings are the log's, and works when the node leads ($mode)" {
            r set key value
            wait_until_durable
            while_following {
                assert_match $::shard/* [lindex [r config get primaryuser] 1]
                assert_error "ERR this node follows its log*CONFIG REWRITE*when the node leads*" {r config rewrite}
                assert_error "ERR this node follows its log*" {r CONFIG ReWrite}
                r multi
                assert_error "*this node follows its log*" {r config rewrite}
                assert_error "EXECABORT*" {r exec}
            }
            assert_equal {operator before} [list [lindex [r config get primaryuser] 1] [lindex [r config get primaryauth] 1]]
            r config rewrite
            crash_and_restart_server
            wait_until_leading
            assert_equal value [r get key]
            assert_equal operator [lindex [r config get primaryuser] 1]
        }

        test "What the operator sets while the node follows stays, also if it attaches anew ($mode)" {
            while_following {
                r config set primaryauth since
                kill_log
                start_log
                r config set repl-diskless-load swapdb
                wait_until_following
            }
            assert_equal operator [lindex [r config get primaryuser] 1]
            assert_equal since [lindex [r config get primaryauth] 1]
            assert_equal swapdb [lindex [r config get repl-diskless-load] 1]
            r config rewrite
        }
    }
}

durable_server {server {primaryuser operator}} {
    test "A node that follows its log and is refused becomes a primary by mode off, with the operator's settings" {
        kill_hard [srv 0 pid]
        hold_lease
        restart_server 0 false false 0
        reconnect
        wait_until_following
        # A newer server has led meanwhile. The node may not take the lease in between.
        pause_process [srv 0 pid]
        release_lease
        lassign [hold_lease 99.0.0] epoch end
        log_service LOG.BEGIN $::shard $epoch [string repeat a 40] $end
        kill_log
        start_log
        resume_process [srv 0 pid]
        wait_for_condition 1000 10 {[figure role] eq "refused"} else {
            fail "the role is [figure role]: [figure last_error]"
        }
        assert_equal slave [s role]
        r durability.mode off
        wait_for_condition 500 10 {[s role] eq "master"} else {
            fail "it is still a replica"
        }
        assert_equal operator [lindex [r config get primaryuser] 1]
        assert_equal OK [r set key plain]
        r config rewrite
    }
}
