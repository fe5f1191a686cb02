# A node whose own disk takes no RDB. It needs none: it starts, follows and leads all the same.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# No file can be created there, not even by root.
set ::unwritable {dir /proc}

# Saves after each write, there, and refuses writes when that fails.
proc node_that_cannot_save {options} {
    lassign [server_options $options] _ overrides _ lines _ tags
    dict set overrides stop-writes-on-bgsave-error yes
    list overrides $overrides config_lines [concat $lines $::unwritable save {{1 1}}] tags $tags
}

proc has_failed_to_save {level} {
    expr {[s $level rdb_last_bgsave_status] eq "err"}
}

new_log
start_log
start_server [server_options {failover yes lease-ms 1000 node-id n1}] {
    wait_until_leading
    r set before 1
    start_server [node_that_cannot_save {failover yes lease-ms 1000 node-id n0}] {
        test "A node whose disk takes no RDB follows, and goes on when saving has failed" {
            wait_until_following
            wait_for_condition 6000 10 {[r -1 incr count] > 0 && [has_failed_to_save 0]} else {
                fail "it has not tried to save"
            }
            r -1 set after-failure 1
            wait_for_condition 3000 10 {[r get after-failure] eq "1"} else {
                fail "it does not go on: [figure last_error]"
            }
            assert_equal yes [lindex [r config get replica-ignore-disk-write-errors] 1]
            assert_equal 0 [count_message_lines [srv 0 stdout] "unable to write command to disk"]
        }

        test "So it does when it is started again, and it leads when the other one is gone" {
            kill_hard [srv 0 pid]
            restart_server 0 true false
            wait_until_following
            wait_for_condition 6000 10 {[r -1 incr count] > 0 && [has_failed_to_save 0]} else {
                fail "it has not tried to save"
            }
            set digest [r -1 debug digest]
            wait_for_condition 3000 10 {[r debug digest] eq $digest} else {
                fail "it does not have all"
            }
            kill_hard [srv -1 pid]
            wait_for_condition 6000 10 {[figure role] eq "leader"} else {
                fail "it does not lead: [figure last_error]"
            }
            assert_equal $digest [r debug digest]
            # As plain Valkey: what its operator has set is in force again.
            assert_equal no [lindex [r config get replica-ignore-disk-write-errors] 1]
            assert_error {MISCONF*} {r set key value}
            assert_equal 1 [r get before]
            r config set stop-writes-on-bgsave-error no
            assert_equal OK [r set key value]
            wait_until_durable
            kill_hard [srv 0 pid]
            restart_server 0 true false
            wait_for_condition 6000 10 {[figure role] eq "leader"} else {
                fail "it does not lead: [figure last_error]"
            }
            assert_equal value [r get key]
        }
    }
}
kill_log

# --- The log service's own disk --------------------------------------------------------------------------------------

proc count_log_lines {text} {
    regexp -all -line -- "^.*$text.*\$" [exec cat [log_option directory].output]
}

test "On a disk that is too small for a snapshot none is made: the log service says why, once, and makes one that fits" {
    set directory [file normalize [tmpdir small-disk]]
    new_log
    dict set ::log_service wrapper [list $::env(SUITE_SUPPORT)/small_disk.sh $directory 1000000]
    dict set ::log_service arguments [list --snapshots file://$directory]
    start_log
    start_server [server_options {}] {
        wait_until_leading
        for {set i 0} {$i < 3} {incr i} {
            set file [open /dev/urandom rb]
            r set large$i [read $file 1000000]
            close $file
        }
        wait_until_durable
        for {set i 0} {$i < 3} {incr i} {
            assert_error {ERR no snapshot was made: *No space left on device*} {log_service LOG.SNAPSHOT $::shard}
            assert_match {*No space left on device*} [dict get [log_service LOG.STATUS $::shard] snapshot_error]
        }
        assert_equal 1 [count_log_lines "ERROR.*no snapshot was made"]
        set status [log_service LOG.STATUS $::shard]
        assert_equal {ok 0 0} [list [dict get $status state] [dict get $status base] [dict get $status snapshots]]
        assert_equal OK [r set key value]
        r flushall
        log_service LOG.SNAPSHOT $::shard
        assert_equal {} [dict get [log_service LOG.STATUS $::shard] snapshot_error]
        r set key again
        kill_hard [srv 0 pid]
        restart_server 0 true false
        wait_until_leading
        assert_equal again [r get key]
    }
    kill_log
}
