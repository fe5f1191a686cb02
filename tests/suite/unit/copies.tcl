# What the log service cannot give to a node that asks for a full copy: the node waits, both sides say why, and all goes on by itself.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl
source $::env(SUITE_SUPPORT)/snapshots.tcl

proc count_lines {level text} {
    count_message_lines [srv $level stdout] $text
}

# How often the server has connected to its log to replicate.
proc count_attempts {} {
    count_lines 0 "sync started"
}

proc count_log_lines {text} {
    regexp -all -line -- "^.*$text.*\$" [log_output]
}

# The path of the newest snapshot.
proc snapshot_path {} {
    return [log_option directory]/snapshots/[lindex [recorded_files] end]
}

# Until both sides say that the log cannot give a full copy, for a reason in which `text` stands. The node's server runs and serves nobody.
proc assert_told {text} {
    wait_for_condition 3000 10 {
        [string match "*$text*" [figure last_error]] && [string match "*$text*" [log_status full_copy_error]]
    } else {
        fail "the node says '[figure last_error]', the log '[log_status full_copy_error]'"
    }
    assert_match "*shard $::shard *" [figure last_error]
    assert_equal attaching [figure role]
    assert_error {LOADING*} {r get key}
}

proc wait_until_leading_again {} {
    wait_for_condition 6000 10 {[figure role] eq "leader"} else {
        fail "the node does not go on: [figure last_error]"
    }
}

# Several blocks of it.
proc fill {} {
    for {set i 0} {$i < 5} {incr i} {r set large$i [random_bytes 1000000]}
}

foreach {what damage} {
    "its first byte is another"         {change_byte $file 0}
    "a byte of a key is another"        {change_byte $file 300}
    "a byte in its middle is another"   {change_byte $file 3000000}
    "its last byte is missing"          {exec truncate -s -1 $file}
    "it is empty"                       {exec truncate -s 0 $file}
    "it is gone"                        {file delete $file}
} {
    snapshotted_server {} {} {
        test "A snapshot that was damaged ($what): the node waits and both sides say why, and it goes on when that is mended" {
            fill
            r set change $what
            snapshot
            r set since $what
            wait_until_durable
            set digest [debug_digest]
            set file [snapshot_path]
            set intact [tmpfile intact]
            file copy -force $file $intact
            assert_match {*all sound*} [check_log]
            eval $damage
            assert_match "*shard $::shard: DAMAGED: *[file tail $file]*" [check_log]
            kill_hard [srv 0 pid]
            set attempts [count_attempts]
            restart_server 0 false false
            set pid [srv 0 pid]
            assert_told [file tail $file]
            # The time in which it would try again and again.
            after 5000
            assert_told [file tail $file]
            assert_lessthan [expr {[count_attempts] - $attempts}] 12
            assert_lessthan [count_lines 0 "durability: .*[file tail $file].*trying again"] 3
            assert_lessthan [count_log_lines "ERROR.*[file tail $file]"] 4
            assert_error "ERR no snapshot was made: *[file tail $file]*" {log_service LOG.SNAPSHOT $::shard}
            file copy -force $intact $file
            assert_match {*all sound*} [check_log]
            wait_until_leading_again
            assert {[is_alive $pid]}
            assert_equal $digest [debug_digest]
            assert_equal {} [figure last_error]
            assert_equal {} [log_status full_copy_error]
            assert_equal {} [log_status snapshot_error]
            assert_morethan [snapshot] 0
        }
    }
}

foreach {what damage} {
    "a byte in its middle is another"   {change_byte $newest 3000000}
    "it is gone"                        {file delete $newest}
} {
    snapshotted_server {--keep-snapshots 2} {} {
        test "While the newest snapshot is damaged ($what), a node gets an older one that is kept, and the log after it" {
            fill
            snapshot
            r set between $what
            snapshot
            r set since $what
            wait_until_durable
            set digest [debug_digest]
            lassign [recorded_files] older
            set newest [snapshot_path]
            eval $damage
            crash_and_restart_both
            assert_equal $digest [debug_digest]
            assert_match "*[file tail $newest]*" [log_status snapshot_error]
            assert_equal {} [log_status full_copy_error]
            # The next one is made of the older as well, and takes the place of the one that is damaged.
            assert_morethan [snapshot] 0
            assert_equal {} [log_status snapshot_error]
            assert_equal 2 [llength [recorded_files]]
            assert_equal $older [lindex [recorded_files] 0]
            assert {[snapshot_path] ne $newest}
            assert_match {*all sound*} [check_log]
            crash_and_restart_both
            assert_equal $digest [debug_digest]
        }
    }
}

snapshotted_server {--keep-snapshots 3} {} {
    test "While the only snapshot is damaged and the log goes back to where it began, a node gets all of that" {
        r set early 1
        snapshot
        r set late 1
        wait_until_durable
        set digest [debug_digest]
        assert_equal 0 [log_status base]
        exec truncate -s 0 [snapshot_path]
        crash_and_restart_both
        assert_equal $digest [debug_digest]
        assert_match {*instead of*} [log_status snapshot_error]
        snapshot
        assert_match {*all sound*} [check_log]
    }
}

snapshotted_server {} {} {
    test "A plain replica waits for a full copy as well, is told why, and gets it when there is one" {
        fill
        snapshot
        set file [snapshot_path]
        file rename $file $file.away
        start_server {overrides {save {}}} {
            r config set primaryuser $::shard primaryauth none
            r replicaof $::host [log_option port]
            wait_for_condition 3000 10 {[count_lines 0 "NOMASTERLINK .*[file tail $file]"] > 0} else {
                fail "the replica is not told"
            }
            set attempts [count_attempts]
            after 5000
            assert_lessthan [expr {[count_attempts] - $attempts}] 12
            file rename $file.away $file
            set digest [r -1 debug digest]
            wait_for_condition 6000 10 {[s master_link_status] eq "up" && [r debug digest] eq $digest} else {
                fail "the replica does not get the data"
            }
        }
    }
}

snapshotted_server {--segment-mb 2} {} {
    test "A log that is damaged gives nothing: a node is told why, and nobody asks again and again without a pause" {
        fill
        wait_until_durable
        kill_log
        set segment [lindex [lsort [glob -directory [log_option directory]/shards/$::shard/log *.log]] 0]
        change_byte $segment 1000000
        start_log
        wait_for_condition 3000 10 {[log_status state] eq "damaged"} else {
            fail "the damage is not found"
        }
        kill_hard [srv 0 pid]
        set attempts [count_attempts]
        restart_server 0 false false
        wait_for_condition 3000 10 {[string match "the log of shard $::shard is damaged: *[file tail $segment]*" [figure last_error]]} else {
            fail "the node says [figure last_error]"
        }
        start_server {overrides {save {}}} {
            r config set primaryuser $::shard primaryauth none
            r replicaof $::host [log_option port]
            wait_for_condition 3000 10 {[count_lines 0 "NOMASTERLINK LOGFAILED .*[file tail $segment]"] > 0} else {
                fail "the replica is not told"
            }
            set plain_attempts [count_attempts]
            after 5000
            assert_lessthan [expr {[count_attempts] - $plain_attempts}] 12
        }
        assert_lessthan [expr {[count_attempts] - $attempts}] 12
    }
}

set ::engine_conf [file normalize [tmpfile engine-conf]]
set file [open $::engine_conf w]
puts $file "loadmodule [test_module] type"
close $file

snapshotted_server [list --valkey-conf $::engine_conf] {test-module type} {
    # An engine with such a module gets what it is fed as a file, instead of by its link.
    test "Engines with a module that cannot load beside its data leave nothing behind" {
        r set key value
        wait_until_durable
        snapshot
        log_service LOG.AUDIT $::shard
        # A snapshot of a snapshot, as well.
        r set key other
        wait_until_durable
        snapshot
        wait_for_condition 500 10 {[snapshot_files] eq [recorded_files]} else {
            fail "stored: [snapshot_files], recorded: [recorded_files]"
        }
    }

    test "A node without the module of a type that the snapshot holds does not end: it says which type, and leads when it has it" {
        r select 3
        r tm.type_set typed value
        r select 9
        r set key value
        snapshot
        assert_equal tm-type-- [log_status snapshot_module_types]
        wait_until_durable
        set config [dict get [lindex $::servers end] config_file]
        set lines [exec cat $config]
        set file [open $config w]
        puts $file [regsub -all -line {^loadmodule.* type$} $lines {}]
        close $file
        kill_hard [srv 0 pid]
        restart_server 0 true false
        wait_for_condition 3000 10 {[string match "*shard $::shard *tm-type--*" [figure last_error]]} else {
            fail "the node says [figure last_error]"
        }
        assert_error {LOADING*} {r get key}
        assert_equal 1 [count_lines 0 "durability: .*tm-type--.*trying again"]
        set file [open $config w]
        puts $file $lines
        close $file
        kill_hard [srv 0 pid]
        restart_server 0 true false
        wait_until_leading_again
        assert_equal value [r get key]
        r select 3
        assert_equal tm-type-- [r type typed]
        r select 9
    }
}

# --- What a server does not load -------------------------------------------------------------------------------------

shard_of 2 {} {
    test "A follower whose full copy breaks off shows nobody the nothing that it holds then, and gets another" {
        set leader [wait_for_shard]
        set follower [lindex [lsearch -all -inline -not [nodes] $leader] 0]
        on $leader set kept 1
        for {set i 0} {$i < 5} {incr i} {on $leader set large$i [random_bytes 1000000]}
        assert_same_data
        # While it stands still the log that it lacks goes, and the snapshot in its place is damaged behind its first block.
        on $follower config set primaryuser "not valid"
        on $follower client kill type primary
        stop_node $follower
        on $leader set later 1
        snapshot
        set file [snapshot_path]
        set intact [tmpfile intact]
        file copy -force $file $intact
        change_byte $file 3000000
        continue_node $follower
        set deadline [expr {[clock seconds] + 60}]
        while {![string match "*[file tail $file]*" [figure_of $follower last_error]]} {
            if {![catch {on $follower get kept} value]} {assert_equal 1 $value}
            if {[clock seconds] > $deadline} {fail "the node says [figure_of $follower last_error]"}
        }
        assert_error {LOADING*} {on $follower get kept}
        file copy -force $intact $file
        wait_for_condition 6000 10 {[role_of $follower] eq "follower"} else {
            fail "the node does not follow: [figure_of $follower last_error]"
        }
        assert_same_data
        assert_equal {} [figure_of $follower last_error]
    }
}
