# Transactions, scripts and functions: held if they wrote, or read what is not durable.

source $::env(SUITE_SUPPORT)/durability.tcl

set put_library {#!lua name=lib
    server.register_function('put', function(keys, args) return server.call('set', keys[1], args[1]) end)
    server.register_function{function_name='look', callback=function(keys) return server.call('get', keys[1]) end, flags={'no-writes'}}
    server.register_function('undeclared', function() return server.call('set', 'hidden', 'v') end)
    server.register_function('half', function(keys) server.call('set', keys[1], 'v'); error('no good') end)
}

# Sends the commands of a transaction and reads everything but the last reply.
proc send_transaction {client args} {
    $client multi
    assert_equal OK [read_reply $client]
    foreach command $args {
        $client {*}$command
        assert_equal QUEUED [read_reply $client]
    }
    $client exec
}

durable_server {} {
    r set clean value
    r function load $put_library
    set get {return server.call('get', KEYS[1])}
    set put {return server.call('set', KEYS[1], ARGV[1])}
    set get_sha [r script load $get]
    set put_sha [r script load $put]

    # Name, command, the key that it writes, its reply.
    foreach {name command key expected} [list \
        "EVAL, key declared" [list eval $put 1 key v] key OK \
        "EVAL, key not declared" {eval {return server.call('set', 'undeclared', 'v')} 0} undeclared OK \
        "EVAL, ignoring its writes" {eval {server.call('incr', KEYS[1]); return 'done'} 1 counter} counter done \
        "EVALSHA, key declared" [list evalsha $put_sha 1 key v] key OK \
        "FCALL, key declared" {fcall put 1 key v} key OK \
        "FCALL, key not declared" {fcall undeclared 0} hidden OK \
        "EVAL that fails after its first write" \
            {eval {server.call('set', KEYS[1], 'v'); error('no good')} 1 key} key {*no good*} \
        "EVAL that meets a wrong type after its first write" \
            {eval {server.call('set', KEYS[1], 'v'); return server.call('lpush', KEYS[1], 'a')} 1 key} key WRONGTYPE* \
        "FCALL that fails after its first write" {fcall half 1 key} key {*no good*}] {
        test "A script that writes is held, and its key is dirty: $name \[case 3\]" {
            r del $key
            set writer [valkey_deferring_client]
            set reader [valkey_deferring_client]
            while_frozen {
                $writer {*}$command
                wait_for_held 1
                assert_silent $writer
                assert_not_held value {get clean}
                $reader exists $key
                wait_for_held 2
                assert_silent $reader
            }
            assert_match $expected [read_any_reply $writer]
            assert_equal 1 [read_reply $reader]
            $writer close
            $reader close
        }
    }

    foreach {name command} [list \
        "EVAL" [list eval $get 1] \
        "EVAL_RO" [list eval_ro $get 1] \
        "EVALSHA" [list evalsha $get_sha 1] \
        "EVALSHA_RO" [list evalsha_ro $get_sha 1] \
        "FCALL" {fcall look 1} \
        "FCALL_RO" {fcall_ro look 1}] {
        test "A script that only reads is held if its key is dirty, and not if it is clean: $name \[case 3, 17\]" {
            while_dirty dirty {
                assert_not_held value [list {*}$command clean]
                set reader [valkey_deferring_client]
                $reader {*}$command dirty
                wait_for_held 2
                assert_silent $reader
            }
            assert_equal dirty [read_reply $reader]
            $reader close
        }
    }

    test "A script that reads an undeclared dirty key is held \[case 17\]" {
        while_dirty dirty {
            set reader [valkey_deferring_client]
            $reader eval {return server.call('get', 'dir' .. 'ty')} 0
            wait_for_held 2
            assert_silent $reader
        }
        assert_equal dirty [read_reply $reader]
        $reader close
    }

    test "A script that fails after it read a dirty key is held \[case 17\]" {
        while_dirty dirty {
            set reader [valkey_deferring_client]
            $reader eval {error(server.call('get', 'dirty'))} 0
            wait_for_held 2
            assert_silent $reader
        }
        assert_match *dirty* [read_any_reply $reader]
        $reader close
    }

    test "A script that touches no key is not held, nor is what it leaves to the next command \[case 3\]" {
        while_dirty dirty {
            assert_not_held 42 {eval {return 42} 0}
            set reader [valkey_deferring_client]
            $reader eval {return server.call('get', 'dirty')} 0
            wait_for_held 2
            # What that script depends on is not taken for another client's.
            assert_not_held value {get clean}
            assert_not_held 42 {eval {return 42} 0}
        }
        assert_equal dirty [read_reply $reader]
        $reader close
    }

    foreach version {2 3} {
        test "EXEC with writes is held as a whole (RESP$version) \[case 2\]" {
            set client [valkey_deferring_client]
            $client hello $version
            read_reply $client
            r del hash
            while_frozen {
                send_transaction $client {hset hash f v} {hgetall hash} {get clean}
                wait_for_held 1
                assert_silent $client
            }
            assert_equal {1 {f v} value} [read_reply $client]
            $client close
        }
    }

    test "EXEC with a script that writes, and one that fails inside, are held \[case 2, 3\]" {
        set client [valkey_deferring_client]
        while_frozen {
            send_transaction $client {eval {return server.call('set', 'inside', 'v')} 0} {lpush clean x}
            wait_for_held 1
            assert_silent $client
        }
        assert_match WRONGTYPE* [read_any_reply $client]
        assert_equal v [r get inside]
        $client close
    }

    test "EXEC that only read clean keys is not held, one that read a dirty key is \[case 2, 17\]" {
        while_dirty dirty {
            set client [valkey_deferring_client]
            send_transaction $client {get clean} {exists clean}
            assert_equal {value 1} [read_reply $client]
            send_transaction $client {get clean} {get dirty}
            wait_for_held 2
            assert_silent $client
        }
        assert_equal {value dirty} [read_reply $client]
        $client close
    }

    test "DISCARD is not held \[case 2\]" {
        set client [valkey_deferring_client]
        while_dirty dirty {
            foreach command {multi {set clean other} discard} {$client {*}$command}
            foreach expected {OK QUEUED OK} {assert_equal $expected [read_reply $client]}
            assert_equal 1 [figure held_clients]
        }
        assert_equal value [r get clean]
        $client close
    }
}

# The loop is entered again within the command: what is held must not slip out there.
foreach {kind command kill} {
    script   {eval {while true do end} 0}   {script kill}
    function {fcall spin 0}                 {function kill}
} {
    foreach config {busy-reply-threshold lua-time-limit} {
        durable_server {} {
            r config set $config 10
            r function load {#!lua name=busy
                server.register_function{function_name='spin', callback=function() while true do end end, flags={'no-writes'}}}

            test "No held reply leaves while a $kind is busy, nor at its end ($config) \[case 10\]" {
                set busy [valkey_deferring_client]
                set reader [valkey_deferring_client]
                while_frozen {
                    set writer [dirty_key key]
                    $reader get key
                    wait_for_held 2
                    $busy {*}$command
                    wait_for_condition 500 10 {[catch {r ping} error] && [string match BUSY* $error]} else {
                        fail "the script does not run"
                    }
                    assert {![is_readable $writer 50]}
                    assert {![is_readable $reader 1]}
                    r {*}$kill
                    assert_match {*killed*} [read_any_reply $busy]
                    assert_silent $writer
                    assert_silent $reader
                    assert_equal 2 [figure held_clients]
                }
                assert_equal OK [read_reply $writer]
                assert_equal dirty [read_reply $reader]
                foreach client [list $writer $reader $busy] {$client close}
            }

            test "What becomes durable while a $kind is busy is answered in the end ($config) \[case 10\]" {
                set busy [valkey_deferring_client]
                while_frozen {
                    set writer [dirty_key key]
                    $busy {*}$command
                    wait_for_condition 500 10 {[catch {r ping}]} else {
                        fail "the script does not run"
                    }
                }
                r {*}$kill
                assert_equal OK [read_reply $writer]
                assert_match {*killed*} [read_any_reply $busy]
                wait_for_held 0
                $writer close
                $busy close
            }
        }
    }
}
