# What the server itself would leave out of the replication stream is in the log all the same, or was never acknowledged.

source $::env(SUITE_SUPPORT)/durability.tcl
source $::env(SUITE_SUPPORT)/dataset.tcl
source $::env(SUITE_SUPPORT)/shard.tcl

# The server dies at this moment, and comes back with what the log has.
proc come_back_from_log {} {
    crash_and_restart_server
    wait_until_leading
    r select 9
}

proc assert_no_unlogged_writes {} {
    assert_equal 0 [figure unlogged_writes]
    assert_equal {} [figure last_unlogged_command]
}

set hide {server.set_repl(server.REPL_NONE);}

foreach mode {sync async} {
    durable_server [list mode $mode] {
        test "What a script writes is in the log, whatever it says with set_repl, $mode" {
            r function load "#!lua name=hiding
                server.register_function('hide', function(keys, args) server.set_repl(server.REPL_NONE); return server.call('set', keys\[1\], args\[1\]) end)"
            foreach flags {NONE AOF REPLICA SLAVE ALL} {
                assert_equal OK [r eval "server.set_repl(server.REPL_$flags); return server.call('set', KEYS\[1\], 'v')" 1 eval:$flags]
            }
            assert_equal OK [r fcall hide 1 fcall v]
            set sha [r script load "$hide return server.call('set', KEYS\[1\], ARGV\[1\])"]
            assert_equal OK [r evalsha $sha 1 evalsha v]
            # Between two writes that are not hidden, of which one needs it.
            r eval "server.call('set', KEYS\[1\], 'first'); $hide server.call('append', KEYS\[1\], '-second')
                server.set_repl(server.REPL_ALL); server.call('append', KEYS\[1\], '-third')" 1 between
            # Rewritten by the server, as it takes all there is.
            r sadd taken a b c
            assert_equal 3 [llength [r eval "$hide return server.call('spop', KEYS\[1\], 100)" 1 taken]]
            r multi
            r set in:multi v
            r eval "$hide return server.call('append', KEYS\[1\], 'w')" 1 in:multi
            r append in:multi x
            r exec
            r eval "$hide server.call('set', KEYS\[1\], 'v'); server.set_repl(server.REPL_ALL)
                return server.call('rename', KEYS\[1\], KEYS\[2\])" 2 old renamed
            set client [valkey_deferring_client]
            for {set i 0} {$i < 20} {incr i} {
                $client set pipe $i
                $client eval "$hide return server.call('append', KEYS\[1\], '!')" 1 pipe
                $client append pipe ?
            }
            for {set i 0} {$i < 60} {incr i} {$client read}
            $client close
            assert_no_unlogged_writes
            wait_until_durable
            come_back_from_log
            foreach flags {NONE AOF REPLICA SLAVE ALL} {assert_equal v [r get eval:$flags]}
            foreach {key value} {fcall v evalsha v between first-second-third in:multi vwx renamed v pipe 19!?} {
                assert_equal $value [r get $key]
            }
            assert_equal {0 0} [list [r exists old] [r exists taken]]
        }

        test "A hidden FLUSHALL is in the log where it saves an empty RDB, which makes the server count changes anew, $mode" {
            r set flushed v
            r config set save "3600 1"
            assert_equal OK [r eval "$hide return server.call('flushall')" 0]
            r config set save ""
            wait_until_durable
            come_back_from_log
            assert_equal 0 [r dbsize]
        }

        test "A snapshot can be made of a log whose scripts hid what they wrote, $mode" {
            lassign [log_service LOG.SNAPSHOT $::shard] offset
            assert {$offset > 0}
        }

        test "What a script hides is in the log as the server would put it there, not as the script said it, $mode" {
            fill_dataset r d
            r eval "$hide
                server.call('set', 'relative', 'v', 'ex', 1000)
                server.call('getex', 'd:s', 'ex', 1000)
                server.call('hexpire', 'd:h', 1000, 'fields', 1, 'f1')
                server.call('incrbyfloat', 'd:n', '0.1')
                server.call('sadd', 'many', 1, 2, 3, 4, 5, 6, 7, 8, 9)
                server.call('spop', 'many')
                server.call('spop', 'many', 3)
                server.call('xadd', 'd:x', '*', 'f', 'v')
                server.call('xreadgroup', 'group', 'g', 'c', 'count', 1, 'streams', 'd:x', '>')
                server.call('xclaim', 'd:x', 'g', 'c2', 0, '1-1')
                server.call('xautoclaim', 'd:x', 'g', 'c3', 0, '0', 'count', 1)
                server.call('expire', 'd:z', -1)
                server.call('sort', 'd:l', 'alpha', 'store', 'sorted')
                server.call('getdel', 'd:t')
                server.call('select', 3)
                server.call('set', 'elsewhere', 'v')" 0
            r select 9
            assert_no_unlogged_writes
            wait_until_durable
            set expected [list [debug_digest] [r pexpiretime relative] [r pexpiretime d:s] [r hpexpiretime d:h fields 1 f1]]
            come_back_from_log
            assert_equal $expected \
                [list [debug_digest] [r pexpiretime relative] [r pexpiretime d:s] [r hpexpiretime d:h fields 1 f1]]
            assert_equal 5 [r scard many]
            r select 3
            assert_equal v [r get elsewhere]
            r select 9
        }

        test "DEBUG POPULATE is done by writes, $mode" {
            r set populated:1 before
            assert_equal OK [r debug populate 3 populated 12]
            assert_equal OK [r debug populate 2]
            r multi
            r debug populate 1 in:multi
            assert_equal OK [r exec]
            assert_no_unlogged_writes
            wait_until_durable
            come_back_from_log
            assert_equal "value:0\0\0\0\0\0" [r get populated:0]
            assert_equal before [r get populated:1]
            assert_equal "value:2\0\0\0\0\0" [r get populated:2]
            assert_equal {value:0 value:1 value:0} [r mget key:0 key:1 in:multi:0]
        }

        test "What would exchange the data behind the log's back is refused, $mode" {
            assert_error "*DEBUG RELOAD NOSAVE would exchange*durability.mode off*" {r debug reload nosave}
            assert_error "*DEBUG RELOAD NOSAVE would exchange*" {r debug reload merge noflush nosave}
            assert_error "*DEBUG LOADAOF would exchange*" {r debug loadaof}
            assert_error "*DEBUG REPLICATE would write*" {r debug replicate set k v}
            r multi
            assert_error "*DEBUG RELOAD NOSAVE would exchange*" {r debug reload nosave}
            assert_error EXECABORT* {r exec}
            assert_equal OK [r debug reload]
            assert_equal before [r get populated:1]
        }

        test "A hash field that has expired has not come back after a restart, $mode" {
            r debug set-active-expire 0
            set commands {
                {hpersist KEY fields 2 live dead}
                {hexpire KEY 1000 fields 2 live dead}
                {hpexpire KEY 1000000 nx fields 3 live dead missing}
                {hexpireat KEY 9999999999 fields 2 dead live}
                {hpexpireat KEY 9999999999999 fields 2 live dead}
            }
            foreach how {plain multi script hidden} {
                set number 0
                foreach command $commands {
                    set key $how:[incr number]
                    r hset $key live v dead v third v
                    if {[lindex $command 0] eq "hpersist"} {r hexpire $key 1000 fields 1 live}
                    r hpexpire $key 1 fields 1 dead
                }
            }
            wait_for_condition 100 10 {[r hget hidden:5 dead] eq ""} else {fail "no field expires"}
            foreach how {plain multi script hidden} {
                set number 0
                foreach command $commands {
                    set key $how:[incr number]
                    set command [string map [list KEY $key] $command]
                    switch $how {
                        plain {r {*}$command}
                        multi {r multi; r {*}$command; r exec}
                        script {r eval {return server.call(unpack(ARGV))} 0 {*}$command}
                        hidden {r eval "$hide return server.call(unpack(ARGV))" 0 {*}$command}
                    }
                    assert_equal "" [r hget $key dead]
                }
            }
            assert_no_unlogged_writes
            wait_until_durable
            come_back_from_log
            foreach how {plain multi script hidden} {
                for {set number 1} {$number <= 5} {incr number} {
                    set key $how:$number
                    assert_equal [list $key "" v] [list $key [r hget $key dead] [r hget $key live]]
                    set ttl [r hpexpiretime $key fields 1 live]
                    if {$number == 1} {assert_equal -1 $ttl} else {assert {$ttl > 0}}
                }
            }
        }

        test "What a command meets of expired hash fields is the same after a restart, $mode" {
            r debug set-active-expire 0
            foreach command {hdel hgetdel copy multi script} {
                r hset $command live v
                r hpexpire $command 1 fields 1 live
                r hset $command live v dead v
                r hpexpire $command 1 fields 1 dead
                r pexpire $command 1000000
                r hset kept:$command live v dead v
                r hpexpire kept:$command 1 fields 1 dead
            }
            wait_for_condition 100 10 {[r hget kept:script dead] eq ""} else {fail "no field expires"}
            r hdel hdel live dead
            r hdel kept:hdel dead
            r hgetdel hgetdel fields 2 live dead
            r hgetdel kept:hgetdel fields 1 dead
            r copy copy copied
            r copy kept:copy kept:copied
            # All that it holds has expired.
            r hset all:expired dead v
            r hpexpire all:expired 1 fields 1 dead
            r set all:copied before
            wait_for_condition 100 10 {[r hget all:expired dead] eq ""} else {fail "no field expires"}
            r copy all:expired all:copied replace
            r copy copied all:copied db 5
            r multi
            r hdel multi live dead
            r exec
            r eval {return server.call('hdel', 'script', 'live', 'dead')} 0
            foreach command {hdel hgetdel multi script} {r hset $command new v}
            set keys {hdel hgetdel copy copied multi script kept:hdel kept:hgetdel kept:copy kept:copied kept:multi kept:script all:expired all:copied}
            set expected [lmap key $keys {list $key [r hgetall $key] [r pexpiretime $key] [r hpexpiretime $key fields 1 dead]}]
            foreach command {hdel hgetdel multi script} {assert_equal -1 [r pexpiretime $command]}
            assert_no_unlogged_writes
            wait_until_durable
            come_back_from_log
            assert_equal $expected \
                [lmap key $keys {list $key [r hgetall $key] [r pexpiretime $key] [r hpexpiretime $key fields 1 dead]}]
            # It is not there, but for what may be done with it.
            r hpersist copied fields 1 dead
            r hpersist kept:copied fields 1 dead
            assert_equal {{} {}} [list [r hget copied dead] [r hget kept:copied dead]]
        }

        test "A consumer that got nothing is still there after a restart, $mode" {
            r xgroup create s g $ mkstream
            r xgroup create t g $ mkstream
            r xadd u 1-1 f v
            r xgroup create u g 0
            r xreadgroup group g plain streams s >
            r xreadgroup group g history streams s 0
            r xreadgroup group g several count 1 streams s t u > > >
            r xreadgroup group g noack noack streams s >
            # Names may be of any bytes.
            r xgroup create "z\x00\xff" g $ mkstream
            r xreadgroup group g "c\x00\xff" streams "z\x00\xff" >
            r multi
            r xreadgroup group g multi streams s >
            r exec
            r eval {return server.call('xreadgroup', 'group', 'g', 'script', 'streams', 's', '>')} 0
            r eval "$hide return server.call('xreadgroup', 'group', 'g', 'hidden', 'streams', 's', '>')" 0
            set blocked [valkey_deferring_client]
            $blocked xreadgroup group g blocked block 0 streams s >
            wait_for_blocked_client
            r xautoclaim s g autoclaim 0 0
            r xclaim s g claim 0 1-1
            assert_no_unlogged_writes
            set expected [lmap key {s t u} {lsort [lmap consumer [r xinfo consumers $key g] {dict get $consumer name}]}]
            assert_equal {{autoclaim blocked claim hidden history multi noack plain script several} several several} $expected
            wait_until_durable
            come_back_from_log
            assert_equal $expected \
                [lmap key {s t u} {lsort [lmap consumer [r xinfo consumers $key g] {dict get $consumer name}]}]
            assert_equal "c\x00\xff" [dict get [lindex [r xinfo consumers "z\x00\xff" g] 0] name]
            $blocked close
        }
    }
}

foreach mode {sync async} {
    durable_server [list mode $mode] {
        test "A string that BITFIELD made or made longer before it failed is there after a restart, $mode" {
            r setbit longer 7 1
            r bitfield made overflow fail incrby i5 100 100
            r bitfield longer overflow fail set i5 100 100
            r multi
            r bitfield in:multi overflow fail incrby i5 100 100
            r exec
            r eval {server.call('bitfield', 'in:script', 'overflow', 'fail', 'incrby', 'i5', 100, 100)} 0
            # Nothing of these is to be in the log.
            r set text v
            r lpush list a
            assert_error WRONGTYPE* {r bitfield list overflow fail incrby i5 100 100}
            assert_error *syntax* {r bitfield text overflow fail incrby}
            assert_equal {14 14 14 14} [lmap key {made longer in:multi in:script} {r strlen $key}]
            assert_no_unlogged_writes
            wait_until_durable
            come_back_from_log
            assert_equal {14 14 14 14} [lmap key {made longer in:multi in:script} {r strlen $key}]
            assert_equal {1 1} [list [r strlen text] [r llen list]]
        }

        test "What SORT stores by other keys is the same after a restart, $mode" {
            r debug set-active-expire 0
            r rpush numbers 1 2 3
            foreach field {gone text} {foreach number {1 2 3} {r hset h$number $field [expr {9 - $number}]}}
            r hset h1 text text words words
            r hpexpire h1 1 fields 2 gone text
            # Of a sorted set whose elements are equal by what they are sorted by.
            for {set i 0} {$i < 50} {incr i} {r zadd members $i member:$i}
            for {set i 0} {$i < 2500} {incr i} {r rpush long $i}
            wait_for_condition 100 10 {[r hmget h1 gone text] eq {{} {}}} else {fail "no field expires"}
            set commands {
                {sort numbers by h*->gone store KEY:by}
                {sort numbers by h*->text store KEY:text}
                {sort numbers get h*->gone get # store KEY:get}
                {sort members by missing:* alpha store KEY:members}
                {sort long by nosort get # get h*->gone store KEY:long}
                {sort missing by h*->gone store KEY:none}
            }
            foreach how {plain multi script hidden} {
                foreach command $commands {
                    set command [string map [list KEY $how] $command]
                    r setex [lindex $command end] 1000 before
                    switch $how {
                        plain {r {*}$command}
                        multi {r multi; r {*}$command; r exec}
                        script {r eval {return server.call(unpack(ARGV))} 0 {*}$command}
                        hidden {r eval "$hide return server.call(unpack(ARGV))" 0 {*}$command}
                    }
                }
            }
            # Over the list that is sorted, and without anything in its place.
            r copy numbers self
            r sort self by h*->gone store self
            assert_error *converted* {r sort numbers by h*->text get h*->gone store self limit 0 3 by h*->words}
            assert_equal 3 [llength [r sort numbers by h*->text]]
            assert_equal {1 3 2} [r lrange plain:text 0 -1]
            assert_equal {{} 1 7 2 6 3} [r lrange plain:get 0 -1]
            proc sorted {} {
                set all [list [r lrange self 0 -1]]
                foreach how {plain multi script hidden} {
                    foreach key {by text get members long none} {lappend all [r lrange $how:$key 0 -1] [r ttl $how:$key]}
                }
                return $all
            }
            set expected [sorted]
            assert_equal {5000 0} [list [r llen hidden:long] [r exists hidden:none]]
            assert_no_unlogged_writes
            wait_until_durable
            lassign [log_service LOG.SNAPSHOT $::shard] offset
            assert {$offset > 0}
            come_back_from_log
            assert_equal $expected [sorted]
        }

        test "A hash all of whose fields have expired keeps its time to live where HSETEX KEEPTTL sets them, $mode" {
            r debug set-active-expire 0
            foreach how {plain multi script hidden some} {
                r hset time:$how a 1 b 2
                r hpexpire time:$how 1 fields 2 a b
                r expire time:$how 1000
            }
            wait_for_condition 100 10 {[r hmget time:some a b] eq {{} {}}} else {fail "no field expires"}
            r hsetex time:plain keepttl fields 2 a 3 b 4
            r multi
            r hsetex time:multi fnx keepttl fields 3 a 3 b 4 c 5
            r exec
            r eval {return server.call('hsetex', 'time:script', 'keepttl', 'fields', 2, 'a', 3, 'b', 4)} 0
            r eval "$hide return server.call('hsetex', 'time:hidden', 'keepttl', 'fields', 2, 'a', 3, 'b', 4)" 0
            r hsetex time:some keepttl fields 1 a 3
            proc kept {} {
                lmap how {plain multi script hidden some} {list [r pexpiretime time:$how] [r hmget time:$how a b c] [r httl time:$how fields 2 a b]}
            }
            set expected [kept]
            assert {[lindex $expected 0 0] > 0}
            assert_no_unlogged_writes
            wait_until_durable
            come_back_from_log
            assert_equal $expected [kept]
        }

        test "What MSETEX XX set is gone after a restart where its time was over, $mode" {
            foreach key {one two plain multi script hidden future} {r set over:$key before}
            r msetex 3 over:plain v over:one v over:one 7 xx pxat 1000
            r multi
            r msetex 3 over:multi v over:one v over:one 7 nx exat 1
            r msetex 3 over:multi v over:two v over:two 7 exat 1 xx
            r exec
            r set over:two before
            r eval {return server.call('msetex', 3, 'over:script', 'xx', 'over:two', 'v', 'over:two', 7, 'xx', 'pxat', 1000)} 0
            r set over:two before
            r eval "$hide return server.call('msetex', 3, 'over:hidden', 'xx', 'over:two', 'v', 'over:two', 7, 'xx', 'pxat', 1000)" 0
            r msetex 1 over:future after xx pxat 9999999999999
            assert_equal 9999999999999 [r pexpiretime over:future]
            assert_no_unlogged_writes
            wait_until_durable
            come_back_from_log
            foreach key {one two plain multi script hidden} {assert_equal [list $key 0] [list $key [r exists over:$key]]}
            assert_equal {after 9999999999999} [list [r get over:future] [r pexpiretime over:future]]
        }

        test "What a command found is in the log where its time to live passes before the command is in the stream, $mode" {
            r debug set-active-expire 0
            r config set slowlog-log-slower-than 0
            r eval {for i = 1, 100000 do server.call('zadd', KEYS[1], i, 'member' .. i) end} 1 source
            set fields {}
            for {set i 0} {$i < 100000} {incr i} {lappend fields field$i $i}
            set client [valkey_deferring_client]
            # Runs the command over `key`, whose time to live passes while it runs.
            proc outlives {client make key command} {
                for {set try 0} {$try < 300} {incr try} {
                    {*}$make
                    r slowlog reset
                    set ttl_ms [expr {2 + $try % 60}]
                    set behind [format_command pexpire $key $ttl_ms]
                    $client deferred 1
                    $client write $behind
                    $client write [format_command {*}$command]
                    $client flush
                    assert_equal 1 [$client read]
                    set found [$client read]
                    foreach entry [r slowlog get -1] {
                        if {[string tolower [lindex $entry 3 0]] eq [lindex $command 0] && [lindex $entry 2] > $ttl_ms * 1000 && $found > 0} {
                            return $found
                        }
                    }
                }
                fail "it never takes long enough"
            }
            # Both find nothing once it has passed.
            set stored [outlives $client {r copy source ranged replace} ranged {zrangestore stored ranged - + bylex}]
            set set_ [outlives $client [list r hset kept:time {*}$fields] kept:time \
                [list hsetex kept:time fxx keepttl fields 100000 {*}$fields]]
            $client close
            r config set slowlog-log-slower-than 10000
            assert_equal {100000 1} [list $stored $set_]
            assert_no_unlogged_writes
            wait_until_durable
            come_back_from_log
            assert_equal {100000 0 0} [list [r zcard stored] [r exists ranged] [r exists kept:time]]
        }

        test "How often a pending entry was delivered is known after a restart, $mode" {
            foreach id {1-1 2-1 3-1 4-1} {r xadd x $id f v}
            r xgroup create x g 0
            r xreadgroup group g c streams x >
            r xdel x 2-1
            r xreadgroup group g c streams x 0
            r xreadgroup group g c count 2 streams x 1-1
            r multi
            r xreadgroup group g c streams x 3
            r exec
            r eval {server.call('xreadgroup', 'group', 'g', 'c', 'streams', 'x', '3-1')} 0
            set deliveries [lmap entry [r xpending x g - + 10] {list [lindex $entry 0] [lindex $entry 3]}]
            assert_equal {{1-1 2} {2-1 1} {3-1 4} {4-1 4}} $deliveries
            wait_until_durable
            come_back_from_log
            assert_equal $deliveries [lmap entry [r xpending x g - + 10] {list [lindex $entry 0] [lindex $entry 3]}]
            assert {[lindex [r xpending x g 4-1 4-1 1] 0 2] < 20000}
        }
    }
}

# What modules write past the stream.
foreach mode {sync async} {
    durable_server [list mode $mode test-module {}] {
        # A replicated write of the module is answered, and nothing is counted.
        proc assert_found {count command} {
            assert_equal $count [figure unlogged_writes]
            assert_equal $command [figure last_unlogged_command]
            wait_for_condition 1500 10 {[figure pending_bytes] == 0 && [figure durable_offset] > 0} else {
                fail "the log does not start anew: [figure last_error]"
            }
        }

        test "A module's write that is replicated is no unlogged one, $mode" {
            assert_equal OK [r tm.set_verbatim verbatim v]
            r multi
            r set in:multi 1
            r tm.set_verbatim in:multi 2
            r exec
            r eval {server.call('set', 'in:script', 1); return server.call('tm.set_verbatim', 'in:script', 2)} 0
            r rpush list a b
            assert_equal a [r tm.blockpop list]
            assert_no_unlogged_writes
        }

        test "A module's write that is not replicated is counted, and in the log before it is acknowledged, $mode" {
            set seeds [figure seeds]
            assert_equal OK [r tm.call_silent silent v]
            if {$mode eq "sync"} {
                # It is answered, so it is there whatever dies.
                come_back_from_log
                assert_equal v [r get silent]
                wait_until_leading
                assert_equal OK [r tm.call_silent silent w]
            }
            assert_found 1 tm.call_silent
            assert_equal [expr {($mode eq "sync" ? 0 : $seeds) + 1}] [figure seeds]
            come_back_from_log
            assert_equal [expr {$mode eq "sync" ? "w" : "v"}] [r get silent]
        }

        test "It is found in a transaction, in a script and beside other writes, $mode" {
            r multi
            r set beside v
            r tm.call_silent multi v
            r set behind v
            r exec
            assert_found 1 tm.call_silent
            r eval {server.call('set', 'beside', 'w'); server.call('tm.call_silent', 'script', 'v'); server.call('rename', 'script', 'renamed')} 0
            assert_found 2 tm.call_silent
            come_back_from_log
            assert_equal {w v v v} [r mget beside multi behind renamed]
            assert_equal 0 [figure unlogged_writes]
        }

        test "What a module writes on its own account is found, $mode" {
            r tm.timer 1
            wait_for_condition 500 10 {[r tm.own_account] eq "+OK"} else {fail "the timer does not write"}
            assert_found 1 {}
            come_back_from_log
            assert_equal own [r get tm:timer]
            # Within a command of a client.
            r set tm:notify:1 v
            assert_found 1 set
            come_back_from_log
            assert_equal own [r get tm:notified]
        }

        test "What a module's thread writes without replicating it is found, $mode" {
            set waiter [valkey_deferring_client]
            $waiter tm.thread_silent thread v
            wait_for_blocked_client
            r tm.go
            assert_equal OK [read_reply $waiter]
            $waiter close
            assert_found 1 {}
            come_back_from_log
            assert_equal v [r get thread]
        }

        test "The log does not start anew for each of many such writes, $mode" {
            set seeds [figure seeds]
            set client [valkey_deferring_client]
            for {set i 0} {$i < 50} {incr i} {$client tm.call_silent many:$i v}
            for {set i 0} {$i < 50} {incr i} {assert_equal OK [$client read]}
            $client close
            assert_found 50 tm.call_silent
            assert {[figure seeds] <= $seeds + 2}
            come_back_from_log
            assert_equal v [r get many:49]
        }
    }
}

# The framework's own clients select one as well.
set ::singledb 1
durable_server {server {databases 1}} {
    test "With one database as well, what a script hides is in the log" {
        r eval "$hide return server.call('set', 'k', 'v')" 0
        crash_and_restart_server
        wait_until_leading
        assert_equal v [r get k]
    }
}
set ::singledb 0

shard_of 2 {test-module {}} {
    test "Followers have what a module wrote past an idle leader's stream, before it is acknowledged" {
        set leader [wait_for_shard]
        set other [lindex [lsearch -all -inline -not -exact [nodes] $leader] 0]
        on $leader set before v
        wait_for_condition 500 10 {[on $other get before] eq "v"} else {fail "the follower does not get a write"}
        assert_equal OK [on $leader tm.call_silent silent v]
        kill_node $leader
        assert_equal $other [wait_for_leader $leader]
        assert_equal {v v} [on $other mget before silent]
    }
}
