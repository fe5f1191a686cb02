# Engines apply what somebody wrote to a log who may mean harm: they know few commands, have few rights and little time, and what
# they say is no more than text.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/snapshots.tcl
source $::env(SUITE_SUPPORT)/engines.tcl

# Writes a command to the log of a shard that has no node, as whoever has its token can. Makes the shard if there is none.
proc write_to_log {shard args} {
    set was $::shard
    set ::shard $shard
    lassign [hold_lease] epoch end
    log_service LOG.BEGIN $shard $epoch [string repeat a 40] $end
    log_service LOG.APPEND $shard $epoch $end [format_command {*}$args]
    set ::shard $was
}

proc status_of {shard field} {
    dict get [log_service LOG.STATUS $shard] $field
}

# A log service without a node for as long as `code` runs.
proc with_log {arguments code} {
    new_log
    dict set ::log_service arguments $arguments
    start_log
    uplevel 1 $code
    kill_log
}

# Asks for a snapshot and does not wait for it.
proc ask_for_snapshot {shard} {
    set client [valkey $::host [log_option port] 1]
    $client LOG.SNAPSHOT $shard
    return $client
}

proc wait_for_engines {count} {
    wait_for_condition 1500 10 {[llength [engines]] == $count} else {
        fail "there are [llength [engines]] engines, not $count"
    }
}

# What an operator may do and nobody who writes to a log.
set ::administrative {
    {acl setuser evil on nopass +@all ~* &*} {acl deluser default} {acl save} {asking} {auth default x} {bgrewriteaof} {bgsave}
    {client kill type normal} {client pause 100000} {client no-evict on} {client setname evil} {cluster meet 127.0.0.1 1}
    {cluster reset hard} {command count} {commandlog reset slow} {config set maxmemory 1mb} {config set port 7777}
    {config set dir /tmp} {config set dbfilename evil.rdb} {config set durability.mode off} {config set appendonly yes}
    {config set save {1 1}} {config resetstat} {config rewrite} {debug sleep 1000} {debug segfault} {debug reload}
    {debug set-active-expire 1} {debug jmap} {debug quicklist-packed-threshold 1} {discard} {echo evil} {eval {while true do end} 0}
    {eval_ro {return 1} 0} {evalsha abc 0} {evalsha_ro abc 0} {failover abort} {failover} {fcall f 0} {fcall_ro f 0} {hello 3}
    {info} {lastsave} {latency reset} {migrate 127.0.0.1 1 key 0 1000} {module list}
    {module load /tmp/evil.so} {module unload x} {monitor} {pfselftest} {psubscribe *} {psync ? -1}
    {pubsub channels} {readonly} {readwrite} {replicaof no one} {replicaof 127.0.0.1 1} {reset} {role}
    {save} {shutdown nosave} {slaveof 127.0.0.1 1} {slaveof no one} {slowlog reset} {subscribe evil} {ssubscribe evil} {sync} {time}
    {unwatch} {wait 1 1000} {waitaof 1 1 1000} {watch key} {quit}
}

# --- What an engine knows ---------------------------------------------------------------------------------------------

snapshotted_server [controlled_engine] {} {
    test "An engine does not know what only an operator needs, and has what the log needs" {
        touch $::env(ENGINE_CONTROL)/keep
        r set key value
        assert_morethan [snapshot] 0
        # Another one by that configuration. It goes on where one of the service would end.
        set home [file normalize [tmpdir engine]]
        set configuration [exec cat $::env(ENGINE_CONTROL)/configuration]
        assert_equal {} [regexp -inline -line {^port [^0]} $configuration]
        # The directory of the service's own engine is gone.
        assert_equal 1 [regsub -all -line {^dir .*$} $configuration "dir $home" configuration]
        append configuration "\nunixsocket $home/socket\npropagation-error-behavior ignore\n"
        proc drawn {command} {
            upvar configuration configuration
            assert {[regexp -nocase -line "^rename-command $command (\\S+)$" $configuration _ name]}
            return $name
        }
        start_server {overrides {save {}}} {
            set pid [exec $::engine - <<$configuration >$home/output 2>@1 &]
            proc ask {args} {
                upvar home home
                # Of some commands it takes the refusal for an error of its own.
                catch {exec $::env(VALKEY_BIN_DIR)/valkey-cli -s $home/socket {*}$args} reply
                return $reply
            }
            wait_for_condition 500 10 {[ask ping] eq "PONG"} else {fail "the engine does not start: [exec cat $home/output]"}
            # Nothing that neither writes nor reads keys nor stands in the stream goes by its own name. Nor does what is as bad.
            set known {exec function multi ping publish replconf script select spublish}
            foreach command [r command] {
                lassign $command name _ flags
                if {$name in $known || [string match *|* $name]} continue
                set is_hidden [string match "*unknown command*" [ask $name]]
                set takes_keys [expr {"write" in $flags || "readonly" in $flags}]
                if {!$is_hidden && !$takes_keys && $name ni {memory object xgroup xinfo}} {fail "$name is known: $flags"}
                # It knows whatever a leader can log, be it by a subcommand.
                foreach one [list $command {*}[lindex $command 9]] {
                    lassign $one full_name _ flags
                    set is_read [expr {"readonly" in $flags && "admin" ni $flags && "noscript" ni $flags}]
                    set is_logged [expr {"write" in $flags || $is_read}]
                    if {$is_hidden && $is_logged && $name ni {migrate cluster} && ![string match durability.* $name]} {
                        fail "$name is not known, and $full_name is logged: $flags"
                    }
                }
            }
            foreach command $::administrative {assert_match "*unknown command*" [list $command [ask {*}$command]]}
            # Nor from its primary: all that it does is to count them.
            assert_morethan_equal [llength $::administrative] 60
            ask [drawn config] resetstat
            ask [drawn replicaof] $::host [srv 0 port]
            wait_for_condition 1500 10 {[string match "*master_link_status:up*" [ask [drawn info] replication]]} else {
                fail "the engine does not follow: [exec tail -n 20 $home/output]"
            }
            r set before 1
            foreach command $::administrative {r debug replicate {*}$command}
            r set after 1
            wait_for_condition 1000 10 {[ask -n 9 get after] eq "1"} else {fail "the engine does not go on: [exec tail -n 20 $home/output]"}
            assert_equal 1 [ask -n 9 get before]
            assert {[regexp {errorstat_ERR:count=(\d+)} [ask [drawn info] errorstats] _ refused]}
            assert_equal [llength $::administrative] $refused
            assert_match "*role:slave*master_port:[srv 0 port]*master_link_status:up*" [ask [drawn info] replication]
            assert_match "*maxmemory\n0" [ask [drawn config] get maxmemory]
            assert_match "*dir\n$home" [ask [drawn config] get dir]
            # That is the only thing it was asked before it followed.
            assert_equal {} [glob -nocomplain -directory $home *.rdb]
            kill_hard $pid
        }
    } {} {needs:debug}

    test "Writes that hardly anybody sends keep nobody from making snapshots" {
        r pfadd registers a b c
        r pfdebug todense registers
        r restore-asking restored 0 [r dump registers]
        wait_until_durable
        assert_morethan [snapshot] 0
    }

    test "A command that the installed server has not got keeps nobody from making snapshots" {
        set disabled [file normalize [tmpfile disabled]]
        set file [open $disabled w]
        puts $file "rename-command MIGRATE \"\"\nrename-command PFSELFTEST \"\""
        close $file
        kill_log
        dict lappend ::log_service arguments --valkey-conf $disabled
        start_log
        wait_until_leading
        r set key again
        wait_until_durable
        assert_morethan [snapshot] 0
    }
}

with_log {} {
    test "What only an operator may do stands in no snapshot, and is told when it is in the log" {
        foreach command {{config set port 7777} {debug sleep 1000} {eval {while true do end} 0} {replicaof 127.0.0.1 1}} {
            set shard evil-[lindex $command 0]
            write_to_log $shard {*}$command
            assert_error "ERR no snapshot was made: *[lindex $command 0]*" {log_service LOG.SNAPSHOT $shard}
            assert_match "*[lindex $command 0]*" [status_of $shard snapshot_error]
            assert_equal {0 1} [list [status_of $shard snapshots] [status_of $shard snapshot_failures]]
        }
    }

    test "A shard whose snapshots fail says how often and since when, until one is made" {
        set shard evil-config
        assert_error "ERR no snapshot was made: *" {log_service LOG.SNAPSHOT $shard}
        assert_equal 2 [status_of $shard snapshot_failures]
        set since [status_of $shard snapshot_failing_since_ms]
        assert {$since > 0 && $since <= [clock milliseconds]}
        assert_match "*shard $shard: no snapshot was made, 1 attempts failed since the last one*" [log_output]
        write_to_log sound set key value
        log_service LOG.SNAPSHOT sound
        assert_equal {0 0} [list [status_of sound snapshot_failures] [status_of sound snapshot_failing_since_ms]]
    }

    test "Control characters of whoever writes to a log reach no terminal" {
        write_to_log escaping function load "#!\x1b\[31mevil\x07 name=x\nreturn 1"
        assert_error "ERR no snapshot was made: *" {log_service LOG.SNAPSHOT escaping}
        set error [status_of escaping snapshot_error]
        assert_match "*evil*" $error
        set http [exec curl --silent http://[log_address http]/shards]
        foreach text [list $error [log_service INFO] $http [log_output]] {
            assert {![regexp {[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]} $text]}
        }
    }
}

# --- What an engine may do -------------------------------------------------------------------------------------------

proc namespace_of {pid kind} {
    file readlink /proc/$pid/ns/$kind
}

proc process_status {pid field} {
    regexp -line "^$field:\\s*(.*)$" [exec cat /proc/$pid/status] _ value
    return $value
}

# Whether this machine lets processes have a network of their own.
set ::can_isolate [expr {![catch {exec unshare --user --map-root-user --net true}]}]

snapshotted_server [controlled_engine] {} {
    if {$::can_isolate} {
        test "An engine has no network but what feeds it, no capability, and leaves no core file" {
            r set key value
            while_engine_waits 1 {
                set pid [lindex [engines] 0]
                foreach kind {net user} {assert {[namespace_of $pid $kind] ne [namespace_of [log_option pid] $kind]}}
                assert_equal 1 [process_status $pid NoNewPrivs]
                foreach set {CapEff CapPrm CapInh CapAmb} {assert_equal 0000000000000000 [process_status $pid $set]}
                assert_equal 0077 [process_status $pid Umask]
                assert_match "*Max core file size*0*0*bytes*" [exec grep core /proc/$pid/limits]
                assert {![string match "*unlimited*" [exec grep "address space" /proc/$pid/limits]]}
                # Of interfaces there is lo, and one socket listens.
                assert_equal {lo:} [lmap line [lrange [split [exec cat /proc/$pid/net/dev] \n] 2 end] {lindex $line 0}]
                assert_equal 1 [llength [lsearch -all -regexp [split [exec cat /proc/$pid/net/tcp] \n] { 0A }]]
                assert_equal {} [lsearch -all -inline -regexp [split [exec cat /proc/$pid/net/tcp6] \n] { 0A }]
            }
            assert_equal {} [log_status snapshot_error]
        }
    }

    test "Engines run among others where the operator says so" {
        kill_log
        dict lappend ::log_service arguments --engine-isolation off
        start_log
        wait_until_leading
        r set key again
        while_engine_waits 1 {
            set pid [lindex [engines] 0]
            foreach kind {net user} {assert_equal [namespace_of $pid $kind] [namespace_of [log_option pid] $kind]}
            assert_equal 1 [process_status $pid NoNewPrivs]
        }
        assert_equal {} [log_status snapshot_error]
    }
}

if {$::can_isolate} {
    # Where there may be no further namespaces.
    set ::confined [file normalize [tmpfile confined-logservice]]
    set file [open $::confined w 0755]
    puts $file "#!/bin/bash
        exec unshare --user --map-root-user bash -c 'echo 0 >/proc/sys/user/max_user_namespaces; echo 0 >/proc/sys/user/max_net_namespaces; exec \"\$@\"' -- \"\$@\""
    close $file
    new_log
    dict set ::log_service wrapper $::confined
    start_log
    test "Where the system does not let engines have a network of their own this is said once, and snapshots are made" {
        foreach shard {one other} {
            write_to_log $shard set key value
            log_service LOG.SNAPSHOT $shard
        }
        assert_equal 1 [regexp -all {engines run without a network and user namespace of their own} [log_output]]
        kill_log
        dict set ::log_service arguments {--engine-isolation require}
        start_log
        write_to_log third set key value
        assert_error "ERR no snapshot was made: *--engine-isolation require*" {log_service LOG.SNAPSHOT third}
    }
    kill_log
}

# Whoever has bits for others among all that is kept there.
proc open_to_others {directory} {
    exec find $directory -mindepth 1 -perm /077
}

set ::env(TMPDIR) [file normalize [tmpdir sockets]]
new_log
dict set ::log_service arguments [controlled_engine]
dict set ::log_service wrapper {bash -c {umask 0; exec "$@"} --}
start_log
start_server [server_options {}] {
    wait_until_leading
    test "What the service and its engines keep is their owner's alone, whatever the umask is" {
        r set key value
        while_engine_waits 2 {
            assert_equal {} [open_to_others [log_option directory]]
            assert_equal {} [open_to_others $::env(TMPDIR)]
            assert_morethan [llength [exec find $::env(TMPDIR) -mindepth 1]] 0
        }
        assert_equal {} [open_to_others [log_option directory]]
        assert_morethan [llength [exec find [log_option directory] -name *.rdb]] 0
    }

    test "What an earlier version left open to others is closed at the next start" {
        kill_log
        exec chmod -R go+rX [log_option directory]
        start_log
        assert_equal {} [open_to_others [log_option directory]/shards]
        assert_equal {} [open_to_others [log_option directory]/snapshots]
    }
}
kill_log
unset ::env(TMPDIR)

# --- How long an engine may take ------------------------------------------------------------------------------------

with_log [controlled_engine] {
    test "A shard whose engine gets nowhere keeps no other from its snapshot" {
        touch $::env(ENGINE_CONTROL)/hold-1
        write_to_log hanging set key value
        write_to_log other set key value
        set client [ask_for_snapshot hanging]
        wait_for_engines 1
        log_service LOG.SNAPSHOT other
        assert_equal {0 1} [list [status_of hanging snapshots] [status_of hanging snapshot_running]]
        assert_equal 1 [status_of other snapshots]
        # Those who ask meanwhile get the same one.
        set others [list [ask_for_snapshot hanging] [ask_for_snapshot hanging]]
        file delete $::env(ENGINE_CONTROL)/hold-1
        foreach waiting [list $client {*}$others] {
            set reply [read_any_reply $waiting]
            $waiting close
            assert_equal [status_of hanging snapshot_offset] [lindex $reply 0]
        }
    }
}

with_log [concat [controlled_engine] {--max-engines 1 --engine-stall-seconds 1}] {
    test "An attempt that takes longer than its data explains gives way when another shard waits" {
        touch $::env(ENGINE_CONTROL)/hold-1
        write_to_log hanging set key value
        write_to_log other set key value
        set client [ask_for_snapshot hanging]
        wait_for_engines 1
        set pid [lindex [engines] 0]
        log_service LOG.SNAPSHOT other
        assert_match "ERR no snapshot was made: it gave way to other shards after * s*" [read_any_reply $client]
        $client close
        assert_match "it gave way to other shards*" [status_of hanging snapshot_error]
        assert {![is_running $pid]}
        file delete $::env(ENGINE_CONTROL)/hold-1
        log_service LOG.SNAPSHOT hanging
        assert_equal {} [status_of hanging snapshot_error]
    }
}

with_log [concat [controlled_engine] {--engine-stall-seconds 1 --snapshot-log-mb 1}] {
    test "A snapshot that is due and gets no core on a busy machine is begun again with a share of one" {
        # An engine that waits stands for one that gets no core.
        touch $::env(ENGINE_CONTROL)/hold-1
        touch $::env(ENGINE_CONTROL)/hold-2
        foreach key {a b c} {write_to_log s set $key [string repeat x 400000]}
        wait_for_engines 1
        set first [lindex [engines] 0]
        wait_for_condition 100 20 {[scheduling $first] eq {IDL 0}} else {fail "it is [scheduling $first]"}
        wait_for_engines 2
        wait_for_condition 100 20 {![is_running $first]} else {fail "the first engine runs on"}
        set second [lindex [engines] 1]
        wait_for_condition 100 20 {[scheduling $second] eq {TS 10}} else {fail "it is [scheduling $second]"}
        # It is not ended for taking long.
        after 2000
        assert {[is_running $second]}
        file delete $::env(ENGINE_CONTROL)/hold-2
        wait_for_condition 500 20 {[status_of s snapshots] eq 1} else {fail [status_of s snapshot_error]}
        assert_equal {} [status_of s snapshot_error]
        assert_equal 1 [regexp -all {begun again with a higher priority} [exec cat [log_option directory].output]]
    }
}

set ::slow [file normalize [tmpfile slow]]
with_log [list --engine-stall-seconds 1 --valkey-conf $::slow] {
    test "An engine that does not answer, or applies nothing, is ended" {
        write_to_log s set key value
        foreach {line reason} {
            "rdb-key-save-delay 20000000" "*valkey-server did not answer SAVE within 1 s"
            "key-load-delay 20000000" "*valkey-server stands still at offset * for 1 s*--engine-stall-seconds*"
        } {
            set file [open $::slow w]
            puts $file $line
            close $file
            set began [clock milliseconds]
            assert_error $reason {log_service LOG.SNAPSHOT s}
            assert_lessthan [expr {[clock milliseconds] - $began}] 15000
        }
        close [open $::slow w]
        log_service LOG.SNAPSHOT s
    }
}

with_log {--engine-memory-mb 700} {
    test "An engine gets no more memory than it may have, and says so" {
        write_to_log large setrange key 2000000000 x
        assert_error "*Out Of Memory allocating * bytes* (it may have 700 MiB: --engine-memory-mb allows more)" {
            log_service LOG.SNAPSHOT large
        }
    }
}

# --- Which engine ----------------------------------------------------------------------------------------------------

test "A valkey-server that is not known to be safe is warned of, and refused where the operator says which is" {
    set old [file normalize [tmpfile old-valkey-server]]
    set file [open $old w 0755]
    puts $file "#!/bin/bash\nif \[ \"\$1\" = --version \]; then echo 'Valkey server v=9.1.1 sha=0'; else exec $::engine \"\$@\"; fi"
    close $file
    with_log [list --valkey-server $old] {
        set warning "*valkey-server here is of version 9.1.1, and 9.1.2 is the first that is known to be safe*--engine-min-version*"
        wait_for_condition 1000 10 {[string match $warning [log_output]]} else {fail "nothing is said: [log_output]"}
    }
    with_log [list --valkey-server $old --engine-min-version 9.1.0] {assert {![string match "*known to be safe*" [log_output]]}}
    new_log
    dict set ::log_service arguments [list --valkey-server $old --engine-min-version 9.1.2]
    assert_error "*valkey-server here is of version 9.1.1, and --engine-min-version is 9.1.2: install*" {exec {*}[log_command]}
}
