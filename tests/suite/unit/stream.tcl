# What the stream makes a node run must run there. A node that had to pass over anything of it neither leads nor serves.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

proc wait_until_refused {{level 0}} {
    wait_for_condition 1000 10 {[figure role $level] eq "refused"} else {
        fail "the role is [figure role $level], not refused: [figure last_error $level]"
    }
}

# A command as it stands in the stream.
proc in_stream {args} {
    format_command {*}$args
}

# Writes those bytes to the log, as a leader that is no server. Returns at which offset they begin.
proc append_to_log {bytes} {
    lassign [hold_lease] epoch end
    log_service LOG.BEGIN $::shard $epoch [string repeat a 40] $end
    log_service LOG.APPEND $::shard $epoch $end $bytes
    return $end
}

# Stops the server, writes those bytes to the log, and starts the server again. Returns where they begin.
proc restart_with {bytes} {
    wait_until_durable
    kill_hard [srv 0 pid]
    set offset [append_to_log $bytes]
    release_lease
    restart_server 0 false false 0
    reconnect
    return $offset
}

# --- What a module's command calls ------------------------------------------------------------------------------------

shard_of 2 {test-module {}} {
    test "What a module's command writes by calling others is on a follower, which leads with it" {
        make_leader n1
        assert_equal OK [on n1 tm.set_verbatim alone 1]
        set client [valkey $::host [srv -1 port]]
        $client multi
        $client set before 1
        $client tm.set_verbatim within 2
        assert_equal {OK OK} [$client exec]
        $client close
        assert_same_data
        kill_node n1
        wait_for_role leader n0
        assert_equal {1 1 2} [on n0 mget alone before within]
    }

    test "What a follower's module writes on its own account is refused there" {
        restart_node n1
        make_leader n1
        on n0 tm.timer 1
        wait_for_condition 200 10 {[on n0 tm.own_account] ne "none"} else {
            fail "the timer does not fire"
        }
        assert_match {*READONLY*} [on n0 tm.own_account]
        on n1 set tm:notify:key value
        wait_for_condition 200 10 {[on n0 exists tm:notify:key]} else {
            fail "the node does not follow"
        }
        assert_match {*READONLY*} [on n0 tm.own_account]
        assert_equal 0 [on n0 exists tm:timer]
        assert_equal follower [role_of n0]
    }
}

shard_of 2 {} {
    test "Errors of a follower's own clients, scripts among them, are not the stream's" {
        make_leader n1
        assert_error {*} {on n0 nosuch}
        assert_error {*} {on n0 get}
        assert_error {*} {on n0 eval {return redis.call('nosuch')} 0}
        assert_error {*} {on n0 eval {return redis.call('get')} 0}
        assert_error {*READONLY*} {on n0 eval {return redis.call('set', 'key', 'other')} 0}
        assert_equal follower [role_of n0]
        on n1 set key value
        assert_same_data
    }
}

durable_server {test-module {}} {
    test "What a module's command writes by calling others is there after a restart" {
        for {set i 0} {$i < 10} {incr i} {r tm.set_verbatim key$i value$i}
        crash_and_restart_server
        wait_until_leading
        assert_equal 10 [r dbsize]
        assert_equal value7 [r get key7]
    }
}

# A server without a log, and then one with an empty log that starts from the first one's AOF.
new_log
start_log
set ::directory [file normalize [tmpdir aof]]
start_server [list keep_persistence true overrides [list save {} appendonly yes dir $::directory] config_lines [list loadmodule [test_module]] \
    tags {external:skip tls:skip}] {
    r set before 1
    r tm.set_verbatim key value
}
start_server [server_options [list test-module {} server [list appendonly yes dir $::directory]]] {
    test "What a module's command in the AOF writes by calling others is in the log that starts from it" {
        wait_until_leading
        wait_until_durable
        assert_equal {1 value} [r mget before key]
        r config set appendonly no
        crash_and_restart_server
        wait_until_leading
        assert_equal {1 value} [r mget before key]
    }
}
kill_log

# --- What a node had to pass over -------------------------------------------------------------------------------------

foreach {what bytes command} [list \
    "a command that it does not know" [in_stream nosuch key value] nosuch \
    "a subcommand that it does not know" [in_stream function nosuch] function \
    "a command with too few arguments" [in_stream set key] set \
    "a database that it does not have" [in_stream select 99][in_stream set key overwritten] select \
    "a value of a type that it does not know" [in_stream restore other 0 nonsense] restore \
    "a command on a value of another type" [in_stream rpush key element] rpush \
    "such a command in a transaction" [in_stream multi][in_stream set other 1][in_stream incr key][in_stream exec] incr \
    "a transaction that cannot be begun to the end" [in_stream multi][in_stream set key][in_stream exec] set \
] {
    durable_server {} {
        test "A node that had to pass over $what does not lead, and says which byte and command" {
            r set key value
            set offset [restart_with $bytes]
            wait_until_refused
            assert_match "*offset $offset *'$command'*" [figure last_error]
            assert_match "*offset $offset *'$command'*" [dict get [r durability.status] last_error]
            verify_log_message 0 "*durability: *offset $offset *'$command'*" 0
            assert_error "ERR durability: *offset $offset*" {r get key}
            assert_error "ERR durability: *offset $offset*" {r set key other}
            assert_equal {} [dict get [log_service LOG.STATUS $::shard] leader]
        }
    }
}

durable_server {server {propagation-error-behavior panic}} {
    test "Nor does the server die of it where it is configured to" {
        restart_with [in_stream nosuch key value]
        wait_until_refused
        after 100
        assert_equal refused [figure role]
        assert_equal panic [lindex [r config get propagation-error-behavior] 1]
    }
}

durable_server {test-module {}} {
    test "The only node fails at a command of its own stream: it says what to do" {
        r set before 1
        assert_equal OK [r tm.fail_on_replica key value]
        r set after 1
        crash_and_restart_server
        wait_until_refused
        assert_match "*offset *'tm.fail_on_replica'*LOG.SNAPSHOT $::shard*" [figure last_error]
    }
}

# Without a configuration file the engine lacks what the node n0 lacks; with one it has it.
proc shard_with_incomplete_node {code} {
    set conf [file normalize [tmpfile engine.conf]]
    set channel [open $conf w]
    puts $channel "loadmodule [test_module]"
    close $channel
    new_log
    dict set ::log_service arguments [list --valkey-conf $conf --snapshot-log-mb 0]
    start_log
    set ::shard_options {failover yes lease-ms 1000 test-module {} n0 {test-module leave-out}}
    start_nodes 1 $code
    kill_log
}

shard_with_incomplete_node {
    test "A follower that lacks a command neither leads nor serves, whatever becomes of the others" {
        make_leader n1
        on n1 set before 1
        assert_same_data
        set offset [figure_of n1 current_offset]
        assert_equal OK [on n1 tm.set_verbatim key value]
        on n1 set after 1
        wait_until_refused
        assert_match "*'tm.set_verbatim'*" [figure last_error]
        assert_error "ERR durability: *" {r get before}
        kill_node n1
        # Well beyond the lease.
        after 2500
        assert_equal refused [role_of n0]
        restart_node n1
        wait_for_role leader n1
        assert_equal {1 value 1} [on n1 mget before key after]
    }

    test "It starts over by itself once a snapshot stands beyond that command, and follows" {
        log_service LOG.SNAPSHOT $::shard
        wait_for_role follower n0
        assert_same_data
        assert_equal {1 value 1} [on n0 mget before key after]
        assert_equal {} [figure last_error]
    }

    test "A restart does not make it forget: what it saved is no part of the log's history" {
        on n1 tm.set_verbatim key other
        wait_until_refused
        on n1 set after 2
        catch {r shutdown save}
        wait_for_condition 500 10 {![is_alive [srv 0 pid]]} else {
            fail "the server does not end"
        }
        restart_server 0 false false 0
        reconnect
        wait_until_refused
        kill_node n1
        after 2500
        assert_equal refused [role_of n0]
    }
}

# --- What an engine had to pass over -----------------------------------------------------------------------------------

durable_server {test-module {}} {
    test "What the log service's engine cannot apply is named with its byte, and no snapshot is made" {
        r set before 1
        wait_until_durable
        set offset [figure current_offset]
        r tm.set_verbatim key value
        r set after 1
        assert_error "*at offset $offset*tm.set_verbatim*" {log_service LOG.SNAPSHOT $::shard}
        assert_match "*at offset $offset*tm.set_verbatim*" [dict get [log_service LOG.STATUS $::shard] snapshot_error]
        assert_equal -1 [dict get [log_service LOG.STATUS $::shard] snapshot_offset]
    }
}

# --- Settings that change what the stream means --------------------------------------------------------------------------

shard_of 2 {n0 {server {databases 16}} n1 {server {databases 32} priority 200}} {
    test "A node with fewer databases than its log was written with does not follow, and says both numbers" {
        # n0 began the log, or was refused before it could follow.
        if {[current_leader] eq "n0"} {
            wait_for_role follower n1
            on n0 durability.failover to n1
        }
        wait_for_role leader n1
        wait_until_refused
        assert_match {*databases 16*databases 32*} [figure last_error]
        assert_equal 32 [dict get [log_service LOG.STATUS $::shard] databases]
        set client [valkey $::host [srv -1 port]]
        $client select 20
        $client set key value
        $client close
        kill_node n1
        after 2500
        assert_equal refused [role_of n0]
    }
}

foreach ::policy {noeviction allkeys-lru} {
    shard_of 2 [list n0 [list server [list replica-ignore-maxmemory no maxmemory 3mb maxmemory-policy $::policy]]] {
        test "A follower holds everything, whatever its maxmemory is ($::policy)" {
            make_leader n1
            populate 5000 key: 1000 -1
            assert_same_data
            assert_equal 5000 [r dbsize]
            assert_equal 0 [s evicted_keys]
            assert_equal follower [role_of n0]
        }
    }
}
