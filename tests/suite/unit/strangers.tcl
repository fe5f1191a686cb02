# Those who have no token, and those who have one and misuse it, at the log service. The long version is tests/strangers.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/snapshots.tcl

# --- Without a token -------------------------------------------------------------------------------------------------

set crowd_program [file normalize [file join $::env(SUITE_SUPPORT) .. .. strangers crowd.py]]

new_log
set tokens [tmpfile tokens]
set file [open $tokens w 0600]
puts $file "$::shard a-token"
close $file
# Far fewer places than strangers.
dict set ::log_service arguments [list --tokens [file normalize $tokens] --max-connections 40 --max-strangers 60]
start_log
set output [tmpfile strangers]
set crowd [exec python3 $crowd_program 300 60 [log_option port] [log_option http] > $output 2> $output.err &]
start_server [server_options {auth a-token failover yes}] {
    test "A node starts, and again after a crash, while strangers take all that they get of the log service" {
        wait_until_leading
        assert_equal OK [r set guarded value]
        crash_and_restart_server
        wait_until_leading
        assert_equal value [r get guarded]
        assert {[is_alive $crowd]}
        assert_equal 0 [figure depositions]
    }
}
kill_hard $crowd
kill_log

# --- With one --------------------------------------------------------------------------------------------------------

new_log
dict set ::log_service arguments {--segment-mb 2 --max-pinned-mb 1 --snapshot-log-mb 0}
start_log
start_server [server_options {}] {
    test "A replica that takes nothing keeps no log beyond its bound when a snapshot is made, whatever it says" {
        wait_until_leading
        set deaf [deaf_replica]
        wait_for_condition 500 10 {[dict get [log_service LOG.STATUS $::shard] replicas] == 1} else {
            fail "it does not follow"
        }
        # More than sockets take.
        for {set number 0} {$number < 40} {incr number} {r set key [string repeat x 1000000]}
        wait_until_durable
        puts -nonewline $deaf "\n"
        flush $deaf
        assert_equal 1 [dict get [log_service LOG.STATUS $::shard] replicas]
        assert {[dict get [log_service LOG.STATUS $::shard] log_bytes] > 40000000}
        log_service LOG.SNAPSHOT $::shard
        wait_for_condition 1000 10 {[dict get [log_service LOG.STATUS $::shard] replicas] == 0} else {
            fail "it may stay"
        }
        # The last segment, and those that are made ready.
        wait_for_condition 1000 10 {[dict get [log_service LOG.STATUS $::shard] log_bytes] < 10000000} else {
            fail "[dict get [log_service LOG.STATUS $::shard] log_bytes] bytes are kept for it"
        }
        close $deaf
        assert_equal OK [r set key value]
    }
}
kill_log
