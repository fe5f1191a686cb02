# A log that takes as much of the disk as --max-log-mb allows, which is a lack of space for that shard alone.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/snapshots.tcl

proc log_disk_bytes {} {
    set bytes 0
    foreach file [glob -nocomplain -directory [log_option directory]/shards/$::shard/log *.log] {incr bytes [file size $file]}
    return $bytes
}

snapshotted_server {--segment-mb 2 --max-log-mb 6 --snapshot-log-mb 0} {} {
    test "A log that takes as much as it may is out of space, alone, and goes on when a snapshot lets some of it go" {
        for {set i 0} {$i < 5} {incr i} {r set key$i [random_bytes 900000]}
        wait_until_durable
        assert_equal {ok 6291456} [list [log_status state] [log_status max_log_bytes]]
        set writer [valkey_deferring_client]
        for {set i 0} {$i < 5} {incr i} {$writer set more$i [random_bytes 900000]}
        wait_for_condition 1000 10 {[log_status state] eq "nospace"} else {fail "the log is not full: [log_status state]"}
        assert_match "*the log of shard $::shard takes 6 MiB of disk, and --max-log-mb 6 allows no further segment*" [log_status error]
        assert_equal 6291456 [log_disk_bytes]
        # As with a full disk: who has written waits, and nothing is lost.
        wait_for_condition 1000 10 {[string match "*NOSPACE*" [figure last_error]]} else {fail "the node does not say it: [figure last_error]"}
        # Another shard has all its own.
        set other [dict create]
        log_service LOG.CHECK other somebody - -
        lassign [log_service LOG.ACQUIRE other somebody nowhere:1 0 0 9.1.0] epoch end
        log_service LOG.BEGIN other $epoch [string repeat a 40] $end
        set bytes [format_command set key value]
        assert_equal [string length $bytes] [log_service LOG.APPEND other $epoch $end $bytes]
        snapshot
        for {set i 0} {$i < 5} {incr i} {assert_equal OK [read_reply $writer]}
        $writer close
        wait_for_condition 1000 10 {[log_status state] eq "ok"} else {fail "the log does not go on: [log_status error]"}
        wait_until_durable
        set digest [debug_digest]
        crash_and_restart_both
        assert_equal $digest [debug_digest]
    }
}

foreach keep {1 3} {
    snapshotted_server [list --segment-mb 2 --max-log-mb 8 --keep-snapshots $keep] {} {
        test "A fast writer goes on for ever within the bound, with $keep snapshots that are to be kept" {
            for {set i 0} {$i < 60} {incr i} {
                r set key[expr {$i % 3}] [random_bytes 700000]
                assert_lessthan_equal [log_disk_bytes] 8388608
            }
            wait_until_durable
            assert_morethan [log_status end] 40000000
            set digest [debug_digest]
            crash_and_restart_both
            assert_equal $digest [debug_digest]
        }
    }
}

proc add_values {count} {
    for {set i 0} {$i < $count} {incr i} {r set key$i [random_bytes 900000]}
    wait_until_durable
}

# Sends a transaction of so many values, and answers who waits for it.
proc begin_transaction {count} {
    set writer [valkey_deferring_client]
    $writer multi
    for {set i 0} {$i < $count} {incr i} {$writer set large$i [random_bytes 900000]}
    $writer exec
    assert_equal OK [read_reply $writer]
    for {set i 0} {$i < $count} {incr i} {assert_equal QUEUED [read_reply $writer]}
    return $writer
}

proc assert_executed {writer count} {
    assert {[is_readable $writer 30000]}
    assert_equal [lrepeat $count OK] [read_reply $writer]
    $writer close
}

snapshotted_server {--segment-mb 2 --max-log-mb 12 --snapshot-log-mb 0 --keep-snapshots 2} {} {
    test "A transaction for which older snapshots leave no room goes on without them, and one that is too large with a larger bound" {
        assert_match "*with --snapshot-log-mb 0, a log that takes as much as --max-log-mb 12 allows refuses appends*" [log_output]
        add_values 1
        snapshot
        add_values 6
        snapshot
        assert_equal 2 [llength [recorded_files]]
        assert_executed [begin_transaction 8] 8
        assert_equal 1 [llength [recorded_files]]
        assert_match "*it goes back no further than the newest snapshot*" [log_output]
        snapshot
        set writer [begin_transaction 16]
        wait_for_condition 1000 10 {[log_status state] eq "nospace" && [llength [recorded_files]] == 1} else {
            fail "the log is [log_status state], with [recorded_files]"
        }
        assert_error "*the log takes as much as --max-log-mb 12 allows: raise --max-log-mb to more than*" {snapshot}
        kill_log
        dict set ::log_service arguments {--segment-mb 2 --max-log-mb 40}
        start_log
        assert_executed $writer 16
        set digest [debug_digest]
        crash_and_restart_both
        assert_equal $digest [debug_digest]
    }
}

snapshotted_server {--segment-mb 2 --max-log-mb 8} {} {
    test "A replica that takes nothing does not stop a log that takes as much as it may" {
        set deaf [deaf_replica]
        wait_for_condition 500 10 {[log_status replicas] == 1} else {fail "it does not follow"}
        # More than sockets take.
        for {set i 0} {$i < 40} {incr i} {r set key [random_bytes 1000000]}
        wait_until_durable
        assert_equal 0 [log_status replicas]
        assert_match "*or by anything while --max-log-mb stops the log*" [log_output]
        close $deaf
    }
}

test "A bound that leaves no room for a second segment is refused at start" {
    new_log
    dict set ::log_service arguments {--segment-mb 4 --max-log-mb 7}
    assert_error "*--max-log-mb 7 is less than twice --segment-mb 4*" {exec {*}[log_command]}
}
