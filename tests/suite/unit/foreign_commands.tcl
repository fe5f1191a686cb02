# What stands in the log and no leader can have put there is applied by nobody.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/foreign_commands.tcl

# As somebody who has a token: begins the shard's log with those bytes. Returns the epoch.
proc begin_log {bytes} {
    if {![catch {log_service LOG.STATUS $::shard} status]} {
        log_service LOG.DROP $::shard [dict get $status log_id] FORCE
    }
    lassign [hold_lease] epoch
    log_service LOG.BEGIN $::shard $epoch [string repeat a 40] 0
    log_service LOG.APPEND $::shard $epoch 0 $bytes
    return $epoch
}

proc assert_stopped_at {offset command} {
    wait_for_condition 1000 10 {[figure role] eq "refused"} else {
        fail "'$command' does not stop the node, its role is [figure role]: [figure last_error]"
    }
    assert_match "*at offset $offset the command '$command' is none that a leader puts there*" [figure last_error]
    assert_error "ERR durability: *offset $offset*" {r get key}
}

# The server is started from nothing, and recovers from that log.
proc restart_from_log {} {
    restart_server 0 true false 0
    reconnect
}

# The suite's clients look at database 9.
set ::before [format_command select 9][format_command set key value]
set ::offset [string length $::before]

durable_server {} {
    wait_until_durable

    test "A follower applies no command that no leader logs, and says which it was" {
        foreach {words command} $::foreign_commands {
            kill_hard [srv 0 pid]
            set epoch [begin_log $::before]
            restart_from_log
            wait_until_following
            assert_equal value [r get key]
            set state [server_state [srv 0 client]]
            log_service LOG.APPEND $::shard $epoch $::offset [format_command {*}$words][format_command set key behind]
            assert_stopped_at $::offset $command
            assert_equal $state [server_state [srv 0 client]]
        }
    }

    test "Nor does a node that recovers, from a log that holds all of them" {
        kill_hard [srv 0 pid]
        set all $::before
        foreach {words command} $::foreign_commands {append all [format_command {*}$words]}
        begin_log $all
        restart_from_log
        assert_stopped_at $::offset [lindex $::foreign_commands 1]
        assert {[lindex [r config get maxclients] 1] != 77}
        assert_no_match *evil* [r acl list]
    }

    test "Nor in a transaction, of which nothing is applied: it is told where that begins" {
        kill_hard [srv 0 pid]
        begin_log $::before[format_command multi][format_command set other 1][format_command config set maxclients 77][format_command exec]
        restart_from_log
        assert_stopped_at $::offset config|set
        verify_log_message 0 "*offset $::offset the command 'config|set' is none*" 0
    }

    test "What is no command as servers write them stops a node as well, which its server would only reconnect for" {
        foreach garbage [list "CONFIG SET maxclients 77\r\n" "*1\r\n:1\r\n"] {
            kill_hard [srv 0 pid]
            set epoch [begin_log $::before]
            restart_from_log
            wait_until_following
            log_service LOG.APPEND $::shard $epoch $::offset $garbage[format_command set key behind]
            wait_for_condition 1000 10 {[figure role] eq "refused"} else {
                fail "it does not stop the node, its role is [figure role]: [figure last_error]"
            }
            assert_match "*what stands at offset $::offset is no command*restore --to $::offset*" [figure last_error]
            assert_error "ERR durability: *offset $::offset*" {r get key}
        }
        # From nothing, the node comes to it with its first full copy.
        kill_hard [srv 0 pid]
        begin_log "${::before}CONFIG SET maxclients 77\r\n"
        restart_from_log
        wait_for_condition 1000 10 {[figure role] eq "refused"} else {fail "role [figure role]: [figure last_error]"}
        assert_match "*what stands at offset $::offset is no command*" [figure last_error]
    }

    test "What a leader logs that changes no key is applied" {
        kill_hard [srv 0 pid]
        set epoch [begin_log $::before]
        restart_from_log
        wait_until_following
        set subscriber [valkey_deferring_client]
        $subscriber subscribe channel
        $subscriber read
        set bytes {}
        foreach words {
            {select 9} {ping} {replconf getack *} {multi} {publish channel message} {exec} {spublish channel message}
            {function load "#!lua name=l\nserver.register_function('f', function() return 1 end)"} {function flush}
            {get key} {pfadd hll a} {pfcount hll} {swapdb 3 4} {SET key 2}
        } {append bytes [format_command {*}$words]}
        log_service LOG.APPEND $::shard $epoch $::offset $bytes
        assert_equal {message channel message} [$subscriber read]
        $subscriber close
        wait_for_condition 1000 10 {[r get key] eq "2"} else {fail "it does not apply them: [figure last_error]"}
        assert_equal follower [figure role]
    }

    # Each attempt starts an engine, so not of every command.
    test "No engine applies one of them, and which it was is told with the snapshot that is not made" {
        set number 0
        foreach command {config|set acl|setuser replicaof debug module|load migrate eval script|flush replconf cluster|flushslot cluster|migrateslots} {
            set words [lindex $::foreign_commands [expr {[lsearch -exact $::foreign_commands $command] - 1}]]
            set ::shard engine[incr number]
            begin_log $::before[format_command {*}$words][format_command set key behind]
            assert_error "*cannot apply the log at offset $::offset: *'$command'*" {log_service LOG.SNAPSHOT $::shard}
            assert_match "*at offset $::offset: *'$command'*" [dict get [log_service LOG.STATUS $::shard] snapshot_error]
        }
        set ::shard s1
    }
}

# The log has started anew because of that many such commands, of which that was the last.
proc wait_until_healed {count command} {
    wait_for_condition 2000 10 {
        [figure unlogged_writes] == $count && [figure durable_offset] == [figure current_offset]
    } else {
        fail "the log does not start anew: [figure unlogged_writes] were found, [figure last_error]"
    }
    assert_equal $command [figure last_unlogged_command]
}

# --- Nor does a leader log one --------------------------------------------------------------------------------------------

foreach mode {sync async} {
    durable_server [list mode $mode server {enable-module-command yes maxclients 1000}] {
        test "A setting is not in the log because another module writes as it hears of it, nor is the loading of that, $mode" {
            r module load [test_module] hear-config
            assert_equal OK [r config set maxclients 900]
            r multi
            r config set maxclients 901
            assert_equal OK [r exec]
            assert_equal OK [r eval {return server.call('set', 'key', 'v')} 0]
            wait_until_durable
            crash_and_restart_server
            wait_until_leading
            assert_equal 1000 [lindex [r config get maxclients] 1]
            assert_no_match *name=tm* [r info modules]
            assert_equal v [r get key]
            r select 0
            assert {[r get tm:config] > 0}
            r select 9
        }

        test "Nor because another module replicates it: the log starts anew from the leader's data, $mode" {
            assert_equal 0 [figure unlogged_writes]
            r module load [test_module]
            r set before v
            assert_equal OK [r tm.replicate config set maxclients 77]
            r set behind v
            wait_until_healed 1 config|set
            verify_log_message 0 "*another module has replicated 'config|set'*" 0
            # In a transaction.
            r multi
            r set in:multi v
            r tm.replicate acl setuser evil on nopass
            assert_equal {OK OK} [r exec]
            wait_until_healed 2 acl|setuser
            assert_equal OK [r tm.replicate set other v]
            wait_until_durable
            assert_equal 2 [figure unlogged_writes]
            # An engine can apply the log.
            lassign [log_service LOG.SNAPSHOT $::shard] offset
            assert {$offset > 0}
            crash_and_restart_server
            wait_until_leading
            assert_equal {v v v v} [r mget before behind in:multi other]
            assert_equal 1000 [lindex [r config get maxclients] 1]
            assert_no_match *evil* [r acl list]
        }
    }
}
