# A log service that encrypts what it keeps: nodes, snapshots, restore and check with the key, and without.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/snapshots.tcl

proc write_keys {file args} {
    set channel [open $file w 0600]
    foreach {id digit} $args {puts $channel "$id [string repeat 6d 31]0$digit"}
    close $channel
}

# Whether any file of the log service's directory holds the text.
proc on_disk {text} {
    expr {![catch {exec grep -rqaF -- $text [log_option directory]}]}
}

set keys [file normalize [tmpdir keys]]/keys
set scratch [file normalize [tmpdir scratch]]
write_keys $keys k1 1

snapshotted_server [list --snapshot-log-mb 0 --encrypt-key-file $keys --encrypt-scratch-dir $scratch] {} {
    test "What clients write stands on no disk, in log and snapshots, and is there after all has crashed" {
        # So that RDBs are not compressed out of sight.
        for {set i 0} {$i < 50} {incr i} {r set key:$i needle-of-the-haystack-$i}
        wait_until_durable
        set offset [snapshot]
        assert {$offset > 0}
        assert_equal {} [glob -nocomplain $scratch/logservice-plain-*/*]
        r set behind-the-snapshot needle-of-the-haystack-50
        crash_and_restart_both
        assert_equal needle-of-the-haystack-7 [r get key:7]
        assert_equal needle-of-the-haystack-50 [r get behind-the-snapshot]
        assert {![on_disk needle-of-the] && ![on_disk behind-the-snapshot]}
        assert {[on_disk k1]}
        # The next is made of the one before.
        assert {[snapshot] > $offset}
        set end [log_status end]
        kill_log

        set directory [log_option directory]
        assert_match "*encrypted with k1 (checksums verified, nothing decrypted*all sound*" [check_log]
        assert_match "*encrypted with k1\n*all sound*" [exec $::env(LOGSERVICE) check $directory --encrypt-key-file $keys]
        set dump [exec $::env(LOGSERVICE) dump $directory --shard $::shard --encrypt-key-file $keys]
        assert_match {*"SELECT"*} $dump
        catch {exec $::env(LOGSERVICE) dump $directory --shard $::shard} output
        assert_match "*'k1', and no keys were given*" $output
        set restore [list $::env(LOGSERVICE) restore $directory --shard $::shard --to $end --out $scratch/out.rdb --valkey-server $::env(VALKEY_BIN_DIR)/valkey-server]
        catch {exec {*}$restore} output
        assert_match "*'k1', and no keys were given*" $output
        assert {![file exists $scratch/out.rdb]}
        exec {*}$restore --encrypt-key-file $keys
        assert {[file size $scratch/out.rdb] > 100}
        file delete $scratch/out.rdb
        start_log
    }
}

snapshotted_server [list --snapshot-log-mb 0 --encrypt-key-file $keys] {} {
    test "Without its key a shard is not served, the node keeps its data, and with it all goes on" {
        r set a 1
        wait_until_durable
        set id [log_status log_id]
        kill_log
        dict set ::log_service arguments {--snapshot-log-mb 0}
        start_log
        catch {log_service LOG.DROP $::shard $id} refused
        assert_match "*lacks nothing but a key*LOG.DROP $::shard $id FORCE*" $refused
        catch {log_status state} refused
        assert_match "LOGFAILED *.log: it is encrypted with key 'k1', and no keys were given: --encrypt-key-file*" $refused
        assert_equal 1 [r get a]
        kill_log
        dict set ::log_service arguments [list --snapshot-log-mb 0 --encrypt-key-file $keys]
        start_log
        wait_until_leading
        r set b 2
        wait_until_durable
        crash_and_restart_both
        assert_equal {1 2} [r mget a b]
    }
}

snapshotted_server {--snapshot-log-mb 0} {} {
    test "Encryption is turned on for a log that is there, and a snapshot takes the place of what was not encrypted" {
        for {set i 0} {$i < 50} {incr i} {r set key:$i needle-of-the-haystack-$i}
        wait_until_durable
        assert {[on_disk needle-of-the]}
        snapshot
        kill_log
        dict set ::log_service arguments [list --snapshot-log-mb 0 --encrypt-key-file $keys]
        start_log
        wait_until_leading
        r set behind-the-snapshot needle-of-the-haystack-50
        wait_until_durable
        assert {![on_disk behind-the-snapshot]}
        assert_match "*encrypted with k1, but * 1 snapshots are not*" [check_log]
        snapshot
        wait_for_condition 500 10 {[regexp {encrypted with k1 \(} [check_log]]} else {
            fail "still: [check_log]"
        }
        assert {![on_disk needle-of-the]}
        crash_and_restart_both
        assert_equal needle-of-the-haystack-7 [r get key:7]
        assert_equal needle-of-the-haystack-50 [r get behind-the-snapshot]

        # Another key, while all runs.
        write_keys $keys k2 2 k1 1
        exec kill -HUP [log_option pid]
        wait_for_condition 500 10 {[string match "*encrypted with key 'k2' from now on*" [log_output]]} else {
            fail "the keys are not read again: [log_output]"
        }
        # The log before needs the old one still.
        write_keys $keys k2 2
        exec kill -HUP [log_option pid]
        wait_for_condition 500 10 {[string match "*the keys stay as they were: *'k1' is not in it any more, and * of shard $::shard is encrypted*" [log_output]]} else {
            fail "the keys are not refused: [log_output]"
        }
        r set c 3
        wait_until_durable
        snapshot
        wait_for_condition 500 10 {[regexp {encrypted with k2 \(} [check_log]]} else {
            fail "still: [check_log]"
        }
        # So the old one is of no use any more.
        write_keys $keys k2 2
        crash_and_restart_both
        assert_equal {needle-of-the-haystack-7 3} [r mget key:7 c]
    }
}
