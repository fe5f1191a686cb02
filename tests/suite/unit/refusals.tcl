# What is refused at the lag limit and what is not, in every way in which a command can be run.

source $::env(SUITE_SUPPORT)/durability.tcl

set ::limit_ms 1000

proc wait_for_lag {milliseconds} {
    wait_for_condition 500 10 {[r durability.lag] >= $milliseconds} else {
        fail "the lag is [r durability.lag] ms"
    }
}

# Freezes the log, writes, and runs `code` when the limit has been reached; `before` while the limit is less than half a limit
# away.
proc at_the_limit {code {before {}}} {
    while_frozen {
        set writer [valkey_deferring_client]
        $writer set before-limit 1
        wait_for_lag [expr {$::limit_ms * 6 / 10}]
        uplevel 1 $before
        wait_for_condition 500 10 {[figure refusing_writes]} else {
            fail "writes are not refused"
        }
        uplevel 1 $code
    }
    assert_equal OK [read_reply $writer]
    $writer close
    wait_for_condition 500 10 {![figure refusing_writes]} else {
        fail "writes are refused at a lag of [r durability.lag] ms"
    }
}

proc open_transaction {client commands} {
    $client multi
    assert_equal OK [$client read]
    foreach command $commands {
        $client {*}$command
        assert_equal QUEUED [$client read]
    }
}

foreach mode {async sync} {
    durable_server [list mode $mode max-lag-ms $::limit_ms] {
        r set present value
        r rpush list a b
        r function load {#!lua name=library
            server.register_function('writes', function(keys) return server.call('set', keys[1], 'function') end)
            server.register_function{function_name='reads',
                callback=function(keys) return server.call('get', keys[1]) end, flags={'no-writes'}}}
        wait_until_durable

        test "At the limit every kind of write is refused ($mode)" {
            set dump [r dump present]
            at_the_limit {
                foreach command {
                    {set present other} {incr number} {restore copy 0 $dump} {flushall} {flushdb async} {blpop list 0}
                    {blmove list other left left 0} {bzpopmin none 0} {xreadgroup group g c streams s >} {expire present 100}
                    {getdel present} {rename present other} {copy present other} {sort list store other alpha}
                    {georadius geo 1 1 1 m store other} {pfadd hll a} {swapdb 0 1} {move present 1} {function flush}
                    {function delete library} {fcall writes 1 present} {eval {redis.call('set', KEYS[1], 1)} 1 present}
                    {setnx present other} {persist present} {unlink present}
                } {
                    assert_error {*CLUSTERDOWN durability: *limit 1000 ms*} {r {*}[subst -nobackslashes -nocommands $command]}
                }
                assert_equal value [r get present]
            }
            assert_equal value [r get present]
            assert_equal {a b} [r lrange list 0 -1]
        }

        test "At the limit reads, administration and messages go on ($mode)" {
            at_the_limit {
                assert_equal value [r get present]
                assert_equal value [r fcall_ro reads 1 present]
                assert_equal value [r fcall reads 1 present]
                assert_equal value [r eval {return redis.call('get', KEYS[1])} 1 present]
                assert_equal {a b} [r lrange list 0 -1]
                assert_equal 0 [r publish channel message]
                foreach command {
                    {config set hz 10} {config get hz} {client list} {client setname x} {acl list} {info} {slowlog get}
                    {object encoding present} {type present} {memory usage present} {latency reset} {command count}
                    {durability.status} {durability.lag} {wait 0 0} {function list} {role} {bgsave}
                } {
                    r {*}$command
                }
                # In sync, what looks at all keys waits for all writes.
                if {$mode eq "async"} {r scan 0; r dbsize}
                waitForBgsave r
            }
        }

        test "At the limit what is no command is answered as ever ($mode)" {
            at_the_limit {
                assert_error {ERR unknown command 'no-such-command'*} {r no-such-command}
                assert_error {ERR unknown subcommand 'nosuch'*} {r client nosuch}
            }
        }

        test "At the limit keys go on to expire ($mode)" {
            r set short value px 1200
            set expired [s expired_keys]
            at_the_limit {
                wait_for_condition 500 10 {[s expired_keys] > $expired} else {
                    fail "nothing expires"
                }
                # In sync, the answer waits for the deletion.
                if {$mode eq "async"} {assert_equal 0 [r exists short]}
            }
            assert_equal 0 [r exists short]
        }

        test "At the limit keys go on to be evicted ($mode)" {
            populate 100 evicted: 10000
            wait_until_durable
            r config set maxmemory-policy allkeys-random
            at_the_limit {
                set evicted [s evicted_keys]
                r config set maxmemory [expr {[s used_memory] - 200000}]
                wait_for_condition 500 10 {[s evicted_keys] > $evicted} else {
                    fail "nothing is evicted"
                }
            }
            r config set maxmemory 0
            r set present value
            r del list
            r rpush list a b
        } {2}

        test "A transaction with a write that was begun before the limit is refused beyond it, as a whole ($mode)" {
            set long_before [valkey_deferring_client]
            set shortly_before [valkey_deferring_client]
            open_transaction $long_before {{set half-a 1} {set half-b 1}}
            at_the_limit {
                foreach client [list $long_before $shortly_before] {
                    $client exec
                    assert_match {EXECABORT*} [read_any_reply $client]
                    $client ping
                    assert_equal PONG [read_reply $client]
                    $client close
                }
            } {
                open_transaction $shortly_before {{get present} {set half-c 1} {incr half-d}}
            }
            assert_equal 0 [r exists half-a half-b half-c half-d]
        }

        test "A transaction that reads goes on beyond the limit ($mode)" {
            set shortly_before [valkey_deferring_client]
            set reused [valkey_deferring_client]
            at_the_limit {
                $shortly_before exec
                assert_equal {value 1} [read_reply $shortly_before]
                $reused exec
                assert_equal value [read_reply $reused]
                open_transaction $reused {{get present}}
                $reused set present other
                assert_match {ERR unknown command 'CLUSTERDOWN durability: *(limit 1000 ms); reads go on'*} \
                    [read_any_reply $reused]
                $reused exec
                assert_match {EXECABORT*} [read_any_reply $reused]
            } {
                open_transaction $shortly_before {{get present} {exists present}}
                # What was queued and discarded does not count.
                open_transaction $reused {{set present other}}
                $reused discard
                assert_equal OK [read_reply $reused]
                open_transaction $reused {{get present}}
            }
            $shortly_before close
            $reused close
        }

        test "A script that is running when the limit is reached applies as a whole ($mode)" {
            set runner [valkey_deferring_client]
            set queued [valkey_deferring_client]
            open_transaction $queued {{exists present} {eval {
                redis.call('set', KEYS[1], 1)
                redis.call('set', KEYS[2], 1)
            } 2 queued-a queued-b}}
            at_the_limit {
                assert_error {*CLUSTERDOWN*} {
                    r eval {redis.call('set', KEYS[1], 1); redis.call('set', KEYS[2], 1)} 2 late-a late-b
                }
                $queued exec
                assert_match {EXECABORT*} [read_any_reply $queued]
            } {
                $runner eval {
                    redis.call('set', KEYS[1], 1)
                    local start = os.clock()
                    while os.clock() < start + 0.7 do end
                    redis.call('set', KEYS[2], 1)
                    return 'done'
                } 2 script-a script-b
            }
            assert_equal done [read_reply $runner]
            assert_equal {1 1} [r mget script-a script-b]
            assert_equal 0 [r exists late-a late-b queued-a queued-b]
            r del script-a script-b
            $runner close
            $queued close
        }

        test "Refusals are counted, and how long they lasted ($mode)" {
            set refusals [figure refusals]
            set time_ms [figure refused_time_ms]
            at_the_limit {
                set commands [figure refused_commands]
                for {set i 0} {$i < 5} {incr i} {catch {r set present other}}
                assert_equal [expr {$commands + 5}] [figure refused_commands]
                wait_for_condition 500 10 {[figure refused_time_ms] >= $time_ms + 200} else {
                    fail "the time does not count"
                }
            }
            assert_equal [expr {$refusals + 1}] [figure refusals]
            set time_ms [figure refused_time_ms]
            after 20
            assert_equal $time_ms [figure refused_time_ms]
        }

        test "Writes are refused as well when too many bytes wait, and the error says so ($mode)" {
            r config set durability.max-pending-bytes 1mb
            while_frozen {
                set writer [valkey_deferring_client]
                $writer set large [string repeat x 1200000]
                wait_for_condition 500 10 {[figure refusing_writes]} else {
                    fail "writes are not refused"
                }
                assert_error {CLUSTERDOWN durability: *bytes behind (limit 1048576 bytes)*} {r set present other}
                assert_equal value [r get present]
            }
            assert_equal OK [read_reply $writer]
            wait_until_durable
            r config set durability.max-pending-bytes 1gb
            assert_equal OK [r set present value]
            $writer close
        }
    }
}

durable_server {mode async server {repl-backlog-size 1mb}} {
    test "What waits for the log makes the server neither evict keys nor cut the tap off" {
        # Above what one command writes: what is beyond it never reaches the tap.
        r config set client-output-buffer-limit "replica 4mb 2mb 1"
        set value [string repeat x 1000000]
        populate 1000 kept: 1000
        for {set i 0} {$i < 5} {incr i} {r set overwritten $value}
        wait_until_durable
        r config set maxmemory-policy allkeys-random
        r config set maxmemory [expr {[s used_memory] + 6000000}]
        set reconnects [figure tap_reconnects]
        while_frozen {
            for {set i 0} {$i < 40} {incr i} {assert_equal OK [r set overwritten $value]}
            assert_morethan [figure pending_bytes] 40000000
        }
        assert_equal 0 [s evicted_keys]
        assert_equal 1001 [r dbsize]
        assert_equal $reconnects [figure tap_reconnects]
        wait_until_durable
    }
}
