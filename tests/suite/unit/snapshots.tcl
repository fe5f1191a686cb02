# Snapshots are made off the leader; the log below them goes, and nothing else does.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/snapshots.tcl
source $::env(SUITE_SUPPORT)/engines.tcl

# --- The log service and its snapshots -----------------------------------------------------------------------------

# What is stored is what counts, and nothing else is there.
proc assert_only_recorded_files {count} {
    assert_equal $count [llength [recorded_files]]
    wait_for_condition 500 10 {[snapshot_files] eq [recorded_files]} else {
        fail "stored: [snapshot_files], recorded: [recorded_files]"
    }
}

proc log_files {} {
    lsort [glob -directory [log_option directory]/shards/$::shard/log *.log]
}

# Some of every type, in several databases. Returns a digest of all data.
proc fill_everything {} {
    r flushall
    r function flush
    foreach database {0 9 42} {
        r select $database
        createComplexDataset r 150 useexpire
        r set binary "\x00\xff\r\n*1\r\n\$4\r\nPING\r\n"
        r set later value ex 10000
        r hset fields stays 1 goes 2
        r hexpire fields 10000 fields 1 goes
        r xadd stream 1-1 field value
        r xgroup create stream group 0
        r xreadgroup group group consumer streams stream >
        r pfadd counter a b c
        r geoadd places 13.361389 38.115556 Palermo
        r setbit bits 1000 1
    }
    r select 9
    r function load "#!lua name=kept\nredis.register_function('kept', function() return 'kept' end)"
    # What expires soon is gone: nothing that has an expiry is left but `later`.
    wait_for_condition 500 10 {[regexp -all {:keys=\d+,expires=1,} [r info keyspace]] == 3} else {
        fail "keys do not expire: [r info keyspace]"
    }
    debug_digest
}

# --- What comes back -------------------------------------------------------------------------------------------------

snapshotted_server {} {server {databases 100}} {
    test "From a snapshot and the log after it, everything comes back: all types, databases, functions, expiries" {
        set digest [fill_everything]
        set offset [snapshot]
        assert_equal $offset [log_status base]
        assert_equal 1 [log_status snapshots]
        assert_equal {} [log_status snapshot_error]
        crash_and_restart_both
        assert_equal $digest [debug_digest]
        assert_equal kept [r fcall kept 0]
        assert_morethan [r ttl later] 9000
        assert_morethan [lindex [r httl fields fields 1 goes] 0] 9000
        assert_equal 1 [dict get [lindex [r xinfo groups stream] 0] pending]
        # From a snapshot of a snapshot as well.
        r set after-restart 1
        set digest [debug_digest]
        assert_morethan [snapshot] $offset
        crash_and_restart_both
        assert_equal $digest [debug_digest]
        assert_equal kept [r fcall kept 0]
    }

    test "A snapshot knows in which database the log goes on" {
        r flushall
        r select 9
        r set before 9
        snapshot
        # No SELECT stands between the two.
        r set after 9
        r select 0
        r set after 0
        crash_and_restart_both
        r select 9
        assert_equal {9 9} [r mget before after]
        assert_equal 2 [r dbsize]
        # The next snapshot has to know it as well.
        r set again 9
        snapshot
        r select 0
        r set again 0
        crash_and_restart_both
        r select 0
        assert_equal {0 0} [r mget after again]
        assert_equal 2 [r dbsize]
        r select 9
        assert_equal {9 9 9} [r mget before after again]
    }

    test "Keys whose time has come, and that nobody has deleted yet, do not keep a snapshot from being made" {
        r flushall
        r set stays 1
        set digest [debug_digest]
        r debug set-active-expire 0
        for {set i 0} {$i < 20} {incr i} {r psetex gone$i 1 value}
        assert_morethan [r dbsize] 20
        snapshot
        crash_and_restart_both
        wait_for_condition 500 10 {[r dbsize] == 1} else {
            fail "the keys do not expire"
        }
        assert_equal $digest [debug_digest]
    } {} {needs:debug}

    test "Fields that expire while a snapshot is made do not keep it from being made" {
        r flushall
        r debug set-active-expire 0
        for {set field 0} {$field < 1000} {incr field} {
            r hset fields $field value
            r hpexpire fields [expr {$field * 5 + 1}] fields 1 $field
        }
        snapshot
        r debug set-active-expire 1
        assert_equal {} [log_status snapshot_error]
    } {} {needs:debug}

    test "A snapshot that nothing was written after is as new as one can be" {
        r flushall
        r set more 1
        wait_until_durable
        set offset [snapshot]
        set files [snapshot_files]
        assert_equal $offset [snapshot]
        assert_equal $files [snapshot_files]
    }
}

test "There is no snapshot of a log that nothing was ever written to" {
    new_log
    start_log
    make_shard $::shard
    assert_error {ERR no snapshot was made: the log holds nothing yet} {log_service LOG.SNAPSHOT $::shard}
    kill_log
}

# --- What goes away ----------------------------------------------------------------------------------------------------

snapshotted_server {--segment-mb 2} {} {
    test "The log below a snapshot goes, and the next snapshot takes its place" {
        for {set i 0} {$i < 12} {incr i} {r set key$i [random_bytes 1000000]}
        wait_until_durable
        set first [lindex [log_files] 0]
        assert_morethan [log_status segments] 5
        set offset [snapshot]
        assert_equal $offset [log_status base]
        assert_equal $offset [log_status snapshot_offset]
        assert {![file exists $first]}
        assert_lessthan [llength [log_files]] 5
        assert_only_recorded_files 1
        set file [recorded_files]
        r set key0 again
        assert_morethan [snapshot] $offset
        assert_only_recorded_files 1
        assert {[recorded_files] ne $file}
        set digest [debug_digest]
        crash_and_restart_both
        assert_equal $digest [debug_digest]
        assert_only_recorded_files 1
    }
}

set ::elsewhere [file normalize [tmpdir "else where"]]
snapshotted_server [list --snapshots file://[string map {{ } %20} $::elsewhere]] {} {
    test "Snapshots can be kept in another directory" {
        r set key value
        snapshot
        assert_equal [recorded_files] [glob -directory $::elsewhere -tails *-*/*.rdb]
        assert_equal {} [snapshot_files]
        set digest [debug_digest]
        crash_and_restart_both
        assert_equal $digest [debug_digest]
    }
}

# On a machine that is never idle, snapshots that are due get a share of a core after two seconds.
snapshotted_server {--segment-mb 2 --snapshot-log-mb 1 --engine-stall-seconds 2 --engine-mb-per-second 100} {} {
    test "By itself a snapshot is made whenever the log has grown, and what is on disk is bounded" {
        set value [string repeat x 100000]
        for {set round 0} {$round < 4} {incr round} {
            set last [log_status snapshot_offset]
            for {set i 0} {$i < 60} {incr i} {r set key[expr {$i % 5}] $value}
            wait_until_durable
            # Also if one was begun while the log still grew.
            set end [log_status end]
            wait_for_condition 6000 10 {$end - [log_status snapshot_offset] <= 1 << 20 && ![log_status snapshot_running]} else {
                fail "no snapshot is made: [log_status snapshot_error]"
            }
            assert_morethan [log_status snapshot_offset] $last
            # The one that is written, one that is ready, and one that the snapshot stands in.
            assert_lessthan [log_status segments] 8
            assert_lessthan [lindex [exec du -sb [log_option directory]] 0] 12000000
            assert_only_recorded_files 1
        }
        assert_morethan $end 24000000
        set digest [debug_digest]
        crash_and_restart_both
        assert_equal $digest [debug_digest]
    }
}

# --- Replicas that follow --------------------------------------------------------------------------------------------

# The innermost server follows the log.
proc follow_log {} {
    r config set primaryuser $::shard primaryauth none
    r replicaof $::host [log_option port]
}

proc wait_until_replica_has {digest {level 0}} {
    wait_for_condition 3000 10 {[s $level master_link_status] eq "up" && [debug_digest_value_of $level] eq $digest} else {
        fail "the replica does not get the data"
    }
}

proc debug_digest_value_of {level} {
    if {[catch {r $level debug digest} digest]} {return {}}
    return $digest
}

proc count_lines {level text} {
    count_message_lines [srv $level stdout] $text
}

snapshotted_server [concat {--segment-mb 2} [controlled_engine]] {} {
    r set early value
    for {set i 0} {$i < 5} {incr i} {r set key$i [random_bytes 1000000]}

    start_server {overrides {save {}}} {
        test "A replica follows across a snapshot, and continues after it was disconnected" {
            follow_log
            wait_until_replica_has [r -1 debug digest]
            snapshot
            r -1 set after-snapshot 1
            wait_until_replica_has [r -1 debug digest]
            r client kill type primary
            r -1 set after-kill 1
            wait_until_replica_has [r -1 debug digest]
            assert_equal 1 [count_lines 0 "Full resync from primary"]
            assert_equal 1 [count_lines 0 "Successful partial resynchronization"]
        }

        test "A replica that was away while the log was dropped gets a full copy" {
            # It is turned away until this is right again.
            r config set primaryuser "not valid"
            r client kill type primary
            wait_for_condition 500 10 {[count_lines 0 "Unable to AUTH"] > 0} else {
                fail "the replica is not turned away"
            }
            r -1 set while-away 1
            snapshot
            r -1 set after-second-snapshot 1
            r config set primaryuser $::shard
            wait_until_replica_has [r -1 debug digest]
            assert_equal 2 [count_lines 0 "Full resync from primary"]
            assert_equal 1 [r get while-away]
        }
    }

    test "Replicas that are being sent an older snapshot find the log after it" {
        # More than sockets hold on the way.
        for {set i 0} {$i < 160} {incr i} {r set large$i [random_bytes 100000]}
        snapshot
        # They load nothing, and so read nothing, until they are told.
        set slow {overrides {save {} key-load-delay 200000 loading-process-events-interval-bytes 1024 repl-diskless-load swapdb}}
        start_server $slow {
            start_server $slow {
                start_server $slow {
                    foreach level {0 -1 -2} {
                        r $level config set primaryuser $::shard primaryauth none
                        r $level replicaof $::host [log_option port]
                    }
                    foreach level {0 -1 -2} {
                        wait_for_condition 1000 10 {[count_lines $level "Full resync from primary"] == 1} else {
                            fail "the replica is not sent a snapshot"
                        }
                    }
                    # Log that goes with the next snapshot, over several segments.
                    for {set i 0} {$i < 80} {incr i} {r -3 set more$i [random_bytes 100000]}
                    set base [log_status base]
                    assert_morethan [snapshot] $base
                    foreach level {0 -1 -2} {assert_equal down [s $level master_link_status]}
                    foreach level {0 -1 -2} {r $level config set key-load-delay 0}
                    r -3 set last 1
                    set digest [r -3 debug digest]
                    foreach level {0 -1 -2} {
                        wait_until_replica_has $digest $level
                        assert_equal 1 [count_lines $level "Full resync from primary"]
                        assert_equal 0 [count_lines $level "Connection with primary lost"]
                    }
                }
            }
        }
    }

    test "A replica that connects while a snapshot is being made, and is still syncing when it counts, has everything" {
        start_server {overrides {save {}}} {
            while_engine_waits 2 {
                r -1 set while-made 1
                follow_log
            }
            r -1 set after-made 1
            wait_until_replica_has [r -1 debug digest]
        }
    }
}

# --- Where a snapshot stands -----------------------------------------------------------------------------------------

foreach {what command} {
    "a value"       {$writer set torn [string repeat x 30000000]}
    "a transaction" {
        $writer select 3
        $writer multi
        for {set i 0} {$i < 30} {incr i} {$writer set torn$i [random_bytes 1000000]}
        $writer exec
    }
} {
    snapshotted_server {} {server {repl-backlog-size 1mb}} {
        test "While $what of 30 MB is half in the log, a snapshot stands before it" {
            r set before 1
            wait_until_durable
            set digest [debug_digest]
            set before [log_status end]
            set writer [valkey_deferring_client]
            while_frozen {
                eval $command
                # More than may be on its way to the log at once.
                wait_for_condition 500 10 {[log_status durable_end] > $before + 6000000} else {
                    fail "the log does not get the beginning"
                }
                kill_hard [srv 0 pid]
            }
            $writer close
            assert_morethan [log_status end] [expr {$before + 6000000}]
            set offset [snapshot]
            # A SELECT may stand before it.
            assert_morethan_equal $offset $before
            assert_lessthan $offset [expr {$before + 100}]
            assert_error {*nothing that can be applied was written since*} {log_service LOG.SNAPSHOT $::shard}
            assert_equal $offset [log_status snapshot_offset]
            restart_server 0 true false
            wait_until_leading
            assert_equal $digest [debug_digest]
            r set after 1
            snapshot
            crash_and_restart_both
            assert_equal {1 1} [r mget before after]
            assert_equal 2 [r dbsize]
        }
    }
}

# --- What goes wrong -------------------------------------------------------------------------------------------------

snapshotted_server {--valkey-server /nowhere/valkey-server --segment-mb 2} {} {
    test "Without a valkey-server a snapshot is refused with what to do, and the log goes on" {
        for {set i 0} {$i < 5} {incr i} {r set key$i [random_bytes 1000000]}
        wait_until_durable
        set segments [log_files]
        assert_error {ERR no snapshot was made: cannot start /nowhere/valkey-server: *install valkey-server*--valkey-server} {
            log_service LOG.SNAPSHOT $::shard
        }
        assert_match {cannot start /nowhere/valkey-server*} [log_status snapshot_error]
        assert_equal {0 0 0 ok} [lmap field {base snapshots snapshot_running state} {log_status $field}]
        assert_equal $segments [log_files]
        assert_equal OK [r set after 1]
        set digest [debug_digest]
        crash_and_restart_both
        assert_equal $digest [debug_digest]
    }
}

snapshotted_server {} {server {databases 20000} test-module {}} {
    test "A snapshot has as many databases as the log's leader had" {
        r set before 1
        r select 19999
        r set beyond 1
        r select 9
        wait_until_durable
        assert_equal 20000 [log_status databases]
        assert_morethan [snapshot] 0
        crash_and_restart_both
        assert_equal 1 [r get before]
        r select 19999
        assert_equal 1 [r get beyond]
        r select 9
    }

    test "What the engine cannot apply is not left out of a snapshot: none is made, and the log stays" {
        set before [lmap field {base snapshots} {log_status $field}]
        r tm.set_verbatim verbatim 1
        wait_until_durable
        set end [log_status end]
        assert_error {ERR no snapshot was made: *cannot apply the log at offset *tm.set_verbatim*} {
            log_service LOG.SNAPSHOT $::shard
        }
        assert_equal [list {*}$before $end] [lmap field {base snapshots end} {log_status $field}]
        crash_and_restart_both
        assert_equal {1 1} [r mget before verbatim]
    }
}

# Saving takes long with this.
set ::slow_save [file normalize [tmpfile slow-save]]
touch $::slow_save

# The pid of the engine that has begun to write a file.
proc wait_until_saving {} {
    wait_for_condition 1000 10 {
        [regexp {temp-(\d+)\.rdb} [glob -nocomplain -directory [log_option directory]/snapshots */temp-* */*/temp-*] _ pid]
    } else {
        fail "no engine saves"
    }
    return $pid
}

set ::env(TMPDIR) [file normalize [tmpdir sockets]]
snapshotted_server [list --valkey-conf $::slow_save] {} {
    # With the extra lines it takes 10 seconds; without, as long as ever.
    proc save_slowly {is_slow} {
        set file [open $::slow_save w]
        if {$is_slow} {puts $file "rdb-key-save-delay 100000"}
        close $file
    }

    test "An engine that is killed while it saves leaves nothing behind, and the next one makes the snapshot" {
        save_slowly no
        r set first 1
        set offset [snapshot]
        set file [recorded_files]
        save_slowly yes
        for {set i 0} {$i < 100} {incr i} {r set key$i value}
        set digest [debug_digest]
        set client [valkey $::host [log_option port] 1]
        $client LOG.SNAPSHOT $::shard
        set pid [wait_until_saving]
        assert_equal [log_option pid] [string trim [exec ps -o ppid= -p $pid]]
        assert_equal 1 [log_status snapshot_running]
        exec kill -KILL $pid
        assert_match {ERR no snapshot was made: valkey-server *} [read_any_reply $client]
        $client close
        assert_match {valkey-server *} [log_status snapshot_error]
        assert_equal [list 0 1 $offset $offset] [lmap field {snapshot_running snapshots snapshot_offset base} {log_status $field}]
        assert_equal $file [recorded_files]
        assert_only_recorded_files 1
        save_slowly no
        assert_morethan [snapshot] $offset
        assert_equal {} [log_status snapshot_error]
        assert_only_recorded_files 1
        crash_and_restart_both
        assert_equal $digest [debug_digest]
    }

    test "A log service that is killed while a snapshot is made takes the engine with it, and cleans up when it starts" {
        save_slowly yes
        r set another 1
        set offset [log_status snapshot_offset]
        set digest [debug_digest]
        set client [valkey $::host [log_option port] 1]
        $client LOG.SNAPSHOT $::shard
        set pid [wait_until_saving]
        kill_log
        $client close
        save_slowly no
        set left [snapshot_files]
        start_log
        wait_for_condition 500 10 {![is_running $pid]} else {
            fail "the engine goes on"
        }
        assert_equal {} [glob -nocomplain -directory $::env(TMPDIR) *]
        # There was something to remove.
        assert_morethan [llength $left] 1
        assert_only_recorded_files 1
        assert_equal [list 1 $offset] [lmap field {snapshots snapshot_offset} {log_status $field}]
        wait_until_durable
        assert_morethan [snapshot] $offset
        crash_and_restart_both
        assert_equal $digest [debug_digest]
    }

    test "A node that leads while its log's snapshot is damaged begins the log anew by mode off and on" {
        r set key value
        snapshot
        r set since value
        wait_until_durable
        change_byte [log_option directory]/snapshots/[recorded_files] 60
        assert_match "*shard $::shard: DAMAGED: *" [check_log]
        r config set durability.mode off
        r config set durability.mode sync
        wait_until_leading
        r set after value
        wait_until_durable
        assert_match {*all sound*} [check_log]
        set digest [debug_digest]
        crash_and_restart_server
        wait_until_leading
        assert_equal $digest [debug_digest]
    }
}

unset ::env(TMPDIR)

snapshotted_server [concat {--segment-mb 2} [controlled_engine]] {} {
    test "A snapshot that loads as something else than was saved does not count" {
        r flushall
        r set key right
        snapshot
        set standing [recorded_files]
        set base [log_status base]
        start_server {overrides {save {}}} {
            r set key wrong
            r save
            file copy [lindex [r config get dir] 1]/dump.rdb $::env(ENGINE_CONTROL)/substitute
        }
        r set key right
        set segments [log_files]
        assert_error {ERR no snapshot was made: the rehearsal found other data than was saved*} {log_service LOG.SNAPSHOT $::shard}
        assert_match {the rehearsal found other data*} [log_status snapshot_error]
        assert_equal $standing [recorded_files]
        assert_only_recorded_files 1
        assert_equal $base [log_status base]
        assert_equal $segments [log_files]
        file delete $::env(ENGINE_CONTROL)/substitute
        snapshot
        assert_equal {} [log_status snapshot_error]
        crash_and_restart_both
        assert_equal right [r get key]
    }

    test "A log that begins anew while a snapshot is made keeps its seed, not the snapshot" {
        foreach engine {1 2} {
            r set key before-$engine
            set reply [while_engine_waits $engine {
                r durability.mode off
                r set key seeded-$engine
                set seeds [figure seeds]
                r durability.mode sync
                wait_for_condition 500 10 {[figure seeds] > $seeds && [figure pending_bytes] == 0} else {
                    fail "the log is not seeded"
                }
                set seed [recorded_files]
            }]
            assert_match {ERR *} $reply
            assert_equal $seed [recorded_files]
            assert_only_recorded_files 1
            crash_and_restart_both
            assert_equal seeded-$engine [r get key]
        }
    }

    test "A snapshot has what was written while its making began, unless another leads meanwhile" {
        r set key before
        while_engine_waits 1 {
            for {set i 0} {$i < 3} {incr i} {r set key$i [random_bytes 1000000]}
            wait_until_durable
            set end [log_status end]
        }
        assert_morethan_equal [log_status snapshot_offset] $end
        r set key between
        wait_until_durable
        while_engine_waits 1 {
            r set key after
            wait_until_durable
            set end [log_status end]
            crash_and_restart_server
            wait_until_leading
            for {set i 0} {$i < 3} {incr i} {r set key$i [random_bytes 1000000]}
            wait_until_durable
            set digest [debug_digest]
        }
        assert_lessthan_equal [log_status snapshot_offset] $end
        crash_and_restart_both
        assert_equal $digest [debug_digest]
    }

    test "Writes and leadership do not wait for a snapshot" {
        r set key before
        while_engine_waits 1 {
            assert_equal OK [r set key while-made]
            wait_until_durable
            crash_and_restart_server
            wait_until_leading
            assert_equal while-made [r get key]
        }
    }
}

# --- As it was -------------------------------------------------------------------------------------------------------

proc restore {to {out {}}} {
    if {$out eq {}} {set out [file normalize [tmpdir restored]]/dump.rdb}
    set said [exec $::env(LOGSERVICE) restore [log_option directory] --shard $::shard --to $to --out $out --valkey-server $::engine]
    assert_match "shard $::shard as it was at *" $said
    return $out
}

# The digest of what a plain server has that loads the RDB.
proc digest_of_rdb {file} {
    start_server [list keep_persistence true overrides [list save {} dir [file dirname $file] dbfilename [file tail $file]]] {
        set digest [r debug digest]
    }
    return $digest
}

proc utc {time_ms} {
    format %s.%03dZ [clock format [expr {$time_ms / 1000}] -gmt 1 -format %Y-%m-%dT%H:%M:%S] [expr {$time_ms % 1000}]
}

snapshotted_server {--keep-snapshots 3 --segment-mb 2} {} {
    # What was when: dicts of offset, time and digest.
    proc remember {} {
        wait_until_durable
        after 5
        set moment [dict create offset [log_status end] time [utc [clock milliseconds]] digest [debug_digest]]
        after 5
        return $moment
    }

    # The RDB of each moment, by its offset and by its time.
    proc assert_restored {moments} {
        foreach kind {offset time} {
            foreach moment $moments {
                assert_equal [dict get $moment digest] [digest_of_rdb [restore [dict get $moment $kind]]]
            }
        }
    }

    test "What FLUSHALL took away can be had back, before and after the first snapshot" {
        createComplexDataset r 100
        set before_flush [remember]
        r flushall
        r set after-flushall 1
        set after_flush [remember]
        assert_equal 0 [log_status snapshots]
        assert_restored [list $before_flush $after_flush]
        assert_morethan [snapshot] [dict get $before_flush offset]
        # Fewer than are to be kept: the log still goes back to where it began.
        assert_restored [list $before_flush $after_flush]
    }

    test "An RDB can be made of a shard as it was at any moment that is kept, while it is served" {
        set moments {}
        for {set i 0} {$i < 3} {incr i} {
            createComplexDataset r 30
            lappend moments [remember]
            r incr counter
            lappend moments [remember]
            if {$i < 2} snapshot
        }
        assert_only_recorded_files 3
        assert_restored $moments
    }

    test "What is not kept, not written yet, or there already is refused with the reason" {
        r set newest 1
        wait_until_durable
        snapshot
        set base [log_status base]
        assert_equal 3 [log_status snapshots]
        set moment $before_flush
        assert_error "*offset [dict get $moment offset] is before what is kept: shard $::shard goes back to offset $base (kept since *" {
            restore [dict get $moment offset]
        }
        assert_error "*[dict get $moment time] is before what is kept: *" {restore [dict get $moment time]}
        set after_end [expr {[log_status end] + 1000000}]
        assert_error "*offset $after_end is after the end of the log*" {restore $after_end}
        assert_error {*there is no shard nobody*} {
            exec $::env(LOGSERVICE) restore [log_option directory] --shard nobody --to 1 --out /tmp/nothing.rdb
        }
        set out [tmpfile existing]
        touch $out
        assert_error "*$out exists already*" {restore [log_status end] $out}
        assert_equal 0 [file size $out]
        assert_equal {} [glob -nocomplain -directory [file dirname $out] *.partial]
    }

    test "A time after the last write is the end of the log" {
        set digest [debug_digest]
        assert_equal $digest [digest_of_rdb [restore [utc [expr {[clock milliseconds] + 60000}]]]]
    }

    test "While the directory is not served, an RDB can be made as well" {
        kill_log
        assert_restored [list [lindex $moments end]]
        start_log
        wait_until_durable
    }
}

# --- Versions ----------------------------------------------------------------------------------------------------------

durable_server {} {
    r set key value
    wait_until_durable
    set ::writer [log_status engine_version]

    test "A replica of an older engine is told that it cannot follow" {
        foreach {version says} {8.1.0 "runs Valkey 8.1.0" {} "does not tell its version*"} {
            set client [valkey $::host [log_option port]]
            $client auth $::shard none
            if {$version ne {}} {$client replconf version $version}
            assert_error "NOMASTERLINK OLDENGINE this node $says, but the log was written by Valkey $::writer: upgrade the node" {
                $client psync ? -1
            }
            $client close
        }
        assert_equal 0 [log_status replicas]
    }

    test "A node of an older engine cannot lead, one that differs in the patch can" {
        kill_hard [srv 0 pid]
        log_service LOG.RELEASE $::shard [log_status epoch] FORCE
        lassign [split $::writer .] major minor
        assert_error "OLDENGINE this node runs Valkey 9.0.1, but the log was written by Valkey $::writer: upgrade the node" {
            log_service LOG.ACQUIRE $::shard other 127.0.0.1:1 [log_status end] 0 9.0.1
        }
        log_service LOG.ACQUIRE $::shard other 127.0.0.1:1 [log_status end] 0 $major.$minor.0
        assert_equal other [log_status leader]
        log_service LOG.RELEASE $::shard [log_status epoch] FORCE
        restart_server 0 true false
        wait_until_leading
    }

    test "An engine that is older than the log makes no snapshot of it" {
        lassign [log_service LOG.ACQUIRE newer node 127.0.0.1:1 0 0 99.1.0] epoch end
        log_service LOG.BEGIN newer $epoch [string repeat a 40] $end
        log_service LOG.APPEND newer $epoch $end [format_command set key value]
        assert_error "ERR no snapshot was made: valkey-server here is of version $::writer, and the log was written by 99.1.0: *" {
            log_service LOG.SNAPSHOT newer
        }
    }
}
