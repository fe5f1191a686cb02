# A module that hears of changes may write because of them, in a job that runs behind the command, or read at once. The log has the
# command before what the job wrote, whatever made the change.

source $::env(SUITE_SUPPORT)/durability.tcl

# The server dies when all is durable, and comes back with what the log has. If the log begins anew, nothing is before it has.
proc come_back_from_log {} {
    wait_for_condition 3000 10 {[figure pending_bytes] == 0 && [figure durable_offset] > 0} else {
        fail "not everything becomes durable: [figure last_error]"
    }
    crash_and_restart_server
    wait_until_leading
    r select 9
}

# Nothing was found that the stream lacks, as the log would be begun anew for that.
proc assert_no_unlogged_writes {} {
    assert_equal {0 {}} [list [figure unlogged_writes] [figure last_unlogged_command]]
}

# Runs the commands, and looks that each of the keys then holds what a job wrote: now, and when the server is back with what the log has.
proc assert_written_by_job {keys commands} {
    foreach command $commands {r {*}$command}
    assert_job_wrote $keys
}

proc assert_job_wrote {keys} {
    foreach key $keys {assert_equal "$key by the job" "$key [r get $key]"}
    assert_no_unlogged_writes
    come_back_from_log
    foreach key $keys {assert_equal "$key by the job" "$key [r get $key]"}
}

# A hash with a field that is over and was not removed.
proc hash_with_expired_field {key} {
    r debug set-active-expire 0
    r hset $key live v dead v
    r hpexpire $key 1 fields 1 dead
    wait_for_condition 100 10 {[r hget $key dead] eq ""} else {fail "the field does not expire"}
}

# Modules with commands, and one that has none.
foreach {mode modules} {
    sync {test-jobs flush}
    async {test-jobs flush}
    sync {test-jobs flush test-module {}}
} {
    durable_server [list mode $mode {*}$modules] {
        set with "$mode, [join [dict keys $modules] { and }]"

        foreach {name keys commands} {
            "SET"                    {tj:job:set:a}         {{set tj:job:set:a v}}
            "RPUSH"                  {tj:job:rpush:a}       {{rpush tj:job:rpush:a v}}
            "MSET"                   {tj:job:set:b tj:job:set:c} {{mset tj:job:set:b v other v tj:job:set:c v}}
            "that is rewritten"      {tj:job:set:d}         {{set tj:job:set:d v ex 1000}}
            "of which others remain" {tj:job:spop:a}        {{sadd tj:job:spop:a 1 2 3 4 5} {spop tj:job:spop:a 2}}
            "SPOP of one"            {tj:job:spop:b}        {{sadd tj:job:spop:b 1 2 3 4 5} {spop tj:job:spop:b}}
            "RENAME"                 {tj:job:rename_to:a}   {{set old v} {rename old tj:job:rename_to:a}}
            "MOVE"                   {tj:job:move_from:a}   {{set tj:job:move_from:a v} {move tj:job:move_from:a 10}}
            "SORT"                   {tj:job:sortstore:a}   {{rpush list 1 2} {sort list by w:* store tj:job:sortstore:a}}
            "XREADGROUP"             {tj:job:xgroup-createconsumer:a} {
                {xadd tj:job:xgroup-createconsumer:a 1-1 f v} {xgroup create tj:job:xgroup-createconsumer:a g 0}
                {xreadgroup group g c streams tj:job:xgroup-createconsumer:a >}}
            "in a transaction"       {tj:job:set:e tj:job:any:a} {{multi} {set tj:job:set:e v} {append tj:job:any:a v} {set tj:job:set:e w} {exec}}
            "of a script"            {tj:job:set:f tj:job:any:b}
                {{eval "server.call('set', KEYS\[1\], 'v'); return server.call('rpush', KEYS\[2\], 'v')" 2 tj:job:set:f tj:job:any:b}}
            "that a script hides"    {tj:job:set:g}
                {{eval "server.set_repl(server.REPL_NONE); return server.call('set', KEYS\[1\], 'v')" 1 tj:job:set:g}}
            "of a function"          {tj:job:set:h} {
                {function load "#!lua name=f\nserver.register_function('f', function(keys) return server.call('set', keys\[1\], 'v') end)"}
                {fcall f 1 tj:job:set:h}}
        } {
            test "What a job writes is in the log behind the command $name, $with" {
                assert_written_by_job $keys $commands
            }
        }

        if {[dict exists $modules test-module]} {
            test "What a job writes is in the log behind a module's command, $with" {
                assert_written_by_job {tj:job:set:m tj:job:set:n tj:job:rpush:n tj:job:set:o tj:job:set:p} {
                    {tm.set_verbatim tj:job:set:m v}
                    {tm.call set tj:job:set:n v}
                    {tm.call rpush tj:job:rpush:n v}
                    {multi} {tm.set_verbatim tj:job:set:o v} {tm.call set tj:job:set:o w} {exec}
                    {eval "return server.call('tm.set_verbatim', KEYS\[1\], 'v')" 1 tj:job:set:p}
                }
            }
        }

        test "What a job writes is in the log behind a command that first removes what is over, $with" {
            set keys {}
            foreach {event command} {hdel {hdel KEY live dead} hpersist {hpersist KEY fields 2 live dead}} {
                set key tj:job:$event:over
                hash_with_expired_field $key
                if {$event eq "hpersist"} {r hpexpire $key 100000 fields 1 live}
                r {*}[string map [list KEY $key] $command]
                lappend keys $key
            }
            assert_job_wrote $keys
        }

        test "What a job writes is in the log behind a command that waited, $with" {
            set popping [valkey_deferring_client]
            set moving [valkey_deferring_client]
            $popping blpop tj:job:lpop:a 0
            $moving blmove source tj:job:lpush:a left left 0
            wait_for_blocked_clients_count 2
            r rpush tj:job:lpop:a v w
            r rpush source v
            assert_equal {{tj:job:lpop:a v} v} [list [$popping read] [$moving read]]
            $popping close
            $moving close
            assert_job_wrote {tj:job:lpop:a tj:job:lpush:a}
        }

        test "What a job writes is in the log behind an expiry, $with" {
            r debug set-active-expire 0
            foreach key {read written} {r set tj:job:expired:$key v px 1}
            wait_for_condition 100 10 {[r pttl tj:job:expired:read] < 0 && [r exists tj:job:expired:read] == 1} else {
                fail "the key is not over"
            }
            r append tj:job:expired:written w
            assert_job_wrote tj:job:expired:read
            # Who comes back writes it once more.
            r del tj:job:expired:active
            r debug set-active-expire 1
            r set tj:job:expired:active v px 1
            wait_for_condition 500 10 {[r get tj:job:expired:active] eq "by the job"} else {fail "no job ran"}
            assert_job_wrote tj:job:expired:active
        }

        test "What a job writes is in the log behind an eviction, $with" {
            r config set maxmemory-policy volatile-random
            for {set i 0} {$i < 10} {incr i} {r setex tj:job:evicted:$i 10000 v}
            r config set maxmemory 1
            wait_for_condition 1000 10 {![regexp {expires=[1-9]} [r info keyspace]]} else {fail [r info keyspace]}
            r config set maxmemory 0
            set keys {}
            for {set i 0} {$i < 10} {incr i} {lappend keys tj:job:evicted:$i}
            assert_job_wrote $keys
        }

        # The server tells the first module that all is empty as of database 0.
        foreach {command database} {{flushall} 0 {flushdb async} 9 {flushdb} 9} {
            test "What a job writes is in the log behind [string toupper $command], also of nothing, $with" {
                foreach before {{set before v} {del before tj:flushed}} {
                    r select $database
                    r {*}$before
                    assert_equal OK [r {*}$command]
                    assert_equal {{by the job} 1} [list [r get tj:flushed] [r dbsize]]
                    assert_no_unlogged_writes
                    come_back_from_log
                    r select $database
                    assert_equal {{by the job} 1} [list [r get tj:flushed] [r dbsize]]
                }
                r select 9
            }
        }

        # The engine would have to know the other module's commands.
        if {![dict exists $modules test-module]} {
            test "No node fails on the log of a server with jobs, $with" {
                lassign [log_service LOG.SNAPSHOT $::shard] offset
                assert {$offset > 0}
            }
        }
    }
}

durable_server {server {enable-module-command yes}} {
    test "What a job writes is in the log behind the command, of a module that is loaded while the node leads" {
        foreach key {a b} {
            r module load [test_library testjobs]
            r set tj:job:set:$key v
            r module unload tj
            r set other:$key v
        }
        assert_job_wrote {tj:job:set:a tj:job:set:b}
        assert_equal {v v} [r mget other:a other:b]
    }
}

foreach mode {sync async} {
    durable_server [list mode $mode test-jobs {} test-module {}] {
        test "What a module reads as it hears of a script's write makes no log begin anew, $mode" {
            r eval {
                server.call('set', 'tj:read:a', 'v')
                server.set_repl(server.REPL_NONE)
                server.call('rpush', 'tj:read:b', 'v')
                server.call('set', 'tj:write:c', 'v')
                return server.call('append', 'tj:read:b:text', 'v')
            } 0
            assert_no_unlogged_writes
            come_back_from_log
            assert_equal {v v v set} [list [r get tj:read:a] [r lindex tj:read:b 0] [r get tj:write:c] [r get tj:read:by-notification]]
            assert_equal v [r get tj:read:b:text]
        }

        test "Nor does what it reads as it hears of another module's write that the server does not tell whole, $mode" {
            hash_with_expired_field tj:read:hash
            hash_with_expired_field tj:read:of-script
            r tm.call hpexpire tj:read:hash 100000 fields 2 live dead
            r eval {return server.call('tm.call', 'hpexpire', 'tj:read:of-script', '100000', 'fields', '2', 'live', 'dead')} 0
            assert_no_unlogged_writes
            come_back_from_log
            foreach key {tj:read:hash tj:read:of-script} {assert_equal {v {}} [r hmget $key live dead]}
        }

        test "What a module writes past the stream as it hears of a write is found, that of a script as well, $mode" {
            foreach command {
                {set tj:silent:a v}
                {eval {return server.call('append', 'tj:silent:b', 'v')} 0}
                {rpush tj:silent:c v}
            } {
                set before [figure unlogged_writes]
                r {*}$command
                assert {[figure unlogged_writes] > $before}
            }
            assert_equal rpush [r get tj:written-silently]
            come_back_from_log
            assert_equal rpush [r get tj:written-silently]
        }
    }

    durable_server [list mode $mode test-jobs {}] {
        test "What a module changes as it hears of a command does not count as a change by that, $mode" {
            set key tj:write:hash
            hash_with_expired_field $key
            r pexpire $key 1000000
            r hdel $key live dead
            r hset $key new v
            assert_equal {{new v} -1} [list [r hgetall $key] [r pttl $key]]
            assert_no_unlogged_writes
            come_back_from_log
            assert_equal {{new v} -1} [list [r hgetall $key] [r pttl $key]]
        }
    }
}
