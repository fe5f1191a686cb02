# LOG.AUDIT compares keys of the leader with what its log holds at the same offsets: it finds what differs, and nothing where
# nothing does.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/dataset.tcl

# A server that leads its shard and the log's engine, both with the module for tests, for as long as `code` runs. The log service is given
# `more` arguments.
proc audited_server {options code {more {}}} {
    new_log
    set configuration [tmpfile engine.conf]
    set channel [open $configuration w]
    puts $channel "loadmodule [test_module] type"
    close $channel
    dict set ::log_service arguments [list --valkey-conf [file normalize $configuration] {*}$more]
    start_log
    dict set options test-module type
    uplevel 1 [list start_server [server_options $options] "wait_until_leading\n$code"]
    kill_log
}

# The answer to LOG.AUDIT, as a dict.
proc audit {{keys 1000}} {
    set report [log_service LOG.AUDIT $::shard KEYS $keys]
    # Less than 1 % of the main thread's time; it rests after each step but the last.
    assert {([dict get $report leader_busy_us] - [dict get $report leader_longest_us]) * 100 <= [dict get $report leader_time_ms] * 1000}
    return $report
}

proc differences {report} {
    set found {}
    for {set at 0} {[dict exists $report difference$at]} {incr at} {lappend found [dict get $report difference$at]}
    return $found
}

proc audit_status {field} {
    dict get [log_service LOG.STATUS $::shard] audit_$field
}

# A process that writes keys and fields that expire after some milliseconds, in database 9, until it is killed.
proc start_expiring_load {} {
    set script {
        math.randomseed(tonumber(server.call('time')[2]))
        for at = 1, 20 do
            local key = 'expiring:' .. math.random(200)
            server.call('set', key, at, 'px', math.random(300))
            server.call('hset', 'h:' .. key, 'f' .. at, at)
            server.call('hpexpire', 'h:' .. key, math.random(300), 'fields', 1, 'f' .. at)
        end
    }
    start_load 0.01 eval $script 0
}

# A process that sends a command to database 9 again and again, with that many seconds in between, until it is killed.
proc start_load {pause args} {
    set client [list $::env(VALKEY_BIN_DIR)/valkey-cli -h [srv 0 host] -p [srv 0 port] -n 9 -r -1 -i $pause]
    set pid [exec {*}$client {*}$args > /dev/null 2>@1 &]
    send_data_packet $::test_server_fd server-spawned [list $pid valkey-cli $::curfile]
    return $pid
}

# What the leader alone does, while its stream says that everyone does it.
proc only_leader {args} {
    r tm.only_leader {*}$args
}

# Sees that an audit finds one difference, in that key of database 9, and that its words match.
proc assert_found {key words} {
    set report [audit]
    assert_equal 1 [dict get $report differences] [differences $report]
    assert_match "database 9, key \"$key\", offset *: *$words*" [lindex [differences $report] 0]
}

audited_server {} {
    test "An audit of a shard that is written to finds nothing: every type, TTLs of keys and fields, several databases" {
        foreach database {0 3 9} {
            r select $database
            r eval $::dataset 1 name
            r tm.type_set name:own value
        }
        r select 9
        r xgroup createconsumer name:x g idle
        r xreadgroup group g c2 streams name:x >
        r xclaim name:x g c3 0 1-1
        r xadd name:x 3-1 f v
        r xreadgroup group g c2 noack streams name:x >
        r xdel name:x 2-1
        r xgroup create name:x g2 $
        r setrange name:large 200000 end
        r eval {for at = 1, 1000 do server.call('rpush', KEYS[1], at) server.call('sadd', KEYS[2], at) end} 2 name:list name:members
        r hset name:expiring f 1 g 2 h 3
        r hpexpire name:expiring 1 fields 1 f
        r hexpire name:expiring 10000 fields 1 g
        set load [start_load 0.001 incr counter]
        set expiring [start_expiring_load]
        for {set round 0} {$round < 2} {incr round} {
            set report [audit]
            assert_equal 0 [dict get $report differences] [differences $report]
            assert {[dict get $report keys] > 50}
            assert {[dict get $report keys_of_modules] >= 3}
            assert {[dict get $report keys_in_part] >= 3}
        }
        kill_hard $load
        kill_hard $expiring
        assert {[audit_status keys] > 50}
        assert_equal {done 0 {} {}} [list [audit_status state] [audit_status differences] \
            [audit_status first_difference] [audit_status error]]
        assert {[audit_status time_ms] > 1700000000000}
        # So that the audits below have less to apply.
        log_service LOG.SNAPSHOT $::shard
    }

    test "An audit finds a key that was changed behind the log's back" {
        r flushall
        r mset a 1 b 2 c 3
        only_leader set b x
        assert_found b "its value differs"
        r set b 2
        only_leader append b longer
        assert_found b "its length is 7 on the leader and 1 in the log"
        r del b
        r rpush b 1 2 3
        only_leader set b x
        assert_found b "it is a string on the leader and a list in the log"
        assert_equal {done 1} [list [audit_status state] [audit_status differences]]
        assert_match "database 9, key \"b\", *" [audit_status first_difference]
    }

    test "An audit finds a key that only the leader has, and one that only the log has" {
        r flushall
        r mset a 1 b 2
        only_leader set c 3
        set found [differences [audit]]
        assert_equal 2 [llength $found] $found
        assert_match "database 9, offset *: there are 3 keys on the leader and 2 in the log" [lindex $found 0]
        assert_match "database 9, key \"c\", *: missing in the log" [lindex $found 1]
        only_leader del c b
        set found [differences [audit]]
        assert_equal 2 [llength $found] $found
        assert_match "database 9, key \"b\", *: missing on the leader" [lindex $found 1]
    }

    test "An audit finds a TTL that differs, of a key and of a field" {
        r flushall
        r set a 1 ex 10000
        r hset h f 1 g 2
        r hexpire h 10000 fields 2 f g
        only_leader pexpire a 20000000
        assert_found a "its TTL differs: it expires at * on the leader and at * in the log"
        r persist a
        only_leader pexpire a 20000000
        assert_found a "its TTL differs: it expires at * on the leader and never in the log"
        r del a
        only_leader hpexpire h 20000000 FIELDS 1 g
        assert_found h "the TTL of a field differs"
        r hexpire h 10000 fields 1 g
        only_leader hset h g 3
        assert_found h "its value differs"
    }

    test "An audit finds a consumer, a group and a pending entry that are missing" {
        r flushall
        r xadd x 1-1 f v
        r xgroup create x g 0
        only_leader xgroup createconsumer x g c
        assert_found x "its consumers, or what is pending for them, differ"
        r xgroup delconsumer x g c
        only_leader xgroup create x g2 0
        assert_found x "its consumer groups, or what is pending in them, differ"
        r del x
        r xadd x 1-1 f v
        r xgroup create x g 0
        r xreadgroup group g c streams x >
        only_leader xack x g 1-1
        assert_found x "its consumer groups, or what is pending in them, differ"
    }

    test "A key that expires between the leader's look and the engine's is no difference" {
        r flushall
        for {set key 0} {$key < 200} {incr key} {
            r set key:$key value px [expr {500 + 10 * $key}]
            r hset hash:$key f 1 g 2
            r hpexpire hash:$key [expr {500 + 10 * $key}] fields 1 f
        }
        set report [audit]
        assert_equal 0 [dict get $report differences] [differences $report]
    }

    test "A key that has expired is deleted from the log as well when the leader's look deletes it" {
        r flushall
        r debug set-active-expire 0
        for {set key 0} {$key < 20} {incr key} {r set key:$key value px 1}
        after 5
        for {set round 0} {$round < 2} {incr round} {
            set report [audit]
            assert_equal 0 [dict get $report differences] [differences $report]
        }
        assert_equal 0 [r dbsize]
        r debug set-active-expire 1
    }

    test "A name is shown and logged without control characters" {
        r flushall
        only_leader set "a\r\nb\x1b" 1
        assert_match {*key "a\\r\\nb\\x1b", offset*missing in the log} [lindex [differences [audit]] 1]
        assert_match {*the leader and the log differ: database 9, key "a\\r\\nb\\x1b", offset*} [exec cat [log_option directory].output]
    }

    test "What an audit costs the leader is told, and it is little" {
        r flushall
        r eval {for at = 1, 2000 do server.call('set', 'key:' .. at, at) end} 0
        set report [audit 2000]
        assert_equal 0 [dict get $report differences] [differences $report]
        assert {[dict get $report keys] >= 2000}
        puts "leader: [dict filter $report key leader_*], whole: [dict get $report time_ms] ms"
    }

    test "An audit starts from a snapshot as well" {
        r flushall
        r mset key:1 1 key:2 2 key:3 3
        log_service LOG.SNAPSHOT $::shard
        r set key:1 changed
        only_leader set key:2 changed
        assert_found key:2 "its length is 7 on the leader and 1 in the log"
    }

    test "Bad requests for an audit are refused with what is right" {
        assert_error "*KEYS must be 1 to 100000*" {log_service LOG.AUDIT $::shard KEYS 0}
        assert_error "*KEYS must be 1 to 100000*" {log_service LOG.AUDIT $::shard KEYS 100001}
        assert_error "*usage: LOG.AUDIT shard*" {log_service LOG.AUDIT $::shard 5}
        assert_error "*audit 7 is over*" {
            log_service LOG.AUDIT-RESULT $::shard 7 [dict get [log_service LOG.STATUS $::shard] epoch] [string repeat "\0" 7]
        }
        assert_error "*no batch of samples*" {log_service LOG.AUDIT-RESULT $::shard 7 1 x}
        make_shard another
        assert_error "*nobody leads this shard*" {log_service LOG.AUDIT another}
    }

    test "An audit whose leader stops leading ends with a reason" {
        set client [valkey $::host [log_option port] 1]
        set before [count_log_message 0 "keys sent for audit"]
        while_frozen {
            set writer [dirty_key a]
            $client LOG.AUDIT $::shard
            wait_for_condition 1000 10 {[count_log_message 0 "keys sent for audit"] > $before} else {
                fail "the leader sends no keys"
            }
            # What the leader has is not in the log yet.
            assert ![is_readable $client 300]
            release_lease
            assert {[is_readable $client 5000]}
            assert_error "*another node began to lead*" {$client read}
        }
        $client close
        $writer close
        wait_until_leading
    }

    test "An audit ends when who asked for it disconnects, also one that has not begun" {
        # Another one leads in name, and sends nothing; the server follows.
        hold_lease 9.1.2
        set client [valkey $::host [log_option port] 1]
        set waiting [valkey $::host [log_option port] 1]
        $client LOG.AUDIT $::shard
        wait_for_condition 3000 10 {[audit_status state] eq "running"} else {fail "no audit begins"}
        $waiting LOG.AUDIT $::shard
        # Behind what it waits for.
        $client ping
        $waiting close
        $client close
        wait_for_condition 3000 10 {[audit_status state] ne "running"} else {fail "the audit goes on"}
        assert_equal {failed {it was ended, as who had asked for it disconnected}} [list [audit_status state] [audit_status error]]
        # The other one left before its turn, so nothing is made known of it.
        log_service LOG.SNAPSHOT $::shard
        assert_match *disconnected* [audit_status error]
    }

    test "An audit that is not answered by its leader ends with a reason" {
        hold_lease 9.1.2
        assert_error "*the leader sent no keys for 15 s*" {log_service LOG.AUDIT $::shard}
        assert_equal failed [audit_status state]
        assert_match "*the leader sent no keys*" [audit_status error]
    }
}

audited_server {} {
    test "Without a valkey-server an audit is refused with what to do" {
        r set a 1
        assert_error {ERR no audit: cannot start /nowhere/valkey-server: *install valkey-server*--valkey-server} {
            log_service LOG.AUDIT $::shard
        }
        assert_equal failed [audit_status state]
    }
} {--valkey-server /nowhere/valkey-server}
