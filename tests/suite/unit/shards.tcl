# How shards come and go: a node makes its own, questions make none, and LOG.DROP removes one for good.

source $::env(SUITE_SUPPORT)/durability.tcl

proc log_id {} {
    dict get [log_service LOG.STATUS $::shard] log_id
}

proc wait_for_role {role} {
    wait_for_condition 3000 10 {[figure role] eq $role} else {
        fail "its role is [figure role]: [figure last_error]"
    }
}

durable_server {failover yes lease-ms 1000} {
    test "A question about a shard that does not exist is answered with an error, and makes none" {
        foreach command {{LOG.STATUS typo} {LOG.SNAPSHOT typo} {LOG.AUDIT typo} {LOG.RELEASE typo 1} {LOG.DROP typo id FORCE}} {
            assert_error "NOSHARD shard 'typo' does not exist" {log_service {*}$command}
        }
        assert_equal $::shard [log_service LOG.SHARDS]
    }

    test "A server that asks for a shard that does not exist keeps what it holds" {
        start_server {overrides {save {}}} {
            r set key value
            r config set primaryuser typo primaryauth none
            r replicaof $::host [log_option port]
            wait_for_log_messages 0 {"*NOMASTERLINK NOSHARD shard 'typo' does not exist*"} 0 1000 10
            assert_equal value [r get key]
        }
        assert_equal $::shard [log_service LOG.SHARDS]
    }

    test "A shard whose node leads is dropped by force only" {
        r set key value
        assert_error "ERR shard '$::shard' is in use: node * leads; stop its nodes first*" {log_service LOG.DROP $::shard [log_id]}
        assert_error "OTHERLOG [log_id] *" {log_service LOG.DROP $::shard other FORCE}
        r set another value
        assert_equal leader [figure role]
    }

    test "A node that leads a log which is dropped serves nobody, keeps its data, and can be told to begin anew with it" {
        set id [log_id]
        assert_equal OK [log_service LOG.DROP $::shard $id FORCE]
        # All clients are closed.
        wait_for_condition 3000 10 {![catch {reconnect; figure role} role] && $role eq "refused"} else {
            fail "its role is $role"
        }
        assert_error "ERR durability: the log of shard $::shard is not the one that this node knows*" {r get key}
        # The node has made the shard anew, as it does not know that it is meant to be gone.
        set other [log_id]
        assert {$other ne $id}
        assert_equal 0 [dict get [log_service LOG.STATUS $::shard] end]
        assert_match "*OTHERLOG*" [dict get [log_service LOG.STATUS $::shard] contradicted_by]
        assert_error "ERR shard '$::shard' is in use: a node knows another log of that name*" {log_service LOG.DROP $::shard $other}
        assert_equal OK [r durability.accept-log $other seed]
        wait_for_role leader
        assert_equal value [r get key]
        r set third value
        assert_equal $other [log_id]
    }

    test "A shard whose nodes are stopped is dropped, and a node that starts then begins a new log" {
        set id [log_id]
        kill_hard [srv 0 pid]
        wait_for_condition 3000 10 {![catch {log_service LOG.DROP $::shard $id} refusal]} else {
            fail "it is not dropped: $refusal"
        }
        assert_equal {} [log_service LOG.SHARDS]
        kill_log
        start_log
        assert_equal {} [log_service LOG.SHARDS]
        restart_server 0 true false
        wait_until_leading
        assert {[log_id] ne $id}
        r set fourth value
        crash_and_restart_server
        wait_until_leading
        assert_equal value [r get fourth]
    }
}
